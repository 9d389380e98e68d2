//! The bundled sample: English words and their GloVe vectors (see samples/README.md), parsed from the program itself. Called by
//! `quickstart`.

use crate::cli::import::row::{Record, RowId};
use half::f16;
use serde_json::Map;

/// Elements of a word's vector.
pub const DIMENSION: usize = 100;

const WORDS: &str = include_str!("../../../samples/words.txt");
const VECTORS: &[u8] = include_bytes!("../../../samples/words.f16");
const QUERIES: &str = include_str!("../../../samples/queries.txt");

const _: () = assert!(VECTORS.len().is_multiple_of(2 * DIMENSION), "whole rows of f16");

/// How many words there are.
pub const COUNT: usize = VECTORS.len() / (2 * DIMENSION);

/// A document for each word: the word is its id, its place by frequency its metadata.
pub fn records() -> impl Iterator<Item = Record> {
    WORDS.lines().enumerate().map(|(row, word)| {
        let metadata: Map<_, _> = [
            ("word".to_owned(), word.into()),
            ("rank".to_owned(), (row + 1).into()),
            ("length".to_owned(), word.len().into()),
        ]
        .into_iter()
        .collect();
        Record { id: RowId::Text(word.to_owned()), vector: vector(row), metadata }
    })
}

/// The vector of a word.
pub fn vector_of(word: &str) -> Option<Vec<f32>> {
    WORDS.lines().position(|known| known == word).map(vector)
}

/// Words whose neighbours can be judged at a glance.
pub fn queries() -> impl Iterator<Item = &'static str> {
    QUERIES.lines()
}

fn vector(row: usize) -> Vec<f32> {
    let bytes = &VECTORS[row * 2 * DIMENSION..][..2 * DIMENSION];
    bytes.chunks_exact(2).map(|x| f16::from_le_bytes([x[0], x[1]]).to_f32()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_word_has_a_vector_and_every_query_is_a_word() {
        let words: BTreeSet<&str> = WORDS.lines().collect();
        assert_eq!((WORDS.lines().count(), words.len()), (COUNT, COUNT));
        assert!(
            records()
                .all(|record| record.vector.iter().all(|x| x.is_finite()) && record.vector.iter().any(|x| *x != 0.0))
        );
        assert_eq!(queries().count(), 20);
        assert!(queries().all(|query| words.contains(query)));
    }

    #[test]
    fn neighbours_make_sense() {
        let cosine = |a: &[f32], b: &[f32]| {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
            dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
        };
        for (query, among) in [("king", "queen"), ("jazz", "blues"), ("python", "perl"), ("piano", "violin")] {
            let vector = vector_of(query).unwrap();
            let mut near: Vec<(f32, String)> =
                records().map(|record| (cosine(&vector, &record.vector), record.id.to_string())).collect();
            near.sort_by(|a, b| b.0.total_cmp(&a.0));
            assert_eq!(near[0].1, query);
            assert!(near[1..6].iter().any(|(_, word)| word == among), "{query}: {:?}", &near[..6]);
        }
    }
}
