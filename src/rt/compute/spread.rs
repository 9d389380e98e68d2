//! One short computation spread over cores that are idle at the moment: [`spread`]. Unlike [`parallel`](super::parallel), whose caller
//! says how many threads it may have, nobody waits here for a thread: the caller works on the parts itself, and threads that wait for
//! such work take parts off its hands when they come by. So it pays from some 100 µs on.
//!
//! A core is idle unless a thread says that it computes ([`busy`]; all that runs behind [`cpu`](super::cpu) does). With no idle core
//! nothing is handed over, and a helper leaves after its part when more threads compute than there are cores: under load
//! each caller keeps its own thread and no other. As in `parallel` the result depends on the parts only, never on who worked on them.
//! Called by `index`; in the simulation everything runs in place.

pub use source::{Busy, busy, idle_cores};

/// Runs `work` for each part from 0 to `parts`, taken in this order, on the caller's thread and on idle cores; returns the results in the
/// order of the parts. A panic in `work` goes on in the caller, when no helper is at work any more.
pub fn spread<T: Send>(parts: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    source::spread(parts, &work)
}

#[cfg(not(madsim))]
pub(super) mod source {
    use std::{
        cell::Cell,
        marker::PhantomData,
        panic::resume_unwind,
        sync::{
            Mutex, MutexGuard, PoisonError,
            atomic::{
                AtomicUsize,
                Ordering::{AcqRel, Relaxed},
            },
        },
    };

    /// Threads that compute: only compared with the number of cores, so that it orders nothing else.
    pub(in super::super) static COMPUTING: AtomicUsize = AtomicUsize::new(0);

    thread_local! {
        /// Whether this thread is among them.
        pub(in super::super) static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
    }

    /// While there is one, its thread counts as computing.
    #[must_use]
    pub struct Busy {
        was_counted: bool,
        of_this_thread: PhantomData<*const ()>,
    }

    /// Says that this thread computes from now on.
    pub fn busy() -> Busy {
        let was_counted = IS_COUNTED.replace(true);
        if !was_counted {
            COMPUTING.fetch_add(1, Relaxed);
        }
        Busy { was_counted, of_this_thread: PhantomData }
    }

    #[cfg(test)]
    impl Busy {
        pub(super) fn was_counted_before(&self) -> bool {
            self.was_counted
        }
    }

    impl Drop for Busy {
        fn drop(&mut self) {
            if !self.was_counted {
                IS_COUNTED.set(false);
                COMPUTING.fetch_sub(1, Relaxed);
            }
        }
    }

    /// Cores on which nobody says to compute, the caller's own not among them. Cost: a look at one number.
    pub fn idle_cores() -> usize {
        let others = COMPUTING.load(Relaxed) + usize::from(!IS_COUNTED.get());
        super::super::cores().saturating_sub(others)
    }

    fn is_crowded() -> bool {
        COMPUTING.load(Relaxed) > super::super::cores()
    }

    /// Counts up to `most` helpers as computing, if there are cores for them; how many.
    fn claim(most: usize) -> usize {
        let cores = super::super::cores();
        let mut claimed = 0;
        let more = |computing: usize| {
            claimed = cores.saturating_sub(computing).min(most);
            (claimed > 0).then_some(computing + claimed)
        };
        let _none = COMPUTING.fetch_update(AcqRel, Relaxed, more);
        claimed
    }

    pub(in super::super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn spread<T: Send>(parts: usize, work: &(impl Fn(usize) -> T + Sync)) -> Vec<T> {
        let _computing = busy();
        let helpers = claim(parts.saturating_sub(1));
        if helpers == 0 {
            return (0..parts).map(work).collect();
        }
        let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(parts)));
        let drain = |may_go: &dyn Fn() -> bool| {
            let mut mine = Vec::new();
            loop {
                let part = next.fetch_add(1, Relaxed);
                if part >= parts {
                    break;
                }
                mine.push((part, work(part)));
                if may_go() {
                    break;
                }
            }
            lock(&results).append(&mut mine);
        };
        let help = || drain(&is_crowded);
        if let Some(panic) = super::super::helpers::with_help(helpers, &help, || drain(&|| false)) {
            resume_unwind(panic);
        }
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_unstable_by_key(|&(part, _)| part);
        results.into_iter().map(|(_, result)| result).collect()
    }
}

#[cfg(madsim)]
mod source {
    /// Nothing: one thread computes.
    #[must_use]
    pub struct Busy;

    /// See the production build.
    pub fn busy() -> Busy {
        Busy
    }

    /// None.
    pub fn idle_cores() -> usize {
        0
    }

    pub(super) fn spread<T>(parts: usize, work: &impl Fn(usize) -> T) -> Vec<T> {
        (0..parts).map(work).collect()
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;
    use std::{
        collections::BTreeSet,
        panic::{AssertUnwindSafe, catch_unwind},
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
        thread,
        time::{Duration, Instant},
    };

    /// What computes is counted for the whole process: tests that look at the count go one after the other. Others may compute beside
    /// them, so that none relies on idle cores.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn results_are_in_the_order_of_the_parts_whoever_works() {
        let numbers: Vec<usize> = (0..100_000).collect();
        let callers: Vec<_> = (0..6)
            .map(|caller| {
                let numbers = numbers.clone();
                thread::spawn(move || {
                    for round in 0..200 {
                        let parts = (caller + round) % 40;
                        // Borrowed from this thread's stack and gone before the next round.
                        let offset = vec![round; 100];
                        let sums = spread(parts, |part| {
                            numbers[part * 1000..][..1000].iter().sum::<usize>() + offset[part % 100]
                        });
                        let expected = |part: usize| (part * 1000..part * 1000 + 1000).sum::<usize>() + round;
                        assert_eq!(sums, (0..parts).map(expected).collect::<Vec<_>>());
                    }
                })
            })
            .collect();
        callers.into_iter().for_each(|caller| caller.join().expect("no panic"));
    }

    #[test]
    fn idle_cores_help_and_a_crowd_is_left_alone() {
        let _alone = ALONE.lock();
        if super::super::cores() < 2 {
            return;
        }
        let threads_of = |parts| {
            let seen = Mutex::new(BTreeSet::new());
            spread(parts, |_| {
                seen.lock().expect("no panic").insert(format!("{:?}", thread::current().id()));
                thread::sleep(Duration::from_millis(2));
            });
            seen.into_inner().expect("no panic").len()
        };
        // Other tests may take the cores now and then.
        let deadline = Instant::now() + Duration::from_secs(120);
        while threads_of(20) < 2 {
            assert!(Instant::now() < deadline, "nobody helps");
        }
        assert!(threads_of(20) <= super::super::cores());
        let crowd: Vec<_> = (0..super::super::cores())
            .map(|_| {
                let (say, said) = std::sync::mpsc::channel();
                let (end, ended) = std::sync::mpsc::channel::<()>();
                let thread = thread::spawn(move || {
                    let _busy = busy();
                    say.send(()).expect("somebody waits");
                    let _end = ended.recv();
                });
                said.recv().expect("it began");
                (end, thread)
            })
            .collect();
        assert_eq!((idle_cores(), threads_of(20)), (0, 1));
        for (end, thread) in crowd {
            end.send(()).expect("it waits");
            thread.join().expect("no panic");
        }
    }

    #[test]
    fn nobody_works_on_a_part_once_the_caller_goes_on() {
        for round in 0..2000 {
            let working = AtomicUsize::new(0);
            let done = spread(4, |part| {
                working.fetch_add(1, SeqCst);
                let sum = (0..part * 50).fold(round, |sum, i| std::hint::black_box(sum ^ i));
                working.fetch_sub(1, SeqCst);
                sum
            });
            assert_eq!((done.len(), working.load(SeqCst)), (4, 0));
        }
    }

    #[test]
    fn a_panic_goes_on_in_the_caller_and_helpers_survive_it() {
        for round in 0..50 {
            let run = || {
                spread(30, |part| {
                    thread::sleep(Duration::from_micros(50));
                    if part == round % 30 { panic!("part {part}") } else { part }
                })
            };
            let payload = catch_unwind(AssertUnwindSafe(run)).expect_err("the panic goes on here");
            assert_eq!(payload.downcast_ref::<String>(), Some(&format!("part {}", round % 30)));
            assert_eq!(spread(30, |part| part), (0..30).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_thread_is_counted_once() {
        let _alone = ALONE.lock();
        thread::spawn(|| {
            let outer = busy();
            let inner = busy();
            assert!(!outer.was_counted_before() && inner.was_counted_before());
            drop(inner);
            assert!(busy().was_counted_before(), "the outer one still stands");
            drop(outer);
            assert!(!busy().was_counted_before());
        })
        .join()
        .expect("no panic");
    }
}
