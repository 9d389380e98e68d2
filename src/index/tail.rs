//! The flat part: f32 rows in append-only chunks with live bits, searched exactly. It is the whole of a flat index, and the
//! not yet filed rows of a trained one. Called by `vector_index` and `filing`.

use super::allowed::Allowed;
use super::distance;
use super::kernels::Kernels;
use super::points::Points;
use super::spec::Hit;
use super::threads::{SharedLimit, Threads, exact_nanos};
use super::top::TopHits;
use crate::types::Metric;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows a chunk holds at most.
const CHUNK_ROWS_MAX: usize = 256;
/// Chunks a tail has when it is to be filed.
const CHUNKS_FILED: usize = 8;

/// Where a row of the tail is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TailSlot {
    pub(crate) chunk: u32,
    pub(crate) slot: u32,
}

/// The rows of a chunk, in slot order.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChunkRows {
    pub(crate) ordinals: Vec<u32>,
    /// `d` numbers a row.
    pub(crate) vectors: Vec<f32>,
}

#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub(crate) rows: Arc<ChunkRows>,
    live: [u64; CHUNK_ROWS_MAX / 64],
    live_rows: usize,
    /// Rows it holds when full.
    capacity: usize,
}

impl Chunk {
    fn new(dimension: usize, capacity: usize) -> Chunk {
        let rows =
            ChunkRows { ordinals: Vec::with_capacity(capacity), vectors: Vec::with_capacity(capacity * dimension) };
        Chunk { rows: Arc::new(rows), live: [0; CHUNK_ROWS_MAX / 64], live_rows: 0, capacity }
    }

    fn is_full(&self) -> bool {
        self.rows.ordinals.len() == self.capacity
    }

    /// A damaged index file may name places there never were.
    fn has_live(&self, slot: usize) -> bool {
        self.live.get(slot / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    fn is_sparse(&self) -> bool {
        self.live_rows * 2 < self.capacity
    }

    fn clear(&mut self, slot: usize) {
        self.live[slot / 64] &= !(1 << (slot % 64));
        self.live_rows -= 1;
    }

    /// Slots of live rows, ascending.
    pub(crate) fn live_slots(&self) -> impl Iterator<Item = usize> + '_ {
        self.live.iter().enumerate().flat_map(|(i, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
                rest &= rest - 1;
                Some(i * 64 + bit)
            })
        })
    }
}

/// What a search asks of the tail: the `k` nearest.
#[derive(Clone, Copy)]
pub(crate) struct TailScan<'a> {
    pub(crate) points: &'a Points,
    pub(crate) metric: Metric,
    pub(crate) query: &'a [f32],
    pub(crate) k: usize,
    pub(crate) allowed: Option<&'a Allowed>,
    pub(crate) kernels: &'a Kernels,
    pub(crate) threads: Threads,
}

/// The chunks, by number; numbers only grow, so a [`TailSlot`] never comes to mean another row.
#[derive(Clone, Debug)]
pub(crate) struct Tail {
    dimension: usize,
    chunk_rows: usize,
    chunks: BTreeMap<u32, Chunk>,
    next: u32,
    live_rows: usize,
}

/// Live rows of a chunk that was mostly dead, taken out to be appended again.
pub(crate) struct Evicted {
    pub(crate) rows: Arc<ChunkRows>,
    pub(crate) slots: Vec<usize>,
}

impl Tail {
    /// An empty tail that is filed at `rows_max` rows: its chunks are small enough that most of it can be, then.
    pub(crate) fn new(dimension: usize, rows_max: usize) -> Tail {
        let chunk_rows = (rows_max / CHUNKS_FILED).clamp(1, CHUNK_ROWS_MAX);
        Tail { dimension, chunk_rows, chunks: BTreeMap::new(), next: 0, live_rows: 0 }
    }

    pub(crate) fn live_rows(&self) -> usize {
        self.live_rows
    }

    /// Appends a row. Cost: the copy.
    pub(crate) fn push(&mut self, ordinal: u32, vector: &[f32]) -> TailSlot {
        let chunk_number = match self.chunks.last_key_value() {
            Some((&number, chunk)) if !chunk.is_full() => number,
            _ => {
                let number = self.next;
                self.next += 1;
                self.chunks.insert(number, Chunk::new(self.dimension, self.chunk_rows));
                number
            }
        };
        let chunk = self.chunks.entry(chunk_number).or_insert_with(|| Chunk::new(self.dimension, self.chunk_rows));
        // Copies only if a job has taken the chunk before it was full.
        let rows = Arc::make_mut(&mut chunk.rows);
        let slot = rows.ordinals.len();
        rows.ordinals.push(ordinal);
        rows.vectors.extend_from_slice(vector);
        chunk.live[slot / 64] |= 1 << (slot % 64);
        chunk.live_rows += 1;
        self.live_rows += 1;
        TailSlot { chunk: chunk_number, slot: slot as u32 }
    }

    /// Ordinals of the live rows, oldest chunk first.
    pub(crate) fn ordinals(&self) -> impl Iterator<Item = u32> + '_ {
        self.chunks.values().flat_map(|chunk| chunk.live_slots().map(|slot| chunk.rows.ordinals[slot]))
    }

    /// Makes a live row dead. A full chunk with fewer than half of its rows live leaves the tail; those rows are returned, still
    /// counted as dead: the caller appends them again, so that memory stays below twice the live rows.
    pub(crate) fn remove(&mut self, at: TailSlot) -> Option<Evicted> {
        let chunk = self.chunks.get_mut(&at.chunk).filter(|chunk| chunk.has_live(at.slot as usize))?;
        chunk.clear(at.slot as usize);
        self.live_rows -= 1;
        if chunk.is_full() && chunk.is_sparse() { self.evict(at.chunk) } else { None }
    }

    /// Makes a live row dead and drops its chunk if that was the last; sparse chunks wait for [`Tail::sweep`].
    pub(crate) fn clear(&mut self, at: TailSlot) {
        let Some(chunk) = self.chunks.get_mut(&at.chunk).filter(|c| c.has_live(at.slot as usize)) else { return };
        chunk.clear(at.slot as usize);
        self.live_rows -= 1;
        if chunk.is_full() && chunk.live_rows == 0 {
            self.chunks.remove(&at.chunk);
        }
    }

    /// Takes out every full chunk with fewer than half of its rows live.
    pub(crate) fn sweep(&mut self) -> Vec<Evicted> {
        let sparse: Vec<u32> = self.full_chunks().filter(|(_, c)| c.is_sparse()).map(|(number, _)| number).collect();
        sparse.into_iter().filter_map(|number| self.evict(number)).collect()
    }

    fn evict(&mut self, number: u32) -> Option<Evicted> {
        let chunk = self.chunks.remove(&number)?;
        self.live_rows -= chunk.live_rows;
        let slots: Vec<usize> = chunk.live_slots().collect();
        (!slots.is_empty()).then_some(Evicted { rows: chunk.rows, slots })
    }

    /// Begins a new chunk with the next row; the number it will have.
    pub(crate) fn close_chunk(&mut self) -> u32 {
        if let Some(mut last) = self.chunks.last_entry() {
            let rows = last.get().rows.ordinals.len();
            last.get_mut().capacity = rows;
        }
        self.next
    }

    /// Takes out all chunks before a number.
    pub(crate) fn split_before(&mut self, number: u32) -> Vec<Chunk> {
        let kept = self.chunks.split_off(&number);
        let before = std::mem::replace(&mut self.chunks, kept);
        self.live_rows = self.chunks.values().map(|chunk| chunk.live_rows).sum();
        before.into_values().collect()
    }

    /// The full chunks, oldest first.
    pub(crate) fn full_chunks(&self) -> impl Iterator<Item = (u32, &Chunk)> {
        self.chunks.iter().filter(|(_, chunk)| chunk.is_full()).map(|(&number, chunk)| (number, chunk))
    }

    /// All chunks, oldest first.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = (u32, &Chunk)> {
        self.chunks.iter().map(|(&number, chunk)| (number, chunk))
    }

    /// The row of a slot.
    pub(crate) fn vector(&self, at: TailSlot) -> Option<&[f32]> {
        let rows = &self.chunks.get(&at.chunk)?.rows;
        rows.vectors.get(at.slot as usize * self.dimension..(at.slot as usize + 1) * self.dimension)
    }

    /// Scores every live row exactly that is allowed (none given: every one); returns how many.
    pub(crate) fn search(&self, scan: TailScan<'_>, top: &mut TopHits) -> usize {
        let nanos = || self.live_rows * exact_nanos(self.dimension);
        if !scan.threads.pays(nanos) {
            return self.scan_chunks(self.chunks.values(), scan, top);
        }
        let chunks: Vec<&Chunk> = self.chunks.values().collect();
        let size = scan.threads.items_a_part(chunks.len(), nanos());
        let limit = SharedLimit::new(f32::INFINITY);
        let parts = scan.threads.over(chunks.len(), size, |part| {
            let mut top = TopHits::below(scan.k, limit.get());
            let scored = self.scan_chunks(chunks[part].iter().copied(), scan, &mut top);
            limit.lower(top.limit());
            (top, scored)
        });
        let scored = parts.iter().map(|(_, scored)| scored).sum();
        top.take_all(parts.into_iter().map(|(top, _)| top));
        scored
    }

    fn scan_chunks<'a>(
        &self,
        chunks: impl Iterator<Item = &'a Chunk>,
        TailScan { points, metric, query, allowed, kernels, .. }: TailScan<'_>,
        top: &mut TopHits,
    ) -> usize {
        let mut scored = 0;
        for chunk in chunks {
            let is_allowed = |slot: &usize| allowed.is_none_or(|allowed| allowed.contains(chunk.rows.ordinals[*slot]));
            for slot in chunk.live_slots().filter(is_allowed) {
                let vector = &chunk.rows.vectors[slot * self.dimension..(slot + 1) * self.dimension];
                let distance = distance::exact(kernels, metric, query, vector);
                scored += 1;
                if top.accepts(distance) {
                    top.extend(Hit::of(points, chunk.rows.ordinals[slot], distance, true));
                }
            }
        }
        scored
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let row = 4 * self.dimension + 4;
        self.chunks.len() * (self.chunk_rows * row + size_of::<Chunk>() + size_of::<ChunkRows>())
    }
}
