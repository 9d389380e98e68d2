//! The task and the questions around the time of leases: whoever leads the coordinator's group ends what is past its time, and keeps
//! alive what its holder asks for, from whatever node. Called by `embedded`.

use super::{Command, Inner, LeaseChange, Outcome, Question, leases::Kept};
use crate::{
    coordination::CoordinationError,
    raft::{Group, ProposeError, Role, Route},
    rt::time,
};
use std::{sync::Weak, time::Duration};

/// How often the leader looks for leases whose time is up.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long a question waits, in all, for a leader to be found.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Ends leases while this node leads, until the coordinator is dropped. Holds it only for moments: it holds the store.
pub(super) async fn keep_time(coordinator: Weak<Inner>, group: Group<Outcome>) {
    loop {
        time::sleep(LOOK_INTERVAL).await;
        let leads = match coordinator.strong_count() {
            0 => return,
            _ if !group.is_leader() => None,
            _ => group.status().await.ok().filter(|status| status.role == Role::Leader),
        };
        let Some(term) = leads.map(|status| status.term) else { continue };
        let expired = match coordinator.upgrade() {
            Some(inner) => inner.expired(term),
            None => return,
        };
        if expired.is_empty() {
            continue;
        }
        tracing::info!(leases = ?expired, term, "leases were not kept alive and end");
        let entry = Command::Leases(LeaseChange::Expire { term, leases: expired.clone() }).encode();
        let proposed = group.propose(entry).await;
        // Not known: only another term, which begins its clock anew, can tell.
        if !matches!(proposed, Err(ProposeError::Indeterminate))
            && let Some(inner) = coordinator.upgrade()
        {
            inner.clock.ended(&expired);
        }
    }
}

impl Inner {
    fn expired(&self, term: u64) -> Vec<u64> {
        match self.map.view().leases() {
            Ok(leases) => self.clock.expired(term, &leases),
            Err(error) => {
                tracing::error!(%error, "the leases cannot be read; none of them ends");
                Vec::new()
            }
        }
    }

    /// The leader's answer, whichever node that is. Asking twice does no harm.
    ///
    /// # Errors
    /// Those of the last attempt, when none was answered in time.
    pub(super) async fn ask_leader(
        &self,
        route: &Route<Outcome>,
        question: &Question,
    ) -> Result<Outcome, ProposeError> {
        let started = time::now();
        loop {
            let answer = match self.answer(route.group(), question).await {
                Err(ProposeError::NotLeader { leader: Some(leader) }) => route.ask(leader, question.encode()).await,
                here => here,
            };
            match answer {
                Err(error) if error != ProposeError::Stopped && started.elapsed() < PATIENCE => {
                    tracing::debug!(%error, "a question to the coordinator's leader is asked again");
                    time::sleep(PAUSE).await;
                }
                settled => return settled,
            }
        }
    }

    /// The answer of this node, if it leads.
    ///
    /// # Errors
    /// `NotLeader`; `Unavailable` if it cannot tell just now.
    pub(super) async fn answer(&self, group: &Group<Outcome>, question: &Question) -> Result<Outcome, ProposeError> {
        let Question::KeepAlive { lease } = *question;
        let term = led_term(group).await?;
        // If it leads in the same term afterwards, then it did so all the while, a majority has said so, and it has applied what came
        // before its term: no leader after it can have begun to count already.
        group.read_index().await?;
        if led_term(group).await? != term {
            return Err(ProposeError::Unavailable);
        }
        let kept = self.clock.keep(term, lease, || self.map.view().lease_ttl_ms(lease));
        match kept.map_err(|error: CoordinationError| ProposeError::Failed(error.to_string()))? {
            Kept::For(ttl_ms) => Ok(Outcome::KeptAlive { ttl_ms }),
            Kept::Gone => Ok(Outcome::LeaseGone(lease)),
            Kept::NotNow => Err(ProposeError::Unavailable),
        }
    }
}

/// The term in which this node leads.
async fn led_term(group: &Group<Outcome>) -> Result<u64, ProposeError> {
    let status = group.status().await?;
    match status.role {
        Role::Leader => Ok(status.term),
        _ => Err(ProposeError::NotLeader { leader: status.leader }),
    }
}
