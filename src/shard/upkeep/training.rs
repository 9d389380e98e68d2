//! The rows a training is built from: all points of the shard as they were at one log index, from a view of then or, when a
//! replica makes up for it after a restart, from a later view and the points kept since. Called by `job`.

use crate::{
    index::{self, Built, IndexSpec, TrainError},
    rt::shutdown::Shutdown,
    shard::{indexes::prepared, records::View, round::components},
    types::VectorName,
};

/// A training under way.
pub struct Training {
    pub view: View,
    /// Rows are those of this log index.
    pub at: u64,
    pub name: VectorName,
    pub spec: IndexSpec,
    /// How many points there were then: decides the size of the sample.
    pub points: usize,
    /// The same on every replica.
    pub seed: u64,
    pub threads: usize,
    /// A node that stops does not wait for a training.
    pub stop: Shutdown,
}

impl Training {
    /// Builds the lists. Cost: INDEX.md, "Building"; two passes over all points.
    pub fn run(self) -> Result<Built, TrainError> {
        let (spec, seed, threads, stop) = (self.spec.clone(), self.seed, self.threads, self.stop.clone());
        let cancelled = || stop.is_triggered();
        index::train(&spec, &mut { self }, &index::TrainOptions { seed, threads, cancelled: &cancelled })
    }
}

impl index::RowSource for Training {
    fn rows_hint(&self) -> usize {
        self.points
    }

    fn visit(&mut self, visit: &mut index::RowVisitor<'_>) -> Result<(), index::SourceError> {
        self.view.visit_as_of(self.at, &mut |id, record| {
            if let Some(vector) = record.vectors.get(self.name.as_str()) {
                visit(id, record.version, &prepared(self.spec.metric, components(vector)));
            }
            Ok(!self.stop.is_triggered())
        })?;
        if self.stop.is_triggered() { Err("the shard is closing".into()) } else { Ok(()) }
    }
}
