//! The history of a run: every operation with its process, its start, its end and its outcome.
//!
//! Invariant: an operation's end has a larger index than its start, and a process has at most one operation open.
//! A process whose operation ends [`Outcome::Unknown`] is retired, as in Jepsen: the operation may still take effect
//! later, so nothing that process does afterwards could be ordered after it. [`History::retire`] hands out a new number.

/// A place in the history. `index` orders all starts and ends of a run; `time_ns` is the run's own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    pub index: u64,
    pub time_ns: u64,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<R> {
    /// It took effect and answered `R`.
    Ok(R),
    /// It certainly had no effect; the text says why.
    Failed(String),
    /// It may have taken effect, or may do so at any later moment.
    Unknown(String),
}

/// One operation: the call `C` and, once over, its outcome with answer `R`.
#[derive(Clone, Debug)]
pub struct Operation<C, R> {
    pub process: u64,
    pub call: C,
    pub start: Stamp,
    /// `None` while it runs; an operation still open when the run ends counts as unknown.
    pub end: Option<(Stamp, Outcome<R>)>,
}

impl<C, R> Operation<C, R> {
    /// The answer, if the operation is known to have taken effect.
    pub fn answer(&self) -> Option<&R> {
        match &self.end {
            Some((_, Outcome::Ok(answer))) => Some(answer),
            _ => None,
        }
    }

    /// Whether it is known to have had no effect.
    pub fn failed(&self) -> bool {
        matches!(self.end, Some((_, Outcome::Failed(_))))
    }

    /// Whether nobody can say if it took effect.
    pub fn unknown(&self) -> bool {
        matches!(self.end, None | Some((_, Outcome::Unknown(_))))
    }

    /// The index before which it took effect; `u64::MAX` when that may still happen.
    pub fn end_index(&self) -> u64 {
        match &self.end {
            Some((stamp, Outcome::Ok(_) | Outcome::Failed(_))) => stamp.index,
            _ => u64::MAX,
        }
    }
}

/// Names an open operation of a [`History`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOperation(usize);

/// Operations in the order in which they started.
#[derive(Clone, Debug)]
pub struct History<C, R> {
    pub operations: Vec<Operation<C, R>>,
    next_index: u64,
    processes: u64,
}

impl<C, R> History<C, R> {
    /// An empty history of `processes` processes, numbered from 0.
    pub fn new(processes: u64) -> Self {
        History { operations: Vec::new(), next_index: 0, processes }
    }

    fn stamp(&mut self, time_ns: u64) -> Stamp {
        let index = self.next_index;
        self.next_index += 1;
        Stamp { index, time_ns }
    }

    /// `process` starts `call`.
    pub fn start(&mut self, process: u64, time_ns: u64, call: C) -> OpenOperation {
        let start = self.stamp(time_ns);
        self.operations.push(Operation { process, call, start, end: None });
        OpenOperation(self.operations.len() - 1)
    }

    /// The operation ends.
    pub fn end(&mut self, open: OpenOperation, time_ns: u64, outcome: Outcome<R>) {
        let stamp = self.stamp(time_ns);
        let operation = &mut self.operations[open.0];
        assert!(operation.end.is_none(), "an operation ends once");
        operation.end = Some((stamp, outcome));
    }

    /// A fresh process number, for a client whose last operation's outcome is unknown.
    pub fn retire(&mut self) -> u64 {
        self.processes += 1;
        self.processes - 1
    }

    /// How many operations (succeeded, failed, ended unknown).
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |f: fn(&Operation<C, R>) -> bool| self.operations.iter().filter(|o| f(o)).count();
        (count(|o| o.answer().is_some()), count(Operation::failed), count(Operation::unknown))
    }
}
