//! Processor time: what work cost, whatever else the machine did meanwhile. For measuring only: no behaviour may depend on it, and
//! in the simulation it stands still. Called by the command line's measurements.

use std::time::Duration;

/// Processor time of the calling thread so far, user and system. Cost: about 200 ns.
pub fn thread() -> Duration {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Processor time of all threads of this process so far.
pub fn process() -> Duration {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn read(clock: libc::clockid_t) -> Duration {
    if super::SIMULATED {
        return Duration::ZERO;
    }
    let mut spent = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `spent` is a timespec of ours to write to; both clocks exist on every Unix this compiles for.
    let result = unsafe { libc::clock_gettime(clock, &mut spent) };
    if result != 0 {
        // Only an unknown clock fails, and these are known.
        return Duration::ZERO;
    }
    Duration::new(spent.tv_sec.unsigned_abs(), spent.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_costs_processor_time_and_waiting_does_not() {
        let (thread_before, process_before) = (thread(), process());
        let sum = (0..2_000_000u64).fold(0u64, |sum, n| sum.rotate_left(1) ^ n);
        assert_ne!(std::hint::black_box(sum), 1);
        let worked = thread() - thread_before;
        assert!(worked > Duration::ZERO && process() - process_before >= worked);
        std::thread::sleep(Duration::from_millis(200));
        assert!(thread() - thread_before < worked + Duration::from_millis(100));
    }
}
