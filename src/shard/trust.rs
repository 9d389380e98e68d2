//! Whether the records of a replica can be trusted. Requests, `verify` and checkpoints pass what came of reading them through here; damage
//! once met is remembered until another state takes this one's place, for a disk that has lost one record may have lost others. Called by
//! `replica` and `checkpoint`; acted upon by `service`.

use crate::{
    rt,
    types::{ErrorKind, Result},
};
use std::sync::OnceLock;

/// See the module. Of one state.
#[derive(Debug)]
pub struct Trust {
    shard: u64,
    damage: OnceLock<String>,
}

impl Trust {
    /// In the records of this shard, of which nothing bad is known.
    pub fn in_shard(shard: u64) -> Trust {
        Trust { shard, damage: OnceLock::new() }
    }

    /// Passes on what came of reading records.
    ///
    /// # Errors
    /// That of the reading.
    pub fn heard<T>(&self, read: Result<T>) -> Result<T> {
        if let Err(error) = &read
            && error.kind() == ErrorKind::Corrupt
        {
            self.note(error.to_string());
        }
        read
    }

    /// What is stored is not what was written. The first damage stays the one that is told.
    pub fn note(&self, damage: String) {
        if self.damage.get().is_none() {
            tracing::error!(shard = self.shard, damage, "what a replica has stored is damaged");
            rt::mark("a replica met damage in its records");
            let _first_stays = self.damage.set(damage);
        }
    }

    /// What damage was met, if any was.
    pub fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Error;

    #[test]
    fn only_damage_is_remembered_and_the_first_of_it() {
        let trust = Trust::in_shard(1);
        let error = |kind, why: &str| Err::<(), Error>(Error::new(kind, "code", why.to_owned()));
        assert_eq!(trust.heard(Ok(7)).unwrap(), 7);
        trust.heard(error(ErrorKind::Unavailable, "busy")).unwrap_err();
        assert_eq!(trust.damage(), None);
        trust.heard(error(ErrorKind::Corrupt, "first")).unwrap_err();
        trust.heard(error(ErrorKind::Corrupt, "second")).unwrap_err();
        assert!(trust.damage().unwrap().contains("first"), "{:?}", trust.damage());
    }
}
