//! One number for all that answers of an index depend on: equal for two indexes whose rows, codes, centroids and plans are equal to
//! the bit, wherever these are in memory and whatever ordinals their points have there. Called by `shard`, to compare replicas.

use super::list::LiveList;
use super::points::Points;
use super::sealed::Sealed;
use super::tail::Tail;
use super::vector_index::VectorIndex;
use crate::types::PointId;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// A consistent copy of what the hash is of. Pure and `Send`: run it on any thread.
pub struct HashJob {
    tail: Tail,
    sealed: Option<Sealed>,
    points: Points,
}

impl VectorIndex {
    /// The work of computing the hash. `points` are those whose ordinals the rows have. Cost: a copy of handles and live bits.
    pub fn hash_job(&self, points: &Points) -> HashJob {
        HashJob { tail: self.tail().clone(), sealed: self.sealed(), points: points.clone() }
    }
}

impl HashJob {
    /// The hash of rows, codes, centroids and plans: xxh3-64 of the trained part list by list, and a sum over the rows of the tail,
    /// whose order means nothing. Rows are named by id and version. It means nothing once damage to the index file is known, which
    /// this finds in lists that nobody has looked at. Cost: a pass over all lists; those of a mapped file are read in.
    pub fn run(&self) -> u64 {
        let points = &self.points;
        let tail = self.tail.ordinals().filter_map(|ordinal| points.get(ordinal));
        let mut hash = Xxh3::new();
        hash.update(&tail.fold(0u64, |sum, row| sum.wrapping_add(xxh3_64(&name(row)))).to_le_bytes());
        if let Some(sealed) = &self.sealed {
            hash.update(&sealed.encode_head());
            sealed.lists.iter().for_each(|live| add_list(&mut hash, live, points));
        }
        hash.digest()
    }
}

fn add_list(hash: &mut Xxh3, live: &LiveList, points: &Points) {
    if !live.list.is_sound() {
        return;
    }
    let departed = live.departed;
    for number in [live.list.len(), live.unparted_rows, live.changed_rows, departed.rows] {
        hash.update(&(number as u64).to_le_bytes());
    }
    for sum in [live.list.residual_sum, departed.residual_sum, f64::from(live.list.inherited_error)] {
        hash.update(&sum.to_bits().to_le_bytes());
    }
    // Of dead rows, too: what is made of the list later depends on where its rows are.
    let ([_, blocks], records) = live.list.arrays();
    hash.update(blocks);
    hash.update(records);
    for slot in live.live_slots() {
        hash.update(&(slot as u64).to_le_bytes());
        hash.update(&points.get(live.list.ordinals[slot]).map_or([0; ROW_BYTES], name));
    }
}

const ROW_BYTES: usize = PointId::KEY_LEN + 8;

fn name((id, version): (PointId, u64)) -> [u8; ROW_BYTES] {
    let mut bytes = [0; ROW_BYTES];
    bytes[..PointId::KEY_LEN].copy_from_slice(&id.to_key());
    bytes[PointId::KEY_LEN..].copy_from_slice(&version.to_le_bytes());
    bytes
}
