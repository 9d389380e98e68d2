//! The bytes of [`Points`]: ordinals u32, whether there are UUIDs u32, then by ordinal: live bits, versions, low halves of ids
//! and, with UUIDs, high halves and bits. Integers little-endian, bits in words of 64. The table is made again on reading.
//! Called by `shard`, which keeps them in the index file.

use super::super::file::{IndexFileError, field};
use super::{Ids, Points, Table};
use std::cmp::Reverse;

impl Points {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let wide = !self.ids.uuid.is_empty();
        let mut out = Vec::with_capacity(8 + self.versions.len() * 26 + 16);
        out.extend(self.ordinals_end().to_le_bytes());
        out.extend(u32::from(wide).to_le_bytes());
        for part in [&self.live, &self.versions, &self.ids.low, &self.ids.high, &self.ids.uuid] {
            part.iter().for_each(|word| out.extend(word.to_le_bytes()));
        }
        out
    }

    /// Reads what [`Points::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Points, IndexFileError> {
        let (head, rest) = bytes.split_first_chunk::<8>().ok_or(field("points"))?;
        let [a, b, c, d, wide, zeros @ ..] = *head;
        let end = u32::from_le_bytes([a, b, c, d]) as usize;
        if wide > 1 || zeros != [0; 3] || end > Table::ORDINALS_MAX {
            return Err(field("points"));
        }
        let mut words = Words(rest);
        let bits = end.div_ceil(64);
        let live = words.take(bits)?;
        let versions = words.take(end)?;
        let low = words.take(end)?;
        let (high, uuid) = if wide == 1 { (words.take(end)?, words.take(bits)?) } else { Default::default() };
        let beyond = end % 64;
        if !words.0.is_empty() || (beyond != 0 && live.last().is_some_and(|word| word >> beyond != 0)) {
            return Err(field("points"));
        }
        Points { ids: Ids { low, high, uuid }, versions, live, ..Points::default() }.with_table()
    }

    /// Makes the table and the free ordinals from the rest.
    fn with_table(mut self) -> Result<Points, IndexFileError> {
        for ordinal in 0..self.ordinals_end() {
            if !self.is_live(ordinal) {
                self.free.push(Reverse(ordinal));
                continue;
            }
            if self.ordinal(self.ids.get(ordinal as usize)).is_some() {
                return Err(field("points: an id twice"));
            }
            self.table.insert(ordinal, &self.ids);
        }
        Ok(self)
    }
}

/// What is left to read.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn take(&mut self, count: usize) -> Result<Vec<u64>, IndexFileError> {
        let (taken, rest) = self.0.split_at_checked(count * 8).ok_or(field("points"))?;
        self.0 = rest;
        Ok(taken.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap_or_default())).collect())
    }
}
