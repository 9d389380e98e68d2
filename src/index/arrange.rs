//! Bringing an index into shape in one job: the tail's rows go into lists, then lists are split, dissolved and given new centroids
//! until they are within bounds. The job works on a copy that shares everything with the index, one [`super::FilingJob`] or
//! [`super::ReshapeJob`] after another, and hands back all steps at once: installed together, they make of the index what they made
//! of the copy, but for rows that came and went meanwhile. So what comes out depends on the moment the job was taken, the moment it
//! is installed and the changes between, and replicas that take and install at the same places of a log stay equal.
//! Taken from and installed in `vector_index`; run by `shard`.

use super::points::Points;
use super::reach::Reach;
use super::rearrange::Rearranged;
use super::vector_index::VectorIndex;

/// Steps of one job at most.
const STEPS_MAX: usize = 16;
/// No further step when so many rows were moved: searches wait while they are put in place. What is left is for the next job.
const MOVED_ROWS_MAX: usize = 32_768;

/// A consistent copy of what arranging needs. Pure and `Send`: run it on any thread.
pub struct ArrangeJob {
    pub(crate) index: VectorIndex,
    pub(crate) points: Points,
}

/// What a job hands back. Drop it off the lock: once installed it holds what was replaced.
pub struct Arranged {
    pub(crate) steps: Vec<Rearranged>,
    /// Measured anew if so much changed.
    pub(crate) reach: Option<Reach>,
}

impl ArrangeJob {
    /// Files every row of the tail and reshapes until nothing is left to do. `None` if a list of the index file is damaged, which is
    /// then noted. Cost: that of the steps, see there.
    pub fn run(mut self) -> Option<Arranged> {
        let mut steps = Vec::new();
        while steps.len() < STEPS_MAX && moved_rows(&steps) < MOVED_ROWS_MAX {
            let step = if steps.is_empty() || self.index.wants_filing() {
                self.index.filing_job(&self.points)?.run()?
            } else if self.index.wants_reshaping() {
                self.index.reshape_job()?.run()?
            } else {
                break;
            };
            // What the copy replaces by it goes at once; the step itself is for the index.
            self.index.install_rearranged(&mut step.clone());
            steps.push(step);
        }
        let reach = self.index.measured_reach(&self.points);
        Some(Arranged { steps, reach })
    }
}

impl Arranged {
    /// Rows that are elsewhere than they were: what installing it costs.
    pub fn moved_rows(&self) -> usize {
        moved_rows(&self.steps)
    }

    /// Centroids that were made.
    pub fn renewed_lists(&self) -> usize {
        self.steps.iter().map(Rearranged::renewed_lists).sum()
    }

    /// Lists that are gone because they were too small.
    pub fn dissolved_lists(&self) -> usize {
        self.steps.iter().map(Rearranged::dissolved_lists).sum()
    }
}

fn moved_rows(steps: &[Rearranged]) -> usize {
    steps.iter().map(Rearranged::moved_rows).sum()
}
