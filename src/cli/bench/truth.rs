//! Queries and ground truth from files: rows of vectors, and rows of the ids of their true neighbours, nearest first. Called by
//! `bench`.

use crate::cli::import::{
    fault::ReadError,
    format::Format,
    npy::NpyFile,
    open,
    schema::SchemaChoice,
    vecs::{VecsElement, VecsReader},
};
use std::path::Path;

/// The most queries read: more teach nothing and would fill the memory.
const QUERIES_MAX: usize = 100_000;

/// The vectors of a file of any importable format. Blocking.
pub fn read_vectors(path: &Path) -> Result<Vec<Vec<f32>>, ReadError> {
    let schema = open::inspect(path, Format::detect(path)?, &SchemaChoice::default())?;
    let mut reader = open::open(path, &schema)?;
    let mut vectors = Vec::new();
    while let Some(row) = reader.next_row()?.filter(|_| vectors.len() < QUERIES_MAX) {
        let record =
            row.content.map_err(|fault| ReadError::Schema { path: path.to_owned(), problem: fault.to_string() })?;
        vectors.push(record.vector);
    }
    Ok(vectors)
}

/// Rows of ids from an npy file of integers or an ivecs file, as many as there are queries at most. Blocking.
pub fn read_truth(path: &Path, queries: usize) -> Result<Vec<Vec<u64>>, ReadError> {
    let mut truth = Vec::new();
    if Format::detect(path)? == Format::Npy {
        let mut npy = NpyFile::open(path)?;
        let element = npy.element();
        while truth.len() < queries {
            let Some(bytes) = npy.next_bytes()? else { break };
            let ids = element.to_ids(bytes).ok_or_else(|| ReadError::Schema {
                path: path.to_owned(),
                problem: format!("row {} is not of ids: whole numbers from 0", truth.len()),
            })?;
            truth.push(ids);
        }
    } else {
        let mut vecs = VecsReader::open(path, VecsElement::I32, 0)?;
        while truth.len() < queries {
            let Some(ids) = vecs.next_ids()? else { break };
            truth.push(ids);
        }
    }
    Ok(truth)
}

/// How many of the `k` nearest were among the first `k` found.
pub fn hits(found: &[String], truth: &[u64], k: usize) -> usize {
    let truth = &truth[..k.min(truth.len())];
    found.iter().take(k).filter(|id| id.parse::<u64>().is_ok_and(|id| truth.contains(&id))).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_counts_the_first_k() {
        let found = ["1", "2", "x", "9"].map(str::to_owned);
        assert_eq!(hits(&found, &[1, 9, 2, 4], 3), 2);
        assert_eq!(hits(&found, &[1, 9, 2, 4], 4), 3);
        assert_eq!(hits(&found, &[], 4), 0);
    }

    #[test]
    fn truth_reads_from_both_formats() {
        let directory = tempfile::tempdir().unwrap();
        let ivecs = directory.path().join("t.ivecs");
        std::fs::write(&ivecs, [2i32, 5, 6, 2, 7, 8].map(i32::to_le_bytes).concat()).unwrap();
        assert_eq!(read_truth(&ivecs, 10).unwrap(), [[5, 6], [7, 8]]);
        assert_eq!(read_truth(&ivecs, 1).unwrap(), [[5, 6]]);
        let npy = directory.path().join("t.npy");
        let mut bytes = b"\x93NUMPY\x01\0\x3a\0".to_vec();
        bytes.extend(format!("{:<58}", "{'descr': '<i8', 'fortran_order': False, 'shape': (1, 2)}").bytes());
        bytes.extend([3i64, 4].map(i64::to_le_bytes).concat());
        std::fs::write(&npy, bytes).unwrap();
        assert_eq!(read_truth(&npy, 10).unwrap(), [[3, 4]]);
    }
}
