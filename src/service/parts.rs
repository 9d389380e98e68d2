//! The parts of a write, each of one shard: proposed all at once, cut anew where slots have moved, and taken together to one answer.
//! Called by `points`.

use super::{
    Service,
    whole::{Tries, is_about_slots},
};
use crate::{
    cluster::{Collection, ShardId, catalog},
    rt::{self, time},
    shard::{
        Applied, Written,
        commands::{self, Part},
    },
    types::{Ack, Error, ErrorKind, Result, Session, operation::WriteAnswer},
};
use bytes::Bytes;
use futures_util::FutureExt;
use std::{collections::BTreeMap, sync::Arc};

/// A shard's part of a write, when it is settled.
pub(super) struct Done<W> {
    pub(super) shard: ShardId,
    /// Where its points stand in the caller's batch.
    pub(super) rows: Vec<usize>,
    pub(super) written: W,
}

impl Service {
    /// Proposes every part to its shard, all at once, and waits for all.
    ///
    /// # Errors
    /// As [`failure`] says; with the part whose error it is.
    pub(super) async fn write_parts(
        &self,
        collection: &Arc<Collection>,
        parts: BTreeMap<ShardId, Part>,
        ack: Ack,
    ) -> Result<Vec<Done<Written>>, Done<Error>> {
        let write = |(shard, part)| self.write_part(collection.clone(), shard, part, ack);
        all_written(futures_util::future::join_all(parts.into_iter().map(write)).await.into_iter().flatten())
    }

    /// Proposes one command to every shard, all at once, and waits for all. Shards that are no more, or closed, do nothing: whoever
    /// has their slots now is told by the others' outcomes, or is not among them.
    ///
    /// # Errors
    /// As [`failure`] says.
    pub(super) async fn write_to_all(
        &self,
        shards: &[ShardId],
        command: &Bytes,
        ack: Ack,
    ) -> Result<Vec<Done<Written>>> {
        let write = |shard: ShardId| {
            let done = self.write_shard(shard, command.clone(), ack);
            done.map(move |written| Done { shard, rows: Vec::new(), written })
        };
        let mut done = futures_util::future::join_all(shards.iter().copied().map(write)).await;
        done.retain(|done| !done.written.as_ref().is_err_and(is_about_slots));
        all_written(done).map_err(|failed| failed.written)
    }

    /// Carries out a part of a write. What is another shard's by now is cut anew and goes there, until the deadline.
    async fn write_part(
        &self,
        mut collection: Arc<Collection>,
        shard: ShardId,
        part: Part,
        ack: Ack,
    ) -> Vec<Done<Result<Written>>> {
        let (mut done, mut left) = (Vec::with_capacity(1), vec![(shard, part)]);
        let mut tries = Tries::new(self.deadline(time::now()));
        loop {
            let mut moved = Vec::new();
            for (shard, part) in left.drain(..) {
                match self.write_shard(shard, part.command.clone(), ack).await {
                    Err(error) if is_about_slots(&error) => moved.push((shard, part, error)),
                    written => done.push(Done { shard, rows: part.rows, written }),
                }
            }
            let Some((_, _, refusal)) = moved.first() else { return done };
            rt::mark("a write went to another shard because slots had moved");
            let is_late = tries.wait(refusal.clone()).await.is_err();
            self.look_again().await;
            let is_gone = self.newest(&mut collection);
            for (shard, Part { rows, command }, refusal) in moved {
                self.0.owners.learn(&collection, shard, &refusal);
                let owner = |id| self.0.owners.shard_of(&collection, id);
                match commands::cut(&command, shard, owner).and_then(|parts| match () {
                    () if is_gone => Err(catalog::not_found(&collection.name)),
                    () if is_late => Err(refusal),
                    () => Ok(parts),
                }) {
                    Err(error) => done.push(Done { shard, rows, written: Err(error) }),
                    Ok(parts) => left.extend(parts.into_iter().map(|(shard, part)| {
                        let rows = part.rows.iter().map(|row| rows[*row]).collect();
                        (shard, Part { rows, ..part })
                    })),
                }
            }
        }
    }

    /// What whoever wrote this has seen.
    pub(super) fn session_of(&self, collection: &Collection, done: &[Done<Written>]) -> Session {
        let mut session = Session::default();
        done.iter().for_each(|done| session.saw(done.shard, done.written.log_index));
        // Where slots had moved, parts went where a newer table sent them.
        let newest = self.0.catalog.collection(&collection.name).map_or(0, |known| known.table_epoch);
        session.knew_table(newest.max(collection.table_epoch));
        session
    }

    /// Makes it the collection as it is known now. Whether it is no more; then it stays as it was, and another one of the same name is
    /// none of the request's business.
    fn newest(&self, collection: &mut Arc<Collection>) -> bool {
        let known = self.0.catalog.collection(&collection.name);
        match known.ok().filter(|known| known.created_ms == collection.created_ms) {
            Some(known) => *collection = known,
            None => return true,
        }
        false
    }
}

/// What was written, if no part failed.
///
/// # Errors
/// As [`failure`] says; with the part whose error it is.
fn all_written(results: impl IntoIterator<Item = Done<Result<Written>>>) -> Result<Vec<Done<Written>>, Done<Error>> {
    let (mut written, mut failed) = (Vec::new(), Vec::new());
    for Done { shard, rows, written: result } in results {
        match result {
            Ok(done) => written.push(Done { shard, rows, written: done }),
            Err(error) => failed.push(Done { shard, rows, written: error }),
        }
    }
    if failed.is_empty() { Ok(written) } else { Err(failure(failed, &written)) }
}

/// What a write over several shards failed with: "may have happened" if any part may have, or if some parts were taken and the others
/// could be taken by a retry, or the table went in between: while it was still there, others may have read those parts.
fn failure(mut failed: Vec<Done<Error>>, written: &[Done<Written>]) -> Done<Error> {
    let unknown = failed.iter().position(|failed| failed.written.kind() == ErrorKind::Indeterminate);
    let Done { shard, rows, written: first } = failed.swap_remove(unknown.unwrap_or(0));
    if written.is_empty() {
        return Done { shard, rows, written: first };
    }
    let taken = written.iter().map(|done| done.shard.to_string()).collect::<Vec<_>>().join(", ");
    let message = format!("{}; the documents of these shards were written: {taken}", first.message());
    let kind = first.kind();
    let error = match kind.is_refusal() && kind != ErrorKind::NotFound {
        true => first.as_kind(kind, message),
        false => Error::new(ErrorKind::Indeterminate, "outcome_unknown", message),
    };
    Done { shard, rows, written: error }
}

/// How many points the parts removed.
pub(super) fn deleted(done: &[Done<Written>]) -> u64 {
    let count = |done: &Done<Written>| match done.written.applied {
        Applied::Deleted { count } | Applied::DeletedIn { count, .. } => count,
        Applied::Written { .. } | Applied::Nothing => 0,
    };
    done.iter().map(count).sum()
}

/// The answer of a write of `count` points.
pub(super) fn write_answer(done: &[Done<Written>], count: usize, session: Session) -> WriteAnswer {
    // A retried write has the version of the first time.
    let version = |done: &Done<Written>| match done.written.applied {
        Applied::Written { version } => version,
        _ => done.written.log_index,
    };
    let highest = done.iter().map(version).max().unwrap_or(0);
    let mut versions = Vec::new();
    if done.iter().any(|done| version(done) != highest) {
        versions = vec![highest; count];
        for part in done {
            part.rows.iter().for_each(|row| versions[*row] = version(part));
        }
    }
    WriteAnswer { version: highest, versions, session }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_was_taken_in_part_is_not_refused_because_its_table_went() {
        let failed = |code, error| Done { shard: 2, rows: vec![1], written: Error::new(error, code, "no") };
        let taken =
            || vec![Done { shard: 1, rows: vec![0], written: Written { log_index: 7, applied: Applied::Nothing } }];
        let of = |code, error, taken: &[Done<Written>]| failure(vec![failed(code, error)], taken).written.kind();
        assert_eq!(of("table_not_found", ErrorKind::NotFound, &[]), ErrorKind::NotFound);
        assert_eq!(of("table_not_found", ErrorKind::NotFound, &taken()), ErrorKind::Indeterminate);
        assert_eq!(of("no_leader", ErrorKind::Unavailable, &taken()), ErrorKind::Indeterminate);
        assert_eq!(of("version_mismatch", ErrorKind::Conflict, &taken()), ErrorKind::Conflict);
        let failed = vec![failed("version_mismatch", ErrorKind::Conflict), failed("lost", ErrorKind::Indeterminate)];
        assert_eq!(
            failure(failed, &[]).written.kind(),
            ErrorKind::Indeterminate,
            "the part that may have happened decides"
        );
    }
}
