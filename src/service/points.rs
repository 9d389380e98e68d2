//! Operations on points: upsert, patch, delete, get, list. Writes are checked whole before any of them is proposed.

use super::Service;
use crate::{
    cluster::Collection,
    rt,
    shard::{Applied, Replica, Written},
    types::{
        CollectionName, DocumentId, Error, ErrorKind, Filter, Point, PointPatch, Result, Session, StoredPoint,
        WriteOptions, limits,
        operation::{Cursor, DeleteAnswer, DeleteRequest, ListAnswer, ListRequest, ReadOptions, WriteAnswer, in_range},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Components in a write from which on it is checked on a compute thread.
const LARGE_WRITE_COMPONENTS: usize = 32_768;

impl Service {
    /// Writes points whole. All points of one shard are written or none; a refused request wrote nothing at all unless
    /// the error says otherwise.
    ///
    /// # Errors
    /// Those of [`Point::check`] with row and document; `empty_batch`, `batch_too_large`, `version_mismatch`.
    pub async fn upsert(
        &self,
        name: &CollectionName,
        points: Vec<Point>,
        options: &WriteOptions,
    ) -> Result<WriteAnswer> {
        let collection = self.0.catalog.collection(name)?;
        check_batch_size(points.len())?;
        let components: usize =
            points.iter().flat_map(|point| &point.vectors).map(|(_, vector)| vector.dimension()).sum();
        let of_shard = collection.clone();
        let check_and_split = move || {
            check_points(&points, &of_shard)?;
            let rows = (0..points.len()).zip(points).collect();
            Ok::<_, Error>(split(rows, &of_shard, |(_, point): &(usize, Point)| &point.id))
        };
        let parts = if components >= LARGE_WRITE_COMPONENTS {
            rt::compute::cpu(check_and_split).await?
        } else {
            check_and_split()?
        };
        let written = parts.values().map(|points| points.len() as u64).sum();
        let several = parts.len() > 1;
        let write = |replica: Arc<Replica>, part: Vec<(usize, Point)>| async move {
            let (rows, points): (Vec<usize>, Vec<Point>) = part.into_iter().unzip();
            let written = replica.upsert(points, options).await;
            written.map_err(|error| if several { in_batch(error, &rows) } else { error })
        };
        let answer = self.write_parts(parts, write).await?;
        self.0.metrics.collections.changed(written, 0);
        Ok(write_answer(answer))
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
        let collection = self.0.catalog.collection(name)?;
        patch.check(&collection.spec).map_err(|error| error.document(&patch.id))?;
        let shard = collection.shard_of(patch.id.point_id());
        let written = self.0.host.replica(shard)?.patch(patch, options).await?;
        self.0.metrics.collections.changed(1, 0);
        Ok(write_answer(vec![(shard, written)]))
    }

    /// Removes points by id or by filter.
    ///
    /// # Errors
    /// `empty_batch`, `batch_too_large`.
    pub async fn delete(
        &self,
        name: &CollectionName,
        request: DeleteRequest,
        options: &WriteOptions,
    ) -> Result<DeleteAnswer> {
        let collection = self.0.catalog.collection(name)?;
        let parts: BTreeMap<u64, DeleteRequest> = match request {
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
        let written =
            self.write_parts(parts, |replica, part| async move { replica.delete(&part, options).await }).await?;
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
    pub async fn get(&self, name: &CollectionName, id: &DocumentId, options: &ReadOptions) -> Result<StoredPoint> {
        let collection = self.0.catalog.collection(name)?;
        let shard = collection.shard_of(id.point_id());
        let replica = self.0.host.replica(shard)?;
        self.wait_to_read(shard, &replica, options, &mut Session::default()).await?;
        replica.get(id)
    }

    /// A page of points in id order. Each shard's part is of one moment.
    ///
    /// # Errors
    /// `bad_limit`.
    pub async fn list(&self, name: &CollectionName, request: ListRequest, options: &ReadOptions) -> Result<ListAnswer> {
        in_range("bad_limit", "limit", request.limit, limits::LIST_LIMIT_MAX)?;
        let collection = self.0.catalog.collection(name)?;
        let mut session = Session::default();
        let mut pages = Vec::new();
        for (id, replica) in self.replicas(&collection)? {
            self.wait_to_read(id, &replica, options, &mut session).await?;
            pages.push(replica.list(request.clone()).await?);
        }
        Ok(merge_pages(pages, request.limit))
    }

    /// Proposes every part to its shard, all at once, and waits for all.
    async fn write_parts<P, F, Fut>(&self, parts: BTreeMap<u64, P>, write: F) -> Result<Vec<(u64, Written)>>
    where
        F: Fn(Arc<Replica>, P) -> Fut,
        Fut: Future<Output = Result<Written>>,
    {
        let mut writes = Vec::with_capacity(parts.len());
        for (shard, part) in parts {
            let replica = self.0.host.replica(shard)?;
            let write = write(replica, part);
            writes.push(async move { (shard, write.await) });
        }
        let (mut written, mut failed) = (Vec::with_capacity(writes.len()), Vec::new());
        for (shard, result) in futures_util::future::join_all(writes).await {
            match result {
                Ok(done) => written.push((shard, done)),
                Err(error) => failed.push(error),
            }
        }
        if failed.is_empty() { Ok(written) } else { Err(failure(failed, &written)) }
    }
}

/// What a write over several shards failed with: "may have happened" if any part may have, or if some parts were taken
/// and the others could be taken by a retry.
fn failure(mut failed: Vec<Error>, written: &[(u64, Written)]) -> Error {
    let unknown = failed.iter().position(|error| error.kind() == ErrorKind::Indeterminate);
    let first = failed.swap_remove(unknown.unwrap_or(0));
    if written.is_empty() {
        return first;
    }
    let taken = written.iter().map(|(shard, _)| shard.to_string()).collect::<Vec<_>>().join(", ");
    let message = format!("{}; the documents of these shards were written: {taken}", first.message());
    let kind = if first.kind().is_refusal() { first.kind() } else { ErrorKind::Indeterminate };
    first.as_kind(kind, message)
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
fn split<T>(members: Vec<T>, collection: &Collection, id: impl Fn(&T) -> &DocumentId) -> BTreeMap<u64, Vec<T>> {
    if let [(only, _)] = collection.shards[..] {
        return BTreeMap::from([(only, members)]);
    }
    let mut parts: BTreeMap<u64, Vec<T>> = BTreeMap::new();
    for member in members {
        parts.entry(collection.shard_of(id(&member).point_id())).or_default().push(member);
    }
    parts
}

fn session_of(written: &[(u64, Written)]) -> Session {
    let mut session = Session::default();
    written.iter().for_each(|(shard, written)| session.saw(*shard, written.log_index));
    session
}

fn write_answer(written: Vec<(u64, Written)>) -> WriteAnswer {
    // A retried write has the version of the first time.
    let version = |written: &Written| match written.applied {
        Applied::Written { version } => version,
        _ => written.log_index,
    };
    let version = written.iter().map(|(_, written)| version(written)).max().unwrap_or(0);
    WriteAnswer { version, session: session_of(&written) }
}

/// The first `limit` points of all shards' pages. A shard that has more behind its page bounds what may be shown: a point
/// behind its last one could still be missing a neighbour.
fn merge_pages(mut pages: Vec<ListAnswer>, limit: usize) -> ListAnswer {
    if pages.len() == 1 {
        return pages.remove(0);
    }
    let more = pages.iter().any(|page| page.cursor.is_some());
    let bound = pages.iter().filter_map(|page| page.cursor).map(|cursor| cursor.after).min();
    let mut points: Vec<StoredPoint> = pages.into_iter().flat_map(|page| page.points).collect();
    points.sort_by_key(|point| point.id.point_id());
    let shown = points.iter().take_while(|point| bound.is_none_or(|bound| point.id.point_id() <= bound)).count();
    let shown = shown.min(limit);
    let more = more || shown < points.len();
    points.truncate(shown);
    let cursor = points.last().filter(|_| more).map(|last| Cursor { after: last.id.point_id() });
    ListAnswer { points, cursor }
}
