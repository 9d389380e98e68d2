//! Operations on points: upsert, patch, delete, get, list. Writes are checked and encoded whole before any of them is proposed.

use super::{
    Service,
    owners::Owners,
    pages::Pages,
    parts::{Done, deleted, write_answer},
    read::{Answer, Operation},
    whole::{Tries, are_whole},
};
use crate::{
    cluster::{Collection, ShardId},
    mutants::mutant,
    rt::{self, time},
    shard::{
        Applied, Written,
        commands::{self, Part},
    },
    types::{
        Ack, CollectionName, DocumentId, Error, ErrorKind, Filter, Point, PointId, PointPatch, RequestId, Result,
        Session, WriteOptions, limits,
        operation::{
            DeleteAnswer, DeleteRequest, GetAnswer, ListRequest, PageAnswer, ReadOptions, WriteAnswer, in_range,
        },
        slot_of,
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// Components in a write from which on it is checked on a compute thread.
const LARGE_WRITE_COMPONENTS: usize = 32_768;

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
        let (id, service, of) = (options.request_id, self.clone(), collection.clone());
        let prepare = move || prepare(points, &of, &service.0.owners, id);
        let parts = if components >= LARGE_WRITE_COMPONENTS {
            rt::compute::cpu(prepare).await?
        } else {
            rt::compute::short(prepare)?
        };
        let done = match self.write_parts(&collection, parts, options.ack).await {
            Ok(done) => done,
            Err(Done { rows, written: error, .. }) => {
                let error = if rows.len() < count { in_batch(error, &rows) } else { error };
                return Err(self.by_alias(name, &collection, error).await);
            }
        };
        self.0.metrics.collections.changed(count as u64, 0);
        Ok(write_answer(&done, count, self.session_of(&collection, &done)))
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
        let shard = self.0.owners.shard_of(&collection, patch.id.point_id());
        let part = Part { rows: vec![0], command: commands::patch(patch, options.request_id)? };
        let done = match self.write_parts(&collection, BTreeMap::from([(shard, part)]), options.ack).await {
            Ok(done) => done,
            Err(failed) => return Err(self.by_alias(name, &collection, failed.written).await),
        };
        self.0.metrics.collections.changed(1, 0);
        Ok(write_answer(&done, 1, self.session_of(&collection, &done)))
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
        let ack = if options.ack == Ack::Async { Ack::Quorum } else { options.ack };
        let options = WriteOptions { ack, ..*options };
        let (deleted, session) = match request {
            DeleteRequest::Ids(ids) => self.delete_ids(name, ids, &options).await?,
            DeleteRequest::Filter(filter) => self.delete_where(name, &filter, &options).await?,
        };
        self.0.metrics.collections.changed(0, deleted);
        Ok(DeleteAnswer { deleted, session })
    }

    async fn delete_ids(
        &self,
        name: &CollectionName,
        ids: Vec<DocumentId>,
        options: &WriteOptions,
    ) -> Result<(u64, Session)> {
        let collection = self.find(name).await?;
        check_batch_size(ids.len())?;
        let rows: Vec<(usize, DocumentId)> = ids.into_iter().enumerate().collect();
        let part = |(shard, part): (ShardId, Vec<(usize, DocumentId)>)| {
            let (rows, ids) = part.into_iter().unzip();
            Ok((shard, Part { rows, command: commands::delete(&DeleteRequest::Ids(ids), options.request_id)? }))
        };
        let parts = split(rows, &collection, &self.0.owners, |(_, id)| id);
        let parts = parts.into_iter().map(part).collect::<Result<_>>()?;
        match self.write_parts(&collection, parts, options.ack).await {
            Ok(done) => Ok((deleted(&done), self.session_of(&collection, &done))),
            Err(failed) => Err(self.by_alias(name, &collection, failed.written).await),
        }
    }

    /// Removes what passes a filter from every slot. Where slots moved while the shards did it, all do it again, by the newest table.
    async fn delete_where(
        &self,
        name: &CollectionName,
        filter: &Filter,
        options: &WriteOptions,
    ) -> Result<(u64, Session)> {
        let command = commands::delete(&DeleteRequest::Filter(filter.clone()), options.request_id)?;
        let (mut tries, mut count, mut has_begun) = (Tries::new(self.deadline(time::now())), 0, false);
        // Of one collection, whatever an alias names later.
        let first = self.find(name).await?;
        let of = &first.name;
        loop {
            let round = async {
                let collection = self.find(of).await?;
                self.write_to_all(&collection.shard_ids(), &command, options.ack).await
            };
            let done = match round.await {
                Ok(done) => done,
                Err(error) if has_begun => return Err(in_part(&error)),
                Err(error) => return Err(self.by_alias(name, &first, error).await),
            };
            has_begun |= !done.is_empty();
            // What a request did is told again by its next try.
            count = deleted(&done) + if options.request_id.is_some() { 0 } else { count };
            let slots = |done: &Done<Written>| match done.written.applied {
                Applied::DeletedIn { slots, .. } => slots,
                _ => self.0.catalog.born(done.shard),
            };
            // Mutant 43: slots that nobody had meanwhile are forgotten.
            if mutant!(43) || are_whole(&done.iter().map(slots).collect::<Vec<_>>(), &[]) {
                return Ok((count, self.session_of(&first, &done)));
            }
            rt::mark("a delete by filter was done again because slots had moved");
            let message = "slots moved again and again";
            let late = Error::new(ErrorKind::Unavailable, "slots_moving", message);
            tries.wait(if has_begun { in_part(&late) } else { late }).await?;
            self.look_again().await;
        }
    }

    /// One point with its vectors.
    ///
    /// # Errors
    /// `document_not_found`.
    pub async fn get(&self, name: &CollectionName, id: &DocumentId, options: &ReadOptions) -> Result<GetAnswer> {
        let route = |collection: &Collection| match mutant!(32) {
            true => shard_across_the_edge(collection, id.point_id()),
            false => self.0.owners.shard_of(collection, id.point_id()),
        };
        let (point, gathered) = self.read_point(name, id, options, route).await?;
        Ok(GetAnswer { point, session: gathered.session })
    }

    /// A page of points in id order. Each shard's part is of one moment.
    ///
    /// # Errors
    /// `bad_limit`.
    pub async fn list(&self, name: &CollectionName, request: ListRequest, options: &ReadOptions) -> Result<PageAnswer> {
        in_range("bad_limit", "limit", request.limit, limits::LIST_LIMIT_MAX)?;
        let limit = request.limit;
        let take = |pages: &mut Pages, _, answer| {
            if let Answer::Page(page) = answer {
                pages.take(page);
            }
        };
        let begin = |_: &Collection| Ok(Pages::new(limit));
        let whole = self.read_whole(name, Operation::List(request), options, begin, take).await?;
        let gathered = whole.gathered;
        Ok(PageAnswer { page: whole.taken.finish(), shards: gathered.shards(), session: gathered.session })
    }
}

/// What a delete by filter failed with of which shards had done their part.
fn in_part(error: &Error) -> Error {
    let message = format!("{}; what passes the filter was removed from some of the slots", error.message());
    Error::new(ErrorKind::Indeterminate, "outcome_unknown", message)
}

/// Checks a batch whole, cuts it by shard and encodes the parts.
fn prepare(
    points: Vec<Point>,
    collection: &Collection,
    owners: &Owners,
    id: Option<RequestId>,
) -> Result<BTreeMap<ShardId, Part>> {
    check_points(&points, collection)?;
    let rows: Vec<(usize, Point)> = points.into_iter().enumerate().collect();
    let part = |(shard, part): (ShardId, Vec<(usize, Point)>)| {
        let (rows, points): (Vec<usize>, Vec<Point>) = part.into_iter().unzip();
        Ok((shard, Part { rows, command: commands::upsert(points, id)? }))
    };
    split(rows, collection, owners, |(_, point)| &point.id).into_iter().map(part).collect()
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
fn split<T>(
    members: Vec<T>,
    collection: &Collection,
    owners: &Owners,
    id: impl Fn(&T) -> &DocumentId,
) -> BTreeMap<ShardId, Vec<T>> {
    if let [(only, _)] = collection.shards[..] {
        return BTreeMap::from([(only, members)]);
    }
    let mut parts: BTreeMap<ShardId, Vec<T>> = BTreeMap::new();
    for member in members {
        parts.entry(owners.shard_of(collection, id(&member).point_id())).or_default().push(member);
    }
    parts
}

/// Mutant 32: the first slot of a shard is looked for in the one before.
fn shard_across_the_edge(collection: &Collection, id: PointId) -> ShardId {
    let place = collection.shards.partition_point(|(_, range)| range.end < slot_of(id));
    collection.shards[place].0
}
