//! The last changes of the map, revision by revision, for those who watch it on this node. In memory only: a node that starts, or
//! that has taken a checkpoint, knows none, and its watchers list again. Called by `machine` (grows it) and `embedded` (watches).

use super::super::{BoxFuture, Event, Revision, Watch, WatchError, prefix::Prefix};
use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Events kept, at most, beside those of the last revision.
const EVENTS_MAX: usize = 10_000;
/// Bytes of their keys and values, at most, as above.
const BYTES_MAX: usize = 16 << 20;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct History {
    kept: Mutex<Kept>,
    grown: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    /// Revisions without a gap in what they changed, oldest first.
    revisions: VecDeque<(Revision, Vec<Event>)>,
    events: usize,
    bytes: usize,
    /// Nothing up to this revision is kept.
    compacted: Revision,
    /// The last revision there was.
    last: Revision,
}

impl History {
    /// Forgets everything: the map is now as it was made at `revision`.
    pub(super) fn restart(&self, revision: Revision) {
        *self.kept() = Kept { compacted: revision, last: revision, ..Kept::default() };
        self.grown.notify_waiters();
    }

    /// Forgets the changes up to the last one.
    pub(super) fn compact(&self) {
        let last = self.kept().last;
        self.restart(last);
    }

    /// Adds what `revision` changed.
    pub(super) fn push(&self, revision: Revision, events: Vec<Event>) {
        let mut kept = self.kept();
        kept.last = revision;
        if !events.is_empty() {
            kept.events += events.len();
            kept.bytes += events.iter().map(bytes_of).sum::<usize>();
            kept.revisions.push_back((revision, events));
        }
        while (kept.events > EVENTS_MAX || kept.bytes > BYTES_MAX) && kept.revisions.len() > 1 {
            let Some((oldest, events)) = kept.revisions.pop_front() else { break };
            kept.events -= events.len();
            kept.bytes -= events.iter().map(bytes_of).sum::<usize>();
            kept.compacted = oldest;
        }
        drop(kept);
        self.grown.notify_waiters();
    }

    /// What happened below `prefix` after `after`, and up to which revision that is all.
    fn after(&self, prefix: &str, after: Revision) -> Result<(Vec<Event>, Revision), WatchError> {
        let kept = self.kept();
        if after < kept.compacted {
            return Err(WatchError::Compacted { oldest: kept.compacted });
        }
        let first = kept.revisions.partition_point(|(revision, _)| *revision <= after);
        let new = kept.revisions.range(first..).flat_map(|(_, events)| events);
        let events = new.filter(|event| event.key().starts_with(prefix)).cloned().collect();
        Ok((events, after.max(kept.last)))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A panic while it is held leaves counts that are off by one change, no more.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes_of(event: &Event) -> usize {
    match event {
        Event::Put(kv) => kv.key.len() + kv.value.len(),
        Event::Delete(key, _) => key.len(),
    }
}

/// A watch over the history of this node.
pub(super) struct HistoryWatch {
    pub(super) history: Arc<History>,
    pub(super) prefix: Prefix,
    /// Stored keys that begin with this.
    pub(super) beginning: String,
    pub(super) after: Revision,
}

impl Watch for HistoryWatch {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Event>, WatchError>> {
        Box::pin(async move {
            loop {
                let mut grown = pin!(self.history.grown.notified());
                grown.as_mut().enable();
                let (events, upto) = self.history.after(&self.beginning, self.after)?;
                self.after = upto;
                if !events.is_empty() {
                    let relative = events.into_iter().map(|event| self.prefix.relative_event(event));
                    return relative.collect::<Result<_, _>>().map_err(|error| WatchError::Corrupt(error.to_string()));
                }
                grown.await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn deleted(key: &str, revision: Revision) -> Event {
        Event::Delete(format!("/vectorsphere/local/{key}"), revision)
    }

    fn watch(history: &Arc<History>, beginning: &str, after: Revision) -> HistoryWatch {
        let prefix = Prefix::of("local");
        HistoryWatch { history: history.clone(), beginning: prefix.stored(beginning), prefix, after }
    }

    #[test]
    fn a_watcher_of_a_quiet_prefix_does_not_fall_behind_the_history() {
        let history = Arc::new(History::default());
        let mut quiet = watch(&history, "a", 0);
        let mut lost = watch(&history, "a", 0);
        for revision in 1..=3 * EVENTS_MAX as u64 {
            history.push(revision, vec![deleted("b", revision)]);
            assert!(quiet.next().now_or_never().is_none());
        }
        assert!(history.kept().revisions.len() <= EVENTS_MAX);
        let oldest = 2 * EVENTS_MAX as u64;
        assert_eq!(lost.next().now_or_never(), Some(Err(WatchError::Compacted { oldest })));
        let next = oldest + EVENTS_MAX as u64 + 1;
        history.push(next, vec![deleted("b", next), deleted("a", next)]);
        assert_eq!(quiet.next().now_or_never(), Some(Ok(vec![Event::Delete("a".into(), next)])));
    }

    #[test]
    fn a_large_change_is_kept_until_the_next_one() {
        let history = Arc::new(History::default());
        let mut watch = watch(&history, "", 0);
        let large = deleted(&"k".repeat(BYTES_MAX + 1), 1);
        history.push(1, vec![large]);
        assert_eq!(watch.next().now_or_never().unwrap().unwrap().len(), 1);
        history.push(2, vec![deleted("b", 2)]);
        let kept = history.kept();
        assert_eq!((kept.compacted, kept.events), (1, 1));
    }
}
