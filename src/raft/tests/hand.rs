//! Replicas without a driver: messages are carried by hand, and what is durable is said by hand. Used by the tests of `rules`, `beats`
//! and `returned`.

use super::*;
use crate::raft::cache::NodeCache;
use crate::raft::replica::{NotProposed, Pace, Replica, Step, Work};
use crate::raft::storage::Mirror;
use crate::raft::writer::Write;
use crate::rt::rng::{self, Rng};
use ::raft::eraftpb::{Message, MessageType};
use std::collections::{BTreeMap, VecDeque};
use tempfile::TempDir;

const PACE: Pace = Pace { heartbeat: 2, election: 10, message_bytes_max: 1 << 20 };

/// Members by hand: their writes wait until [`Hand::sync`], their messages until [`Hand::carry`].
pub struct Hand {
    _directory: TempDir,
    pub rng: Rng,
    pub replicas: BTreeMap<NodeId, Replica>,
    pub unsynced: BTreeMap<NodeId, VecDeque<Write>>,
    pub on_the_way: VecDeque<Message>,
    pub steps: BTreeMap<NodeId, Vec<Step>>,
    pub reads: BTreeMap<NodeId, Vec<(LogIndex, Vec<u8>)>>,
}

impl Hand {
    pub fn new(nodes: u64) -> Hand {
        Hand::with_others(nodes, 0)
    }

    /// Members 1 to `voters`, and as many `others` behind them that are of no group yet.
    pub fn with_others(voters: u64, others: u64) -> Hand {
        let directory = tempfile::tempdir().unwrap();
        let founders: Vec<NodeId> = (1..=voters).collect();
        let replica = |node: NodeId| {
            let path = directory.path().join(node.to_string());
            crate::store::directory::make_directory(&path).unwrap();
            let log = open_log(&path);
            match founders.contains(&node) {
                true => begin(&log, GROUP, &founders),
                false => log.write([&LogWrite { group: GROUP, ..LogWrite::default() }]).unwrap(),
            }
            (node, open_replica(node, log))
        };
        let replicas = (1..=voters + others).map(replica).collect();
        let (unsynced, on_the_way, steps, reads) = Default::default();
        Hand { _directory: directory, rng: rng::stream("rules"), replicas, unsynced, on_the_way, steps, reads }
    }

    pub fn at(&mut self, node: NodeId) -> &mut Replica {
        self.replicas.get_mut(&node).unwrap()
    }

    pub fn do_at<T>(&mut self, node: NodeId, act: impl FnOnce(&mut Replica, &mut Rng) -> T) -> T {
        let done = act(self.replicas.get_mut(&node).unwrap(), &mut self.rng);
        self.collect(node);
        done
    }

    pub fn collect(&mut self, node: NodeId) {
        let mut work = Work::default();
        self.replicas.get_mut(&node).unwrap().collect(&mut work, &mut self.rng);
        self.keep(node, work);
    }

    pub fn keep(&mut self, node: NodeId, work: Work) {
        self.on_the_way.extend(work.messages);
        self.unsynced.entry(node).or_default().extend(work.writes);
        self.steps.entry(node).or_default().extend(work.steps);
        let reads = work.reads.into_iter().map(|read| (read.index, read.request_ctx));
        self.reads.entry(node).or_default().extend(reads);
    }

    /// What the node has queued for its disk is there now.
    pub fn sync(&mut self, node: NodeId) {
        while let Some(write) = self.unsynced.entry(node).or_default().pop_front() {
            let mut work = Work::default();
            self.at(node).mirror().log().write([&write.what]).unwrap();
            self.at(node).written(write.number, &mut work);
            self.keep(node, work);
            self.collect(node);
        }
    }

    /// Delivers what is on the way, once; those not wanted are lost.
    pub fn carry(&mut self, wanted: impl Fn(&Message) -> bool) -> usize {
        let messages: Vec<Message> = self.on_the_way.drain(..).filter(wanted).collect();
        let count = messages.len();
        for message in messages {
            let to = message.to;
            self.do_at(to, |replica, rng| replica.step(message, rng));
        }
        count
    }

    /// Carries, syncs and applies until nothing happens any more.
    pub fn calm(&mut self) {
        let nodes: Vec<NodeId> = self.replicas.keys().copied().collect();
        for _ in 0..100 {
            nodes.iter().for_each(|node| self.sync(*node));
            nodes.iter().for_each(|node| self.apply(*node));
            if self.carry(|_| true) == 0 && self.unsynced.values().all(VecDeque::is_empty) {
                return;
            }
        }
        panic!("it does not calm down");
    }

    pub fn apply(&mut self, node: NodeId) {
        for step in self.steps.remove(&node).unwrap_or_default() {
            let last = match step {
                Step::Apply(entries) => entries.last().unwrap().index,
                Step::Install(index) => index,
            };
            self.do_at(node, |replica, rng| replica.applied(last, usize::MAX, rng));
        }
    }

    /// Its process ends and begins anew, after `between` with its log.
    pub fn restart(&mut self, node: NodeId, between: impl FnOnce(&LogStore)) {
        let log = self.at(node).mirror().log().clone();
        between(&log);
        self.unsynced.remove(&node);
        self.steps.remove(&node);
        self.replicas.insert(node, open_replica(node, log));
    }

    pub fn elect(&mut self, node: NodeId) {
        self.do_at(node, |replica, rng| replica.campaign(rng));
        self.calm();
        assert!(self.at(node).is_leader());
    }

    pub fn propose(&mut self, node: NodeId, text: &str) -> Result<LogIndex, NotProposed> {
        self.do_at(node, |replica, _| replica.propose(&[Bytes::from(text.to_owned())]))
    }

    pub fn kinds(&self) -> Vec<MessageType> {
        self.on_the_way.iter().map(Message::get_msg_type).collect()
    }
}

/// The replica of a log whose beginning is applied, if it has one.
fn open_replica(node: NodeId, log: LogStore) -> Replica {
    let found = log.group(GROUP).unwrap();
    let applied = found.bounds.compacted_index;
    let mut mirror = Mirror::new(GROUP, log, found, NodeCache::new(usize::MAX).share());
    mirror.load(applied + 1).unwrap();
    mirror.set_applied(applied);
    Replica::new(node, mirror, applied, PACE).unwrap()
}
