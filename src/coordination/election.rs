//! One of many is chosen, by terms that only grow. The chosen one's reign ends, for itself, before its lease can have ended; whoever
//! believes it reigns and does not is fenced by the revision at which the election's key was made ([`Reign::fence`]), which every
//! transaction of a reign compares. Clocks decide how fast, never whether two may act at once. Called by `cluster` (the controller).
//!
//! Under `name` lie: `{name}` the reigning candidate, of its lease; `{name}-term` the last term and who is wanted next;
//! `{name}-candidates/{node}` who stands, of their leases. All is level-triggered over a [`Mirror`]: nothing but these keys is
//! remembered.
//!
//! A planned hand-over ends the reign first, then deletes the key and names the next in one transaction; who is named stands at once,
//! the others a little later. A crash is noticed when the lease ends, or when somebody who knows better [suspects](Election::suspect)
//! the chosen one: then its key is deleted, which is as safe as a lease that ends too early.

mod campaign;
mod record;
mod session;
mod settings;
mod stats;

pub use record::{Candidacy, Leader};
pub use settings::{ElectionSettings, Policy};
pub use stats::ElectionStats;

use super::{BoxFuture, Compare, Coordinator, Mirror, Revision};
use crate::rt::{self, Shutdown};
use campaign::Campaign;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// Requests that wait to be looked at.
const REQUESTS_MAX: usize = 16;

/// What a candidate does with what becomes of it.
pub trait Candidate: Send + Sync + 'static {
    /// Whether it has caught up: if not, it stands only when nobody does who has.
    fn is_ready(&self) -> bool;

    /// It was chosen. To be returned from soon after [`Reign::ended`] fires; there is no next reign before that.
    fn reign(&self, reign: Reign) -> BoxFuture<'_, ()>;

    /// Who is chosen now, as far as this node knows.
    fn leader_changed(&self, leader: Option<&Leader>);
}

/// The right to act, for a while.
#[derive(Clone, Debug)]
pub struct Reign {
    /// Grows from reign to reign.
    pub term: u64,
    /// Fires when the reign is over, or could be: before the lease can have ended.
    pub ended: Shutdown,
    key: String,
    created: Revision,
}

impl Reign {
    /// The condition that this reign is not over, for every transaction made in it.
    pub fn fence(&self) -> Compare {
        Compare::CreatedAt(self.key.clone(), self.created)
    }

    /// The revision at which the reign began: it grows from reign to reign.
    pub fn token(&self) -> Revision {
        self.created
    }
}

/// What the owner of a candidacy asks of its task.
enum Request {
    /// Hand over, to this node if it is given and stands.
    HandOver { to: Option<u64>, done: oneshot::Sender<bool> },
    /// Somebody has reason to think that this node is dead.
    Suspect { node: u64 },
    /// Hand over if it reigns, stand no more.
    Leave { done: oneshot::Sender<()> },
}

/// A candidacy. Dropping it ends the reign, if there is one, and leaves the lease to end by itself.
pub struct Election {
    requests: mpsc::Sender<Request>,
    shared: Arc<Shared>,
    stop: Shutdown,
}

#[derive(Default)]
struct Shared {
    leader: Mutex<Option<Leader>>,
    stats: Mutex<ElectionStats>,
}

impl Drop for Election {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

impl Election {
    /// Stands for election, from now on until dropped. To be called inside the executor.
    pub fn stand(
        coordinator: Arc<dyn Coordinator>,
        name: &str,
        settings: ElectionSettings,
        candidate: Arc<dyn Candidate>,
    ) -> Election {
        let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
        let (shared, stop) = (Arc::<Shared>::default(), Shutdown::new());
        let mirror = Mirror::follow(coordinator.clone(), name);
        let campaign = Campaign::new(coordinator, mirror, name, settings, candidate, shared.clone());
        drop(rt::spawn("election", campaign.run(inbox, stop.clone())));
        Election { requests, shared, stop }
    }

    /// Who is chosen now, as far as this node knows.
    pub fn leader(&self) -> Option<Leader> {
        self.shared.leader.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Figures.
    pub fn stats(&self) -> ElectionStats {
        *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over, to `to` if it is given and stands; whether this node reigned and somebody else can.
    pub async fn hand_over(&self, to: Option<u64>) -> bool {
        let (done, answer) = oneshot::channel();
        // Both fail only when the task has ended: then nobody reigns here.
        let asked = self.requests.send(Request::HandOver { to, done }).await;
        asked.is_ok() && answer.await.unwrap_or(false)
    }

    /// Tells that a node seems to be dead (its connection broke and it does not answer): if it is the chosen one, it is deposed.
    /// Forgotten when too much is asked already.
    pub fn suspect(&self, node: u64) {
        // The lease will tell, later.
        let _ = self.requests.try_send(Request::Suspect { node });
    }

    /// Hands over if it reigns, and stands no more.
    pub async fn leave(self) {
        let (done, left) = oneshot::channel();
        if self.requests.send(Request::Leave { done }).await.is_ok() {
            // An error means that the task has ended.
            let _ = left.await;
        }
    }
}
