//! Ids by ordinal: 8 bytes each while all are numbers, 16 and a bit once there is a UUID. Called by `points` and its table.

use crate::index::pages::Pages;
use crate::types::PointId;
use uuid::Uuid;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ids {
    /// The number, or the low half of the UUID.
    pub(crate) low: Pages<u64>,
    /// The high half of the UUID; empty until there is one.
    pub(crate) high: Pages<u64>,
    /// A bit an ordinal: whether it is a UUID; empty until there is one.
    pub(crate) uuid: Pages<u64>,
}

impl Ids {
    /// None beyond the end.
    pub(super) fn get(&self, at: usize) -> Option<PointId> {
        let low = self.low.get(at)?;
        if self.uuid.get(at / 64).is_none_or(|word| word >> (at % 64) & 1 == 0) {
            return Some(PointId::Num(low));
        }
        Some(PointId::Uuid(Uuid::from_u64_pair(self.high.get(at)?, low)))
    }

    /// Asks for what [`Ids::get`] reads to be in cache soon.
    pub(super) fn prefetch(&self, at: usize) {
        self.low.prefetch(at);
        self.high.prefetch(at);
    }

    /// Makes room for `len`.
    pub(super) fn extend_to(&mut self, len: usize) {
        self.low.extend_to(len);
        if !self.uuid.is_empty() {
            self.widen();
        }
    }

    pub(super) fn set(&mut self, at: usize, id: PointId) {
        let (high, low, uuid) = match id {
            PointId::Num(number) => (0, number, false),
            PointId::Uuid(uuid) => (uuid.as_u64_pair().0, uuid.as_u64_pair().1, true),
        };
        self.low.set(at, low);
        if uuid && self.uuid.is_empty() {
            self.widen();
        }
        if !self.uuid.is_empty() {
            self.high.set(at, high);
            let (bit, word) = (1 << (at % 64), self.uuid.get(at / 64).unwrap_or(0));
            self.uuid.set(at / 64, if uuid { word | bit } else { word & !bit });
        }
    }

    fn widen(&mut self) {
        self.high.extend_to(self.low.len());
        self.uuid.extend_to(self.low.len().div_ceil(64));
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.low.memory_bytes() + self.high.memory_bytes() + self.uuid.memory_bytes()
    }
}
