//! Where state machines do their work: a queue of the groups that have something to apply, and a few lanes, each on an I/O
//! thread, that take one group after the other from it until it is empty. A hand-over to a thread costs more than a small
//! entry's effect, and with a thousand groups each round brings entries of hundreds of them: so the hand-over is made for
//! all of them. There is one lane for so much work as one surely keeps up with, and one more whenever the queue has stood
//! still, because machines may take long over one entry. Promises: a group is in one lane at a time, its tasks are done in
//! order and what is told of them reaches the driver in order, whichever lanes it was in; no group waits for another's for
//! longer than it takes to notice. Fed by `member`, started by `driver`.

use super::driver::Input;
use super::round::report;
use super::{GroupId, LogIndex};
use crate::rt::time::{self, Instant};
use crate::rt::{self, compute};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Lanes at once, at most: half the threads there are for I/O, which the log's writer needs as well.
const LANES_MAX: usize = 32;
/// Waiting bytes for which another lane is worth its while.
const LANE_BYTES: usize = 256 << 10;
/// The queue stands still when nothing was taken from it for so long.
const STILL_AFTER: Duration = Duration::from_millis(2);
/// Groups that have applied something for which the driver is woken before the lane's end.
const REPORTS_MAX: usize = 64;

/// One group's work, whatever the type of its machine.
pub(super) trait Desk: Send + Sync {
    /// Does what has come up to now. Whether there is more. Reports before another lane can have the group.
    fn work(&self, lane: &mut Lane) -> bool;

    /// Bytes that wait here.
    fn waiting_bytes(&self) -> usize;
}

/// The lanes of a node. Cheap to clone.
#[derive(Clone)]
pub(super) struct Lanes {
    inner: Arc<Inner>,
}

struct Inner {
    driver: mpsc::WeakUnboundedSender<Input>,
    queue: Mutex<Queue>,
    reports: Mutex<Reports>,
}

struct Queue {
    /// Groups in the order they came, and the bytes each had to do then.
    desks: VecDeque<(Arc<dyn Desk>, usize)>,
    bytes: usize,
    running: usize,
    /// When something was last taken, a lane last begun, or the queue last seen empty.
    moved: Instant,
}

/// What the driver is to be told, of all lanes in one place: two lanes that each kept their own could tell of one group in the
/// wrong order. No more than was given out as tasks since the driver last looked.
#[derive(Default)]
struct Reports {
    inputs: Vec<Input>,
    /// The driver will look: it was woken.
    is_awaited: bool,
}

impl Lanes {
    pub(super) fn new(driver: mpsc::WeakUnboundedSender<Input>) -> Lanes {
        let queue = Queue { desks: VecDeque::new(), bytes: 0, running: 0, moved: Instant::START };
        Lanes { inner: Arc::new(Inner { driver, queue: Mutex::new(queue), reports: Mutex::default() }) }
    }

    /// A group has work, and is in no lane.
    pub(super) fn queue(&self, desk: Arc<dyn Desk>) {
        let bytes = desk.waiting_bytes();
        let mut queue = self.inner.queue();
        queue.bytes += bytes;
        queue.desks.push_back((desk, bytes));
    }

    /// When to look again (`start`) whether the lanes stand still, if groups wait for one.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let queue = self.inner.queue();
        let may_begin = !queue.desks.is_empty() && queue.running < LANES_MAX;
        may_begin.then(|| queue.moved + STILL_AFTER)
    }

    /// Everything that the lanes have told since the last time, in order. To be called in each round.
    pub(super) fn take_reports(&self, into: &mut Vec<Input>) {
        let mut reports = self.inner.reports();
        reports.is_awaited = false;
        into.append(&mut reports.inputs);
    }

    /// Sees to it that there are lanes for what is queued. To be called at the end of each round.
    pub(super) fn start(&self) {
        let mut queue = self.inner.queue();
        let now = time::now();
        if queue.desks.is_empty() {
            queue.moved = now;
            return;
        }
        let stands_still = queue.running > 0 && now >= queue.moved + STILL_AFTER;
        let needed = (1 + queue.bytes / LANE_BYTES).min(compute::cores()).min(queue.desks.len());
        let wanted = needed.max(queue.running + usize::from(stands_still)).min(LANES_MAX);
        let more = wanted.saturating_sub(queue.running);
        queue.running += more;
        if more > 0 {
            queue.moved = now;
        }
        drop(queue);
        if stands_still && more > 0 {
            rt::mark("a lane of state machines stood still, and another one began");
        }
        (0..more).for_each(|_| self.inner.begin());
    }
}

impl Inner {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a lane, which is counted already.
    fn begin(self: &Arc<Self>) {
        let mut lane = Lane { inner: self.clone(), counts: true };
        rt::spawn("raft-apply", compute::io_turns(move || lane.turn()));
    }

    /// Wakes the driver if there is something to be told, and it does not know yet.
    fn wake(&self, reports: &mut Reports) {
        if !reports.inputs.is_empty() && !std::mem::replace(&mut reports.is_awaited, true) {
            report(&self.driver, Input::LanesReport);
        }
    }
}

/// One lane, under way.
pub(super) struct Lane {
    inner: Arc<Inner>,
    /// Whether it is among those that `Queue::running` counts.
    counts: bool,
}

impl Lane {
    /// Does one group's work; false if there was none.
    fn turn(&mut self) -> bool {
        let Some(desk) = self.take() else { return false };
        if desk.work(self) {
            Lanes { inner: self.inner.clone() }.queue(desk);
        }
        true
    }

    /// The next group; `None` ends the lane.
    fn take(&mut self) -> Option<Arc<dyn Desk>> {
        let mut queue = self.inner.queue();
        queue.running += usize::from(!std::mem::replace(&mut self.counts, true));
        let next = if queue.running <= LANES_MAX { queue.desks.pop_front() } else { None };
        let Some((desk, bytes)) = next else {
            queue.running -= 1;
            self.counts = false;
            return None;
        };
        queue.bytes -= bytes;
        queue.moved = time::now();
        Some(desk)
    }

    /// What follows takes long: the other groups get another lane meanwhile.
    pub(super) fn step_aside(&mut self) {
        self.wake_driver();
        if std::mem::take(&mut self.counts) {
            self.inner.queue().running -= 1;
            Lanes { inner: self.inner.clone() }.start();
        }
    }

    /// The group's state has everything up to `index`. Nobody waits for the driver to know: it looks in its next round, at the
    /// latest when the lane ends.
    pub(super) fn applied(&mut self, group: GroupId, index: LogIndex) {
        let mut reports = self.inner.reports();
        reports.inputs.push(Input::Applied { group, index });
        if reports.inputs.len() >= REPORTS_MAX {
            self.inner.wake(&mut reports);
        }
    }

    /// Tells the driver at once, after all that was told before.
    pub(super) fn report(&mut self, input: Input) {
        let mut reports = self.inner.reports();
        reports.inputs.push(input);
        self.inner.wake(&mut reports);
    }

    /// Tells the driver what was applied up to now.
    pub(super) fn wake_driver(&mut self) {
        self.inner.wake(&mut self.inner.reports());
    }
}

impl Drop for Lane {
    /// Also when a state machine panicked: the driver begins another lane for the other groups. Not from here, where the
    /// runtime may be going down and would drop the next one in turn.
    fn drop(&mut self) {
        self.wake_driver();
        if self.counts {
            let mut queue = self.inner.queue();
            queue.running -= 1;
            if !queue.desks.is_empty() {
                drop(queue);
                report(&self.inner.driver, Input::LanesReport);
            }
        }
    }
}
