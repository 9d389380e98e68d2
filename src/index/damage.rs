//! What is known of the health of an opened index file. Its parts are verified by checksums when first used; the first that is
//! wrong is noted here, and the shard answers from the records and makes the index again. Called by `pages`, `list` and `shard`.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// Shared by everything that reads one file.
#[derive(Clone, Debug, Default)]
pub struct Damage(Arc<OnceLock<&'static str>>);

impl Damage {
    /// The part found damaged first, if any was.
    pub fn found(&self) -> Option<&'static str> {
        self.0.get().copied()
    }

    /// Something is damaged that the indexes were made of.
    pub fn note(&self, part: &'static str) {
        let _first_stays = self.0.set(part);
    }
}

const UNSEEN: u8 = 0;
const SOUND: u8 = 1;
const DAMAGED: u8 = 2;

/// The checksum of one part, computed at its first use. Two threads may both compute it: to the same end.
#[derive(Debug)]
pub(crate) struct Check {
    expected: u32,
    state: AtomicU8,
    damage: Damage,
}

impl Check {
    pub(crate) fn new(expected: u32, damage: &Damage) -> Check {
        Check { expected, state: AtomicU8::new(UNSEEN), damage: damage.clone() }
    }

    /// Whether nobody has asked for it yet.
    pub(crate) fn is_unseen(&self) -> bool {
        self.state.load(Relaxed) == UNSEEN
    }

    /// Whether the part is as it was written. `checksum` computes its CRC-32C.
    pub(crate) fn passes(&self, part: &'static str, checksum: impl FnOnce() -> u32) -> bool {
        match self.state.load(Relaxed) {
            SOUND => true,
            UNSEEN => {
                let sound = crate::mutants::mutant!(11) || checksum() == self.expected;
                self.state.store(if sound { SOUND } else { DAMAGED }, Relaxed);
                if !sound {
                    self.damage.note(part);
                }
                sound
            }
            _ => false,
        }
    }

    pub(crate) fn expected(&self) -> u32 {
        self.expected
    }
}
