//! The task of a candidacy: looks at the election as the mirror shows it, does what is due, and waits. Called by `election`.

use super::record::{Candidacy, Chosen, Keys, Leader, Scene, Term, encode};
use super::session::Session;
use super::{Candidate, ElectionSettings, Policy, Reign, Request, Shared};
use crate::{
    coordination::{Change, Committed, Compare, CoordinationError, Coordinator, Mirror, Revision, Transaction},
    rt::{
        self, Shutdown, Task,
        rng::{self, Rng},
        time::{self, Instant},
    },
};
use rand::Rng as _;
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// How often the scene is looked at when nothing happens.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// After something could not be done.
const RETRY: Duration = Duration::from_millis(50);
/// How long one transaction may take.
const CALL_LIMIT: Duration = Duration::from_secs(2);
/// How long a reign may take to return after its end, before a hand-over goes on without it: it is fenced.
const RETURN_LIMIT: Duration = Duration::from_millis(50);
/// Steps that the others wait when somebody is named to stand next.
const NAMED_AHEAD_STEPS: u32 = 10;

/// See the module.
pub(super) struct Campaign {
    coordinator: Arc<dyn Coordinator>,
    mirror: Mirror,
    keys: Keys,
    settings: ElectionSettings,
    candidate: Arc<dyn Candidate>,
    shared: Arc<Shared>,
    rng: Rng,
    standing: Option<Standing>,
    reigning: Option<Reigning>,
    /// A reign that has ended and not returned yet.
    returning: Option<Task<()>>,
    /// The token of the last reign of this candidate: the mirror may show it for a moment after its end.
    last_token: Revision,
    /// When this candidate is to stand, while nobody reigns.
    stand_at: Option<Instant>,
    /// Since when others are ready.
    ready_since: BTreeMap<u64, Instant>,
    /// Nothing is tried before this.
    retry_at: Instant,
}

/// A session, and what it says under it.
struct Standing {
    session: Session,
    told: Candidacy,
    /// The revision at which its key was made.
    created: Revision,
}

struct Reigning {
    reign: Reign,
    since: Instant,
    task: Task<()>,
}

impl Campaign {
    pub(super) fn new(
        coordinator: Arc<dyn Coordinator>,
        mirror: Mirror,
        name: &str,
        settings: ElectionSettings,
        candidate: Arc<dyn Candidate>,
        shared: Arc<Shared>,
    ) -> Campaign {
        Campaign {
            coordinator,
            mirror,
            keys: Keys::of(name),
            settings,
            candidate,
            shared,
            rng: rng::stream("election"),
            standing: None,
            reigning: None,
            returning: None,
            last_token: 0,
            stand_at: None,
            ready_since: BTreeMap::new(),
            retry_at: Instant::START,
        }
    }

    /// Until `stop`, or until it is asked to leave.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Request>, stop: Shutdown) {
        while !stop.is_triggered() {
            let version = self.mirror.version();
            let scene = Scene::of(&self.keys, &self.mirror.entries());
            if version > 0 {
                self.observe(&scene);
                self.act(&scene).await;
            }
            let lapsed = self.standing.as_ref().map(|standing| standing.session.lapsed.clone()).unwrap_or_default();
            tokio::select! {
                biased;
                () = stop.wait() => {}
                () = lapsed.wait() => self.lapse(),
                request = inbox.recv() => match request {
                    Some(Request::HandOver { to, done }) => {
                        // Who asked and left does not want the answer.
                        let _ = done.send(self.hand_over(&self.scene(), to).await);
                    }
                    Some(Request::Suspect { node }) => self.depose_if(&self.scene(), |leader| leader.node == node).await,
                    Some(Request::Leave { done }) => return self.leave(done).await,
                    None => break,
                },
                _ = self.mirror.changed(version) => {}
                () = time::sleep_until(self.wake_at()) => {}
            }
        }
        self.end_reign();
    }

    fn scene(&self) -> Scene {
        Scene::of(&self.keys, &self.mirror.entries())
    }

    fn wake_at(&self) -> Instant {
        let now = time::now();
        let mut at = now + LOOK_INTERVAL;
        if let Some(stand_at) = self.stand_at {
            at = at.min(stand_at.max(self.retry_at));
        }
        if self.standing.is_none() {
            at = at.min(self.retry_at);
        }
        // A call that cannot be made yet (a reign still returns) is not spun on.
        at.max(now + Duration::from_millis(5))
    }

    /// Tells others what is seen.
    fn observe(&mut self, scene: &Scene) {
        let now = time::now();
        {
            let mut stats = self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner);
            match &scene.leader {
                Some(leader) => stats.reigns(leader.term, now),
                None => stats.vacant(now),
            }
        }
        let changed = {
            let mut known = self.shared.leader.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = *known != scene.leader;
            known.clone_from(&scene.leader);
            changed
        };
        if changed {
            tracing::info!(election = self.keys.chosen, leader = ?scene.leader, "another reign");
            self.candidate.leader_changed(scene.leader.as_ref());
        }
        let is_ready = |node: &u64| scene.candidates.get(node).is_some_and(|candidacy| candidacy.ready);
        self.ready_since.retain(|node, _| is_ready(node));
        for candidacy in scene.candidates.values().filter(|candidacy| candidacy.ready) {
            self.ready_since.entry(candidacy.node).or_insert(now);
        }
    }

    /// Does the one thing that is due.
    async fn act(&mut self, scene: &Scene) {
        if self.returning.as_ref().is_some_and(Task::is_finished) {
            self.returning = None;
        }
        if let Some(Reigning { reign, since, .. }) = &self.reigning {
            let overruled = scene.term.term >= reign.term
                && scene.leader.as_ref().is_none_or(|leader| leader.created != reign.created);
            if overruled || reign.ended.is_triggered() {
                tracing::info!(election = self.keys.chosen, term = reign.term, overruled, "the reign is over");
                self.end_reign();
            } else if *since + self.settings.reign_min <= time::now()
                && let Some(higher) = self.higher(scene)
            {
                rt::mark("a leader made place for a higher one");
                self.hand_over(scene, Some(higher)).await;
            }
            return;
        }
        if time::now() < self.retry_at {
            return;
        }
        if let Err(error) = self.stand(scene).await {
            tracing::debug!(election = self.keys.chosen, %error, "the candidacy could not go on; it is tried again");
            self.retry_at = time::now() + RETRY;
        }
    }

    /// Gets a session, says who stands, and stands when it is time.
    async fn stand(&mut self, scene: &Scene) -> Result<(), CoordinationError> {
        let wanted =
            Candidacy { node: self.settings.node, priority: self.settings.priority, ready: self.candidate.is_ready() };
        match &self.standing {
            Some(standing) if standing.told == wanted => {}
            _ => return self.tell(wanted).await,
        }
        let Some(standing) = &self.standing else { return Ok(()) };
        match &scene.leader {
            Some(leader) if leader.lease == Some(standing.session.lease) => {
                // It was chosen by a transaction whose end was not known.
                if self.returning.is_none() && leader.created > self.last_token {
                    self.begin_reign(leader.term, leader.created);
                }
                Ok(())
            }
            Some(leader) if leader.node == self.settings.node => {
                // An earlier life of this node.
                self.depose_if(scene, |leader| leader.node == self.settings.node).await;
                Ok(())
            }
            Some(_) => {
                self.stand_at = None;
                Ok(())
            }
            None => {
                let at = match self.stand_at {
                    Some(at) => at,
                    None => time::now() + self.delay(scene),
                };
                self.stand_at = Some(at);
                match at <= time::now() && self.returning.is_none() {
                    true => self.campaign(scene).await,
                    false => Ok(()),
                }
            }
        }
    }

    /// Says that it stands, under a session made if there is none.
    async fn tell(&mut self, wanted: Candidacy) -> Result<(), CoordinationError> {
        let session = match self.standing.take() {
            Some(standing) => standing.session,
            None => limited(Session::open(self.coordinator.clone(), self.settings.ttl)).await?,
        };
        let key = self.keys.candidate(wanted.node);
        let put = Change::PutLeased(key.clone(), encode(&wanted), session.lease);
        let told = self.commit(Vec::new(), vec![put]).await;
        let known = match told {
            Ok(_) => limited(self.coordinator.get(&key)).await,
            Err(error) => Err(error),
        };
        match known {
            Ok(Some(kv)) if kv.lease == Some(session.lease) => {
                self.standing = Some(Standing { session, told: wanted, created: kv.created });
                Ok(())
            }
            other => {
                session.give_back();
                other.map(drop)
            }
        }
    }

    /// How long this candidate lets others stand first.
    fn delay(&mut self, scene: &Scene) -> Duration {
        let (me, step) = (self.settings.node, self.settings.step);
        let rank = match self.settings.policy {
            Policy::Random => self.rng.random_range(0.0..4.0),
            Policy::Priority => {
                let order = |one: &Candidacy| (one.ready, one.priority, std::cmp::Reverse(one.node));
                let mine = scene.candidates.get(&me).map(order);
                scene.candidates.values().filter(|other| Some(order(other)) > mine).count() as f64
            }
        };
        let behind = match scene.term.next {
            Some(next) if next == me => return Duration::ZERO,
            Some(next) if scene.candidates.contains_key(&next) => NAMED_AHEAD_STEPS,
            _ => 0,
        };
        step.mul_f64(rank) + step * behind
    }

    async fn campaign(&mut self, scene: &Scene) -> Result<(), CoordinationError> {
        let Some(standing) = &self.standing else { return Ok(()) };
        let term = scene.term.term + 1;
        let node = self.settings.node;
        let compares = vec![
            Compare::Absent(self.keys.chosen.clone()),
            scene.same_term(&self.keys),
            Compare::CreatedAt(self.keys.candidate(node), standing.created),
        ];
        let changes = vec![
            Change::PutLeased(self.keys.chosen.clone(), encode(&Chosen { node, term }), standing.session.lease),
            Change::Put(self.keys.term.clone(), encode(&Term { term, next: None })),
        ];
        self.stand_at = None;
        match self.commit(compares, changes).await {
            Ok(Committed::At(created)) => {
                self.begin_reign(term, created);
                Ok(())
            }
            // Somebody was first, which the mirror will show.
            Ok(Committed::Refused) => {
                self.retry_at = time::now() + RETRY;
                Ok(())
            }
            Err(error) => {
                if matches!(error, CoordinationError::LeaseGone(_)) {
                    self.lapse();
                }
                Err(error)
            }
        }
    }

    fn begin_reign(&mut self, term: u64, created: Revision) {
        let Some(standing) = &self.standing else { return };
        let reign = Reign { term, ended: Shutdown::new(), key: self.keys.chosen.clone(), created };
        standing.session.bind(reign.ended.clone());
        tracing::info!(election = self.keys.chosen, term, token = created, "this node was chosen");
        let (candidate, granted) = (self.candidate.clone(), reign.clone());
        let task = rt::spawn("election-reign", async move { candidate.reign(granted).await });
        self.stand_at = None;
        self.last_token = created;
        self.reigning = Some(Reigning { reign, since: time::now(), task });
    }

    /// Ends the reign for this node; the election's key stays.
    fn end_reign(&mut self) {
        if let Some(Reigning { reign, task, .. }) = self.reigning.take() {
            reign.ended.trigger();
            self.returning = Some(task);
        }
    }

    /// The session lapsed: all that was bound to it is gone, or goes.
    fn lapse(&mut self) {
        self.end_reign();
        if let Some(standing) = self.standing.take() {
            tracing::warn!(election = self.keys.chosen, lease = standing.session.lease, "the candidate's lease lapsed");
            rt::mark("a candidate's lease lapsed");
            standing.session.give_back();
        }
    }

    /// A candidate with a higher priority that has been ready for long.
    fn higher(&self, scene: &Scene) -> Option<u64> {
        if self.settings.policy != Policy::Priority {
            return None;
        }
        let now = time::now();
        let steady = |node: &u64| self.ready_since.get(node).is_some_and(|since| *since + self.settings.steady <= now);
        let higher = scene.candidates.values().filter(|other| other.priority > self.settings.priority);
        higher.filter(|other| steady(&other.node)).max_by_key(|other| other.priority).map(|other| other.node)
    }

    /// Hands over to `to`, or to the best that stands; whether somebody can take over.
    async fn hand_over(&mut self, scene: &Scene, to: Option<u64>) -> bool {
        let Some(Reigning { reign, .. }) = &self.reigning else { return false };
        let others = scene.candidates.values().filter(|other| other.node != self.settings.node);
        let wanted = others.filter(|other| to.is_none_or(|to| other.node == to));
        let Some(next) = wanted.max_by_key(|other| (other.ready, other.priority)) else { return false };
        let compares = vec![reign.fence()];
        let term = Term { term: reign.term, next: Some(next.node) };
        let changes =
            vec![Change::Delete(self.keys.chosen.clone()), Change::Put(self.keys.term.clone(), encode(&term))];
        tracing::info!(election = self.keys.chosen, term = reign.term, to = next.node, "the reign is handed over");
        self.end_reign();
        if let Some(task) = &mut self.returning {
            let returned = time::timeout(RETURN_LIMIT, task).await;
            // Whoever takes longer is fenced.
            if returned.is_ok() {
                self.returning = None;
            }
        }
        match self.commit(compares, changes).await {
            // Refused: somebody else reigns already.
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(election = self.keys.chosen, %error, "handing over failed; the lease is given back");
                self.lapse();
                false
            }
        }
    }

    /// Takes the election's key away from a reign that meets `condition`.
    async fn depose_if(&self, scene: &Scene, condition: impl Fn(&Leader) -> bool) {
        let Some(leader) = scene.leader.as_ref().filter(|leader| condition(leader)) else { return };
        if self.reigning.is_some() {
            return;
        }
        let compares = vec![Compare::CreatedAt(self.keys.chosen.clone(), leader.created)];
        let deposed = self.commit(compares, vec![Change::Delete(self.keys.chosen.clone())]).await;
        tracing::info!(election = self.keys.chosen, leader = leader.node, ?deposed, "a reign was ended from outside");
    }

    async fn leave(mut self, done: oneshot::Sender<()>) {
        let scene = self.scene();
        self.hand_over(&scene, None).await;
        self.end_reign();
        if let Some(standing) = self.standing.take() {
            // It ends by itself otherwise.
            let _ = time::timeout(CALL_LIMIT, self.coordinator.revoke(standing.session.lease)).await;
        }
        // As above.
        let _ = done.send(());
    }

    async fn commit(&self, compares: Vec<Compare>, changes: Vec<Change>) -> Result<Committed, CoordinationError> {
        limited(self.coordinator.commit(Transaction { compares, changes })).await
    }
}

/// Runs a call for so long as the election can wait for it.
async fn limited<T>(call: impl Future<Output = Result<T, CoordinationError>>) -> Result<T, CoordinationError> {
    let late = |elapsed: time::Elapsed| Err(CoordinationError::Indeterminate(elapsed.to_string()));
    time::timeout(CALL_LIMIT, call).await.unwrap_or_else(late)
}
