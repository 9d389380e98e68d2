//! Session tokens: how far a client has seen each shard, so that a later read can be made to see at least as much.
//! Called by `service` (making and honouring them) and `api` (text form).

use super::{Error, Result, limits};
use std::{collections::BTreeMap, fmt};

/// The number under which a token keeps the epoch of the shard table: shards are numbered from 1 on.
const TABLE: u64 = 0;
/// Shards of a token: those of two states of a table, since it may have been split or merged in between; and the epoch.
const PARTS_MAX: usize = 2 * limits::SHARDS_PER_COLLECTION_MAX as usize + 1;

/// Applied index by shard id, and the epoch of the shard table that an answer was made by, under 0. Text form:
/// `s1.SHARD-INDEX.SHARD-INDEX…` in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session(BTreeMap<u64, u64>);

impl Session {
    /// A token that has seen one shard up to `applied`.
    pub fn of(shard: u64, applied: u64) -> Session {
        Session(BTreeMap::from([(shard, applied)]))
    }

    /// Adds what was seen of another shard; of the same shard the later index stays.
    pub fn saw(&mut self, shard: u64, applied: u64) {
        let seen = self.0.entry(shard).or_default();
        *seen = applied.max(*seen);
    }

    /// Adds all that another token has seen.
    pub fn saw_all(&mut self, other: &Session) {
        other.0.iter().for_each(|(shard, applied)| self.saw(*shard, *applied));
    }

    /// The shards that it has seen.
    pub fn shards(&self) -> impl Iterator<Item = u64> {
        self.0.keys().copied().filter(|shard| *shard != TABLE)
    }

    /// Adds that an answer was made by the shard table of `epoch`; the later one stays.
    pub fn knew_table(&mut self, epoch: u64) {
        self.saw(TABLE, epoch);
    }

    /// The newest shard table that an answer was made by; 0: not known.
    pub fn table_epoch(&self) -> u64 {
        self.seen(TABLE)
    }

    /// How far `shard` must have applied; 0 if the token does not know it.
    pub fn seen(&self, shard: u64) -> u64 {
        self.0.get(&shard).copied().unwrap_or(0)
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// `bad_session`.
    pub fn from_text(text: &str) -> Result<Session> {
        let bad = || {
            Error::invalid("bad_session", "this is not a session token this server gave out")
                .at("session")
                .expected("the session of an earlier answer, unchanged")
        };
        let body = text.strip_prefix("s1").ok_or_else(bad)?;
        let mut session = Session::default();
        for part in body.split('.').skip(1) {
            let (shard, index) = part.split_once('-').ok_or_else(bad)?;
            let number = |hex: &str| u64::from_str_radix(hex, 16).map_err(|_| bad());
            session.saw(number(shard)?, number(index)?);
            if session.0.len() > PARTS_MAX {
                return Err(bad());
            }
        }
        if !body.is_empty() && !body.starts_with('.') {
            return Err(bad());
        }
        Ok(session)
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("s1")?;
        self.0.iter().try_for_each(|(shard, index)| write!(f, ".{shard:x}-{index:x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn texts_round_trip(seen in prop::collection::btree_map(any::<u64>(), any::<u64>(), 0..5)) {
            let session = Session(seen);
            prop_assert_eq!(Session::from_text(&session.to_string()).unwrap(), session);
        }

        #[test]
        fn garbage_never_panics(text in "(s1)?[0-9a-f.x-]{0,30}") {
            let _ = Session::from_text(&text);
        }
    }

    #[test]
    fn the_token_of_the_largest_table_is_taken_back() {
        let mut session = Session::default();
        (1..=2 * u64::from(limits::SHARDS_PER_COLLECTION_MAX)).for_each(|shard| session.saw(shard, 7));
        session.knew_table(9);
        let text = session.to_string();
        assert_eq!(Session::from_text(&text).unwrap(), session);
        assert_eq!(Session::from_text(&format!("{text}.ffffff-1")).unwrap_err().code(), "bad_session");
    }

    #[test]
    fn the_later_index_stays() {
        let mut session = Session::of(1, 5);
        session.saw(1, 3);
        assert_eq!((session.seen(1), session.seen(2)), (5, 0));
        assert!(Session::from_text("s2.1-1").is_err() && Session::from_text("s1x").is_err());
    }
}
