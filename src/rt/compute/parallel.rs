//! Computation spread over threads, for the synchronous rooms: [`parallel`] is the only way by which `index` uses more than one
//! core. It depends on nothing else of this room, and it promises that its result never depends on the number of threads, only
//! on the parts: those who want the same bits everywhere cut their work into parts of a fixed size. Called by `index`.

/// Runs `work` once for each part, on at most `threads` threads (the caller's among them), and returns the results in the order
/// of the parts. Each thread takes the next part when it is done with one, so parts need not be equally long. A panic in `work`
/// goes on in the caller, when the other threads have ended. In the simulation everything runs in place.
///
/// Cost beyond the work: about 20 µs for each further thread, so parts should last a millisecond together.
pub fn parallel<P, T, W>(threads: usize, parts: impl IntoIterator<Item = P, IntoIter: Send>, work: W) -> Vec<T>
where
    T: Send,
    W: Fn(P) -> T + Sync,
{
    let parts = parts.into_iter();
    let useful = parts.size_hint().1.unwrap_or(usize::MAX);
    match threads.min(useful) {
        0 | 1 => parts.map(work).collect(),
        threads => source::spread(threads, parts, &work),
    }
}

#[cfg(not(madsim))]
mod source {
    use super::super::spread::busy;
    use std::{
        iter::Enumerate,
        panic::resume_unwind,
        sync::{Mutex, PoisonError},
        thread,
    };

    pub(super) fn spread<P, T: Send>(
        threads: usize,
        parts: impl Iterator<Item = P> + Send,
        work: &(impl Fn(P) -> T + Sync),
    ) -> Vec<T> {
        let queue = Mutex::new(parts.enumerate());
        let help = || {
            let _computing = busy();
            drain(&queue, work)
        };
        let mut results = thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(help)).collect();
            let mut results = drain(&queue, work);
            for other in others {
                results.extend(other.join().unwrap_or_else(|payload| resume_unwind(payload)));
            }
            results
        });
        results.sort_unstable_by_key(|&(number, _)| number);
        results.into_iter().map(|(_, result)| result).collect()
    }

    /// Works on parts until there is none.
    fn drain<P, T>(queue: &Mutex<Enumerate<impl Iterator<Item = P>>>, work: &impl Fn(P) -> T) -> Vec<(usize, T)> {
        // The lock is held while the next part is taken, not while it is worked on.
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        std::iter::from_fn(next).map(|(number, part)| (number, work(part))).collect()
    }
}

#[cfg(madsim)]
mod source {
    pub(super) fn spread<P, T>(_threads: usize, parts: impl Iterator<Item = P>, work: &impl Fn(P) -> T) -> Vec<T> {
        parts.map(work).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn results_are_in_the_order_of_the_parts_for_any_number_of_threads() {
        for threads in [0, 1, 2, 3, 7, 100] {
            let slow_first = |part: u64| {
                // The first parts last longest, so that they end out of order.
                (0..(20 - part) * 10_000).fold(part, |sum, i| std::hint::black_box(sum ^ i));
                part * 2
            };
            assert_eq!(parallel(threads, 0..20, slow_first), (0..40).step_by(2).collect::<Vec<_>>());
            assert!(parallel(threads, 0..0, slow_first).is_empty());
        }
    }

    #[test]
    fn parts_may_be_borrowed_mutably() {
        let mut numbers: Vec<u32> = (0..1000).collect();
        let lengths = parallel(3, numbers.chunks_mut(64), |chunk| {
            chunk.iter_mut().for_each(|n| *n += 1);
            chunk.len()
        });
        assert_eq!(numbers, (1..1001).collect::<Vec<_>>());
        assert_eq!((lengths.len(), lengths.iter().sum::<usize>()), (16, 1000));
    }

    #[test]
    fn a_panic_goes_on_in_the_caller() {
        for threads in [1, 3] {
            let run = || parallel(threads, 0..10, |part| if part == 7 { panic!("part seven") } else { part });
            let payload = catch_unwind(AssertUnwindSafe(run)).expect_err("the panic goes on here");
            assert_eq!(payload.downcast_ref::<&str>(), Some(&"part seven"));
        }
    }
}
