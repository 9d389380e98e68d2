//! The network of the group: frames of Raft messages between members, each link with its own loss, and checkpoints. Frames
//! overtake each other, come twice, come seconds late, or not at all; what the product's own connections do to them is the
//! business of the cluster scenarios.
use super::Identity;
use futures_util::{FutureExt, future::BoxFuture};
use madsim::{runtime::NodeHandle, time};
use protobuf::Message as _;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::mpsc;
use vectorsphere::raft::{
    CheckpointPart, CheckpointStream, CheckpointWanted, FetchError, GroupId, GroupMessage, MultiRaft, SendError,
    Transport,
};

/// What a good day's frame takes.
const DELAY_MS_MIN: u64 = 1;
/// How late the latest frames come.
const LATE_MS_MAX: u64 = 3_000;
/// Of a hundred parts of checkpoints, those with which the connection breaks: they were sent, and do not come.
const BREAKS_PERCENT: u32 = 4;

/// What happens to frames now, on every link.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    pub loss_percent: u32,
    pub twice_percent: u32,
    /// Frames that come up to [`LATE_MS_MAX`] late.
    pub late_percent: u32,
    pub delay_ms_max: u64,
}

struct State {
    rng: StdRng,
    weather: Weather,
    members: BTreeMap<Identity, MultiRaft>,
    /// Directed links that carry nothing, counted so that faults may overlap.
    cut: BTreeMap<(Identity, Identity), u32>,
    /// Percent lost on a directed link besides.
    lossy: BTreeMap<(Identity, Identity), u32>,
    /// Members whose machine has no power: nobody is refused there.
    dark: BTreeSet<Identity>,
    gagged: BTreeMap<Identity, Gagged>,
    /// Who is to be told when somebody has given a vote.
    votes: Option<mpsc::UnboundedSender<Identity>>,
}

pub struct Wire {
    state: Mutex<State>,
    /// Where frames are while they travel.
    air: NodeHandle,
}

/// What a member is kept from telling the others while it leads. Not what networks do by chance, but what they may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gag {
    /// Entries of its own term.
    OwnTerm,
    /// Entries of its own term, to anybody to whom it has sent one of an older term.
    OwnTermAfterOlder,
}

/// The gag of one member, and to whom it has sent entries of older terms since.
struct Gagged {
    gag: Gag,
    told: BTreeSet<Identity>,
}

impl Gagged {
    /// Whether a message to `to` goes out.
    fn lets_pass(&mut self, to: Identity, message: &GroupMessage) -> bool {
        let Ok(message) = raft::eraftpb::Message::parse_from_carllerche_bytes(&message.message) else { return true };
        let entries = message.get_entries();
        if entries.iter().any(|entry| entry.term == message.term) {
            return self.gag == Gag::OwnTermAfterOlder && !self.told.contains(&to);
        }
        if !entries.is_empty() {
            self.told.insert(to);
        }
        true
    }
}

/// The kind of a message that gives a vote, as the protocol's encoding begins: field 1, `MsgRequestVoteResponse`.
const VOTE: &[u8] = &[0x08, 0x06];

impl Wire {
    pub fn new(seed: u64, air: NodeHandle) -> Arc<Wire> {
        let (members, cut, lossy, dark, gagged) = Default::default();
        let (rng, weather) = (StdRng::seed_from_u64(seed), Weather::default());
        let state = State { rng, weather, members, cut, lossy, dark, gagged, votes: None };
        Arc::new(Wire { state: Mutex::new(state), air })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }

    pub fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    pub fn weather(&self) -> Weather {
        self.state().weather
    }

    pub fn cut(&self, links: &[(Identity, Identity)]) {
        let mut state = self.state();
        links.iter().for_each(|link| *state.cut.entry(*link).or_default() += 1);
    }

    pub fn heal(&self, links: &[(Identity, Identity)]) {
        let mut state = self.state();
        for link in links {
            let count = state.cut.get_mut(link).expect("only what was cut is healed");
            *count -= 1;
            if *count == 0 {
                state.cut.remove(link);
            }
        }
    }

    /// Of what goes over one link in one direction so many get lost besides; zero ends it.
    pub fn lose(&self, from: Identity, to: Identity, percent: u32) {
        self.state().lossy.insert((from, to), percent);
    }

    /// Keeps `member` from telling some of what it knows, until [`Wire::ungag`].
    pub fn gag(&self, member: Identity, gag: Gag) {
        self.state().gagged.insert(member, Gagged { gag, told: BTreeSet::new() });
    }

    pub fn ungag(&self, member: Identity) {
        self.state().gagged.remove(&member);
    }

    /// Whether a gagged member has sent entries of older terms to anybody.
    pub fn gave_away(&self, member: Identity) -> bool {
        self.state().gagged.get(&member).is_some_and(|gagged| !gagged.told.is_empty())
    }

    /// Tells of votes given from now on, until the receiver is gone.
    pub fn watch_votes(&self) -> mpsc::UnboundedReceiver<Identity> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.state().votes = Some(sender);
        receiver
    }

    pub fn joined(&self, member: Identity, raft: MultiRaft) {
        let mut state = self.state();
        state.dark.remove(&member);
        state.members.insert(member, raft);
    }

    /// The member's process has ended. Unless the power failed, the others' connections to it break.
    pub fn left(&self, member: Identity, dark: bool) {
        let mut state = self.state();
        if state.members.remove(&member).is_none() && !dark {
            return;
        }
        if dark {
            state.dark.insert(member);
            return;
        }
        let others: Vec<_> = state.members.iter().map(|(other, raft)| (*other, raft.clone())).collect();
        for (other, raft) in others {
            if !state.cut.contains_key(&(member, other)) {
                let after = Duration::from_millis(state.rng.random_range(1..20));
                self.air.spawn(async move {
                    time::sleep(after).await;
                    raft.peer_lost(member);
                });
            }
        }
    }

    fn carries(&self, from: Identity, to: Identity) -> bool {
        let state = self.state();
        !state.cut.contains_key(&(from, to)) && state.members.contains_key(&to)
    }

    fn send(self: &Arc<Self>, from: Identity, to: Identity, mut messages: Vec<GroupMessage>) -> Result<(), SendError> {
        let mut state = self.state();
        if messages.iter().any(|message| message.message.starts_with(VOTE))
            && let Some(votes) = &state.votes
        {
            // Whoever wanted to know may be gone.
            let _ = votes.send(from);
        }
        if !state.members.contains_key(&to) {
            return if state.dark.contains(&to) { Ok(()) } else { Err(SendError::Disconnected) };
        }
        if let Some(gagged) = state.gagged.get_mut(&from) {
            messages.retain(|message| gagged.lets_pass(to, message));
        }
        let weather = state.weather;
        let lossy = state.lossy.get(&(from, to)).copied().unwrap_or(0).max(weather.loss_percent);
        if state.cut.contains_key(&(from, to)) || state.rng.random_ratio(lossy.min(100), 100) {
            return Ok(());
        }
        let copies = 1 + usize::from(state.rng.random_ratio(weather.twice_percent, 100));
        for _ in 0..copies {
            let late = state.rng.random_ratio(weather.late_percent, 100);
            let most = if late { LATE_MS_MAX } else { weather.delay_ms_max.max(DELAY_MS_MIN) };
            let after = Duration::from_micros(state.rng.random_range(DELAY_MS_MIN * 300..=most * 1_000));
            let (wire, messages) = (self.clone(), messages.clone());
            self.air.spawn(async move {
                time::sleep(after).await;
                let raft = wire.state().members.get(&to).cloned();
                raft.iter().for_each(|raft| raft.receive(from, messages.clone()));
            });
        }
        Ok(())
    }
}

/// A member's end of the wire.
pub struct Port {
    pub wire: Arc<Wire>,
    pub member: Identity,
}

impl Transport for Port {
    fn send(&self, to: Identity, messages: Vec<GroupMessage>) -> Result<(), SendError> {
        self.wire.send(self.member, to, messages)
    }

    fn fetch_checkpoint(
        &self,
        from: Identity,
        group: GroupId,
        wanted: CheckpointWanted,
    ) -> BoxFuture<'static, Result<Box<dyn CheckpointStream>, FetchError>> {
        let (wire, member) = (self.wire.clone(), self.member);
        async move {
            let away = || FetchError::Unreachable("there is no way there".to_string());
            let giver = wire.state().members.get(&from).cloned().ok_or_else(away)?;
            if !wire.carries(from, member) || !wire.carries(member, from) {
                return Err(away());
            }
            let parts = giver.serve_checkpoint(group, wanted).await?;
            Ok(Box::new(OverTheWire { wire, from, to: member, parts }) as Box<dyn CheckpointStream>)
        }
        .boxed()
    }
}

/// A checkpoint on its way, which breaks when the link does, and now and then by itself.
struct OverTheWire {
    wire: Arc<Wire>,
    from: Identity,
    to: Identity,
    parts: Box<dyn CheckpointStream>,
}

impl CheckpointStream for OverTheWire {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<CheckpointPart>, FetchError>> {
        async move {
            time::sleep(Duration::from_millis(DELAY_MS_MIN)).await;
            if !self.wire.carries(self.from, self.to) {
                return Err(FetchError::Unreachable("the connection broke".to_string()));
            }
            let part = self.parts.next().await?;
            if self.wire.state().rng.random_ratio(BREAKS_PERCENT, 100) {
                return Err(FetchError::Unreachable("the connection broke".to_string()));
            }
            Ok(part)
        }
        .boxed()
    }
}
