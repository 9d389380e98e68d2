//! The threads that help [`spread`](super::spread::spread), and what they are asked to help with. They are made when first asked for, at most as
//! many as there are cores, and end when nobody has asked for a while. Promise: none touches what a caller lent once the caller goes on.
//! Called by `spread`; not there in the simulation.

use super::spread::source::{COMPUTING, IS_COUNTED, lock};
use std::{
    any::Any,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, PoisonError, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

type Panic = Box<dyn Any + Send>;

/// How long a helper without work stays.
const STAYS: Duration = Duration::from_secs(10);

/// There are never more threads than cores, nor more requests than callers claimed cores for.
struct Waiting {
    requests: VecDeque<Arc<Request>>,
    threads: usize,
    sleeping: usize,
}

static WAITING: Mutex<Waiting> = Mutex::new(Waiting { requests: VecDeque::new(), threads: 0, sleeping: 0 });
static POSTED: Condvar = Condvar::new();

/// A caller's wish for help: it stands in the queue once for each helper wanted.
struct Request {
    help: *const (dyn Fn() + Sync),
    state: Mutex<State>,
    ended: Condvar,
}

struct State {
    /// Helpers that may still come.
    wanted: usize,
    /// Helpers at work.
    helping: usize,
    panic: Option<Panic>,
}

// SAFETY: of the fields only `help` is not Send by itself. What it points to is Sync, so any thread may call it, and
// `Request::serve` says why it is there when it is called.
unsafe impl Send for Request {}
// SAFETY: as for Send; everything else is behind a lock.
unsafe impl Sync for Request {}

/// Runs `own` while up to `count` helpers, which the caller has counted as computing, run `help`; returns when none does any
/// more, with the panic of one that did not end well.
pub(super) fn with_help(count: usize, help: &(dyn Fn() + Sync), own: impl FnOnce()) -> Option<Panic> {
    // SAFETY: only the lifetime changes. `Asked` is dropped before this function returns or unwinds, and the drop ends only when
    // no helper runs `help` and none can begin to: nobody calls it later.
    let help = unsafe { std::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(help) };
    let state = Mutex::new(State { wanted: count, helping: 0, panic: None });
    let asked = Asked(Arc::new(Request { help, state, ended: Condvar::new() }));
    post(&asked.0, count);
    own();
    let request = Arc::clone(&asked.0);
    drop(asked);
    lock(&request.state).panic.take()
}

/// Puts the request into the queue, and sees to it that there are threads to take it out. Where none can be made the caller does
/// everything.
fn post(request: &Arc<Request>, count: usize) {
    let mut waiting = lock(&WAITING);
    waiting.requests.extend((0..count).map(|_| Arc::clone(request)));
    while waiting.sleeping < waiting.requests.len() && waiting.start_thread() {}
    drop(waiting);
    (0..count).for_each(|_| POSTED.notify_one());
}

/// What a caller asked for, until it is dropped.
struct Asked(Arc<Request>);

impl Drop for Asked {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        let nobody_came = std::mem::take(&mut state.wanted);
        COMPUTING.fetch_sub(nobody_came, Relaxed);
        while state.helping > 0 {
            state = self.0.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        if nobody_came > 0 {
            lock(&WAITING).requests.retain(|request| !Arc::ptr_eq(request, &self.0));
        }
    }
}

impl Request {
    /// Helps, unless the caller wants no more help.
    fn serve(&self) {
        let mut state = lock(&self.state);
        if state.wanted == 0 {
            return;
        }
        state.wanted -= 1;
        state.helping += 1;
        drop(state);
        // SAFETY: `with_help` borrows what `help` points to until `Asked` is dropped, which sets `wanted` to 0 and waits until
        // `helping` is 0. It was not 0 under this lock, so that drop has yet to come, and will wait for the end of this call.
        let help = unsafe { &*self.help };
        let ended = catch_unwind(AssertUnwindSafe(help));
        COMPUTING.fetch_sub(1, Relaxed);
        let mut state = lock(&self.state);
        state.panic = state.panic.take().or(ended.err());
        state.helping -= 1;
        if state.helping == 0 {
            self.ended.notify_one();
        }
    }
}

impl Waiting {
    /// Whether there is a thread more, which counts as sleeping until it has found work.
    fn start_thread(&mut self) -> bool {
        if self.threads >= super::cores() {
            return false;
        }
        let builder = thread::Builder::new().name("vectorsphere-helper".to_owned());
        let is_made = builder.spawn(run).is_ok();
        self.threads += usize::from(is_made);
        self.sleeping += usize::from(is_made);
        is_made
    }
}

/// A helper's life: takes requests until there was none for a while.
fn run() {
    IS_COUNTED.set(true);
    let mut waiting = lock(&WAITING);
    loop {
        if let Some(request) = waiting.requests.pop_front() {
            waiting.sleeping -= 1;
            drop(waiting);
            request.serve();
            drop(request);
            waiting = lock(&WAITING);
            waiting.sleeping += 1;
            continue;
        }
        let (next, timeout) = POSTED.wait_timeout(waiting, STAYS).unwrap_or_else(PoisonError::into_inner);
        waiting = next;
        if timeout.timed_out() && waiting.requests.is_empty() {
            waiting.sleeping -= 1;
            waiting.threads -= 1;
            return;
        }
    }
}
