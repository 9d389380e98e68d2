//! Operations on points: upsert, patch, delete, get, list. Writes are checked and encoded whole before any of them is proposed.

use super::{
    Service,
    pages::Pages,
    read::{Answer, Operation},
};
use crate::{
    cluster::{Collection, ShardId, slots::slot_of},
    mutants::mutant,
    rt,
    shard::{Applied, Written, commands},
    types::{
        Ack, CollectionName, DocumentId, Error, ErrorKind, Filter, Point, PointId, PointPatch, RequestId, Result,
        Session, WriteOptions, limits,
        operation::{
            DeleteAnswer, DeleteRequest, GetAnswer, ListRequest, OnUnavailable, PageAnswer, ReadOptions, WriteAnswer,
            in_range,
        },
    },
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Components in a write from which on it is checked on a compute thread.
const LARGE_WRITE_COMPONENTS: usize = 32_768;

/// A shard's part of a write.
struct Part {
    /// Where its points stand in the caller's batch.
    rows: Vec<usize>,
    command: Bytes,
}

impl Service {
    /// Writes points whole. All points of one shard are written or none; a refused request wrote nothing at all unless
    /// the error says otherwise.
    ///
    /// # Errors
    /// Those of [`Point::check`] with row and document; `empty_batch`, `batch_too_large`, `command_too_large`, `version_mismatch`.
    pub async fn upsert(
        &self,
        name: &CollectionName,
        points: Vec<Point>,
        options: &WriteOptions,
    ) -> Result<WriteAnswer> {
        let collection = self.find(name).await?;
        check_batch_size(points.len())?;
        let count = points.len();
        let components: usize =
            points.iter().flat_map(|point| &point.vectors).map(|(_, vector)| vector.dimension()).sum();
        let id = options.request_id;
        let prepare = move || prepare(points, &collection, id);
        let parts = if components >= LARGE_WRITE_COMPONENTS {
            rt::compute::cpu(prepare).await?
        } else {
            rt::compute::short(prepare)?
        };
        let several = parts.len() > 1;
        let (mut commands, mut rows) = (BTreeMap::new(), BTreeMap::new());
        for (shard, part) in parts {
            commands.insert(shard, part.command);
            rows.insert(shard, part.rows);
        }
        let written = self.write_parts(commands, options.ack).await;
        let written = written.map_err(|(shard, error)| if several { in_batch(error, &rows[&shard]) } else { error })?;
        self.0.metrics.collections.changed(count as u64, 0);
        Ok(write_answer(&written, &rows, count))
    }

    /// Writes one point whole, whether it was there or not.
    ///
    /// # Errors
    /// Those of [`Service::upsert`].
    pub async fn replace(&self, name: &CollectionName, point: Point, options: &WriteOptions) -> Result<WriteAnswer> {
        self.upsert(name, vec![point], options).await
    }

    /// Changes one point that is there.
    ///
    /// # Errors
    /// Those of [`PointPatch::check`]; `document_not_found`, `version_mismatch`, `metadata_too_large`.
    pub async fn patch(&self, name: &CollectionName, patch: PointPatch, options: &WriteOptions) -> Result<WriteAnswer> {
        let collection = self.find(name).await?;
        patch.check(&collection.spec).map_err(|error| error.document(&patch.id))?;
        let shard = collection.shard_of(patch.id.point_id());
        let command = commands::patch(patch, options.request_id)?;
        let written = self.write_shard(shard, command, options.ack).await?;
        self.0.metrics.collections.changed(1, 0);
        Ok(write_answer(&[(shard, written)], &BTreeMap::new(), 1))
    }

    /// Removes points by id or by filter. The answer counts them, so that [`Ack::Async`] is taken for [`Ack::Quorum`].
    ///
    /// # Errors
    /// `empty_batch`, `batch_too_large`.
    pub async fn delete(
        &self,
        name: &CollectionName,
        request: DeleteRequest,
        options: &WriteOptions,
    ) -> Result<DeleteAnswer> {
        let collection = self.find(name).await?;
        let parts: BTreeMap<ShardId, DeleteRequest> = match request {
            DeleteRequest::Ids(ids) => {
                check_batch_size(ids.len())?;
                split(ids, &collection, |id| id)
                    .into_iter()
                    .map(|(shard, ids)| (shard, DeleteRequest::Ids(ids)))
                    .collect()
            }
            DeleteRequest::Filter(filter) => {
                let part = |(shard, _): &(u64, _)| (*shard, DeleteRequest::Filter(Filter::clone(&filter)));
                collection.shards.iter().map(part).collect()
            }
        };
        let encode =
            |(shard, part): (ShardId, DeleteRequest)| Ok((shard, commands::delete(&part, options.request_id)?));
        let commands = parts.into_iter().map(encode).collect::<Result<_>>()?;
        let ack = if options.ack == Ack::Async { Ack::Quorum } else { options.ack };
        let written = self.write_parts(commands, ack).await.map_err(|(_, error)| error)?;
        let count = |(_, written): &(u64, Written)| match written.applied {
            Applied::Deleted { count } => count,
            Applied::Written { .. } | Applied::Nothing => 0,
        };
        let deleted = written.iter().map(count).sum();
        self.0.metrics.collections.changed(0, deleted);
        Ok(DeleteAnswer { deleted, session: session_of(&written) })
    }

    /// One point with its vectors.
    ///
    /// # Errors
    /// `document_not_found`.
    pub async fn get(&self, name: &CollectionName, id: &DocumentId, options: &ReadOptions) -> Result<GetAnswer> {
        let collection = self.find(name).await?;
        let shard = match mutant!(32) {
            true => shard_across_the_edge(&collection, id.point_id()),
            false => collection.shard_of(id.point_id()),
        };
        // There is no part of one point.
        let options = ReadOptions { on_unavailable: OnUnavailable::Fail, ..options.clone() };
        let mut found = None;
        let take = |_, answer| {
            if let Answer::Point(point) = answer {
                found = Some(point);
            }
            Ok(())
        };
        let gathered = self.fan_out(&[shard], Operation::Get(id.clone()), &options, take).await?;
        let point = found.ok_or_else(|| Error::internal("a read has another answer than a point"))?;
        Ok(GetAnswer { point, session: gathered.session })
    }

    /// A page of points in id order. Each shard's part is of one moment.
    ///
    /// # Errors
    /// `bad_limit`.
    pub async fn list(&self, name: &CollectionName, request: ListRequest, options: &ReadOptions) -> Result<PageAnswer> {
        in_range("bad_limit", "limit", request.limit, limits::LIST_LIMIT_MAX)?;
        let collection = self.find(name).await?;
        let mut pages = Pages::new(request.limit);
        let take = |_, answer| {
            if let Answer::Page(page) = answer {
                pages.take(page);
            }
            Ok(())
        };
        let gathered = self.fan_out(&collection.shard_ids(), Operation::List(request), options, take).await?;
        Ok(PageAnswer { page: pages.finish(), shards: gathered.shards(), session: gathered.session })
    }

    /// Proposes every part to its shard, all at once, and waits for all.
    ///
    /// # Errors
    /// As [`failure`] says; with the shard whose error it is.
    async fn write_parts(
        &self,
        parts: BTreeMap<ShardId, Bytes>,
        ack: Ack,
    ) -> Result<Vec<(ShardId, Written)>, (ShardId, Error)> {
        let write = |(shard, command)| async move { (shard, self.write_shard(shard, command, ack).await) };
        let results = futures_util::future::join_all(parts.into_iter().map(write)).await;
        let (mut written, mut failed) = (Vec::with_capacity(results.len()), Vec::new());
        for (shard, result) in results {
            match result {
                Ok(done) => written.push((shard, done)),
                Err(error) => failed.push((shard, error)),
            }
        }
        if failed.is_empty() { Ok(written) } else { Err(failure(failed, &written)) }
    }
}

/// What a write over several shards failed with: "may have happened" if any part may have, or if some parts were taken
/// and the others could be taken by a retry.
fn failure(mut failed: Vec<(ShardId, Error)>, written: &[(ShardId, Written)]) -> (ShardId, Error) {
    let unknown = failed.iter().position(|(_, error)| error.kind() == ErrorKind::Indeterminate);
    let (shard, first) = failed.swap_remove(unknown.unwrap_or(0));
    if written.is_empty() {
        return (shard, first);
    }
    let taken = written.iter().map(|(shard, _)| shard.to_string()).collect::<Vec<_>>().join(", ");
    let message = format!("{}; the documents of these shards were written: {taken}", first.message());
    let kind = if first.kind().is_refusal() { first.kind() } else { ErrorKind::Indeterminate };
    (shard, first.as_kind(kind, message))
}

/// Checks a batch whole, cuts it by shard and encodes the parts.
fn prepare(points: Vec<Point>, collection: &Collection, id: Option<RequestId>) -> Result<BTreeMap<ShardId, Part>> {
    check_points(&points, collection)?;
    let rows: Vec<(usize, Point)> = points.into_iter().enumerate().collect();
    let part = |(shard, part): (ShardId, Vec<(usize, Point)>)| {
        let (rows, points): (Vec<usize>, Vec<Point>) = part.into_iter().unzip();
        Ok((shard, Part { rows, command: commands::upsert(points, id)? }))
    };
    split(rows, collection, |(_, point)| &point.id).into_iter().map(part).collect()
}

/// Puts the row of an error about a shard's part back into the caller's batch.
fn in_batch(error: Error, rows: &[usize]) -> Error {
    let row = match (error.detail().row, rows) {
        (Some(row), _) => rows.get(row).copied(),
        (None, [only]) if error.detail().document_id.is_some() => Some(*only),
        (None, _) => None,
    };
    row.map_or(error.clone(), |row| error.row(row))
}

fn check_batch_size(n: usize) -> Result<()> {
    if n == 0 {
        return Err(Error::invalid("empty_batch", "the request names no documents").expected("1 or more").got(0));
    }
    if n > limits::BATCH_POINTS_MAX {
        return Err(Error::invalid("batch_too_large", "the request has too many documents")
            .expected(format!("at most {}", limits::BATCH_POINTS_MAX))
            .got(n));
    }
    Ok(())
}

fn check_points(points: &[Point], collection: &Collection) -> Result<()> {
    for (row, point) in points.iter().enumerate() {
        point.check(&collection.spec).map_err(|error| error.row(row).document(&point.id))?;
    }
    if points.iter().any(|point| point.if_version.is_some()) { check_named_once(points) } else { Ok(()) }
}

/// A guard speaks of the version before the batch; a document named twice would have two of them.
fn check_named_once(points: &[Point]) -> Result<()> {
    let mut seen = BTreeSet::new();
    match points.iter().enumerate().find(|(_, point)| !seen.insert(point.id.point_id())) {
        None => Ok(()),
        Some((row, point)) => {
            let message = "a batch that uses if_version names each document once";
            Err(Error::invalid("duplicate_document", message).at("document_id").row(row).document(&point.id))
        }
    }
}

/// Cuts a batch by the shard of each member, keeping their order.
fn split<T>(members: Vec<T>, collection: &Collection, id: impl Fn(&T) -> &DocumentId) -> BTreeMap<ShardId, Vec<T>> {
    if let [(only, _)] = collection.shards[..] {
        return BTreeMap::from([(only, members)]);
    }
    let mut parts: BTreeMap<ShardId, Vec<T>> = BTreeMap::new();
    for member in members {
        parts.entry(collection.shard_of(id(&member).point_id())).or_default().push(member);
    }
    parts
}

fn session_of(written: &[(ShardId, Written)]) -> Session {
    let mut session = Session::default();
    written.iter().for_each(|(shard, written)| session.saw(*shard, written.log_index));
    session
}

/// The answer of a write of `count` points, of which those in `rows` went to a shard.
fn write_answer(written: &[(ShardId, Written)], rows: &BTreeMap<ShardId, Vec<usize>>, count: usize) -> WriteAnswer {
    // A retried write has the version of the first time.
    let version = |written: &Written| match written.applied {
        Applied::Written { version } => version,
        _ => written.log_index,
    };
    let highest = written.iter().map(|(_, written)| version(written)).max().unwrap_or(0);
    let mut versions = Vec::new();
    if written.iter().any(|(_, written)| version(written) != highest) {
        versions = vec![highest; count];
        for (shard, written) in written {
            rows.get(shard).into_iter().flatten().for_each(|row| versions[*row] = version(written));
        }
    }
    WriteAnswer { version: highest, versions, session: session_of(written) }
}

/// Mutant 32: the first slot of a shard is looked for in the one before.
fn shard_across_the_edge(collection: &Collection, id: PointId) -> ShardId {
    let place = collection.shards.partition_point(|(_, range)| range.end < slot_of(id));
    collection.shards[place].0
}
