//! Ids by ordinal: 8 bytes each while all are numbers, 16 and a bit once there is a UUID. Called by `points` and its table.

use crate::types::PointId;
use uuid::Uuid;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Ids {
    /// The number, or the low half of the UUID.
    pub(super) low: Vec<u64>,
    /// The high half of the UUID; empty until there is one.
    pub(super) high: Vec<u64>,
    /// A bit an ordinal: whether it is a UUID; empty until there is one.
    pub(super) uuid: Vec<u64>,
}

impl Ids {
    pub(super) fn get(&self, at: usize) -> PointId {
        let low = self.low[at];
        if !self.uuid.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1) {
            return PointId::Num(low);
        }
        PointId::Uuid(Uuid::from_u64_pair(self.high[at], low))
    }

    /// Makes room for one more.
    pub(super) fn push(&mut self) {
        self.low.push(0);
        if !self.uuid.is_empty() {
            self.widen();
        }
    }

    pub(super) fn set(&mut self, at: usize, id: PointId) {
        let (high, low, uuid) = match id {
            PointId::Num(number) => (0, number, false),
            PointId::Uuid(uuid) => (uuid.as_u64_pair().0, uuid.as_u64_pair().1, true),
        };
        self.low[at] = low;
        if uuid && self.uuid.is_empty() {
            self.widen();
        }
        if !self.uuid.is_empty() {
            self.high[at] = high;
            let bit = 1 << (at % 64);
            let word = &mut self.uuid[at / 64];
            *word = if uuid { *word | bit } else { *word & !bit };
        }
    }

    fn widen(&mut self) {
        self.high.resize(self.low.len(), 0);
        self.uuid.resize(self.low.len().div_ceil(64), 0);
    }

    pub(super) fn memory_bytes(&self) -> usize {
        8 * (self.low.capacity() + self.high.capacity() + self.uuid.capacity())
    }
}
