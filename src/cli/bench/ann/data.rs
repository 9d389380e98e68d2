//! The vectors of `bench ann`: .npy files in memory, and as the rows of a build. Called by `ann`.

use crate::{
    cli::import::{fault::ReadError, npy::NpyFile},
    index::{RowSource, RowVisitor, SourceError, normalize},
    types::{Metric, PointId},
};
use std::path::Path;

/// All rows of a file, of unit length where the metric is cosine.
pub(in crate::cli::bench) struct Matrix {
    pub(in crate::cli::bench) dimension: usize,
    pub(in crate::cli::bench) values: Vec<f32>,
}

impl Matrix {
    pub(in crate::cli::bench) fn read(path: &Path, metric: Metric) -> Result<Matrix, ReadError> {
        let mut file = NpyFile::open(path)?;
        let (dimension, element) = (file.columns(), file.element());
        // The file is as long as its header says, so this is no more than twice what is on disk.
        let mut values = Vec::with_capacity(file.rows() as usize * dimension);
        while let Some(bytes) = file.next_bytes()? {
            let mut row = element.to_f32(bytes);
            if metric == Metric::Cosine {
                normalize(&mut row);
            }
            values.extend(row);
        }
        Ok(Matrix { dimension, values })
    }

    pub(in crate::cli::bench) fn rows(&self) -> usize {
        self.values.len() / self.dimension
    }

    pub(in crate::cli::bench) fn row(&self, row: u64) -> &[f32] {
        &self.values[row as usize * self.dimension..][..self.dimension]
    }

    pub(in crate::cli::bench) fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.dimension)
    }
}

/// A matrix as the source of a build; ids are row numbers.
pub(in crate::cli::bench) struct Rows<'a>(pub(in crate::cli::bench) &'a Matrix);

impl RowSource for Rows<'_> {
    fn rows_hint(&self) -> usize {
        self.0.rows()
    }

    fn visit(&mut self, visit: &mut RowVisitor<'_>) -> Result<(), SourceError> {
        (0..).zip(self.0.iter()).for_each(|(row, vector)| visit(PointId::Num(row), 1, vector));
        Ok(())
    }
}
