//! Operations on payload indexes: add, list, remove. The catalog holds which fields are indexed; every shard then follows, and
//! fills new ones in the background.

use super::{
    PayloadIndexInfo, Service,
    collections::{afterwards, to_its_end},
    figures::ShardFigures,
};
use crate::{
    cluster::Collection,
    rt,
    types::{CollectionName, Error, ErrorKind, IndexedFields, PayloadIndexKind, Result, path::Path},
};

impl Service {
    /// Indexes a field of a collection's payloads, or changes how. It is answered once the field is in the catalog; until it is
    /// filled (`state` of the answer) filters read points instead. What is there already stays as it is.
    ///
    /// # Errors
    /// `table_not_found`, `too_many_indexed_fields`.
    pub async fn put_payload_index(
        &self,
        name: &CollectionName,
        field: Path,
        kind: PayloadIndexKind,
    ) -> Result<PayloadIndexInfo> {
        let (service, name, wanted) = (self.clone(), name.clone(), field.clone());
        let change = move |mut fields: IndexedFields| {
            fields.insert(wanted.clone(), kind);
            Ok(fields)
        };
        let changed = rt::spawn("add-payload-index", async move { service.change_fields(&name, change).await });
        let infos = to_its_end(changed).await?;
        infos.into_iter().find(|info| info.field == field).ok_or_else(|| not_found(&field))
    }

    /// Stops indexing a field.
    ///
    /// # Errors
    /// `table_not_found`, `payload_index_not_found`.
    pub async fn delete_payload_index(&self, name: &CollectionName, field: &Path) -> Result<()> {
        let (service, name, field) = (self.clone(), name.clone(), field.clone());
        let change = move |mut fields: IndexedFields| match fields.remove(&field) {
            Some(_) => Ok(fields),
            None => Err(not_found(&field)),
        };
        let changed = rt::spawn("drop-payload-index", async move { service.change_fields(&name, change).await });
        to_its_end(changed).await.map(|_| ())
    }

    /// The payload indexes of a collection, by field.
    ///
    /// # Errors
    /// `table_not_found`.
    pub async fn payload_indexes(&self, name: &CollectionName) -> Result<Vec<PayloadIndexInfo>> {
        self.payload_index_infos(&*self.find(name).await?).await
    }

    async fn change_fields(
        &self,
        name: &CollectionName,
        change: impl Fn(IndexedFields) -> Result<IndexedFields>,
    ) -> Result<Vec<PayloadIndexInfo>> {
        let change = |mut spec: crate::types::CollectionSpec| {
            let fields = change(std::mem::take(&mut spec.indexed_fields))?;
            spec.with_indexed_fields(fields)
        };
        let name = &self.find(name).await?.name;
        self.0.catalog.alter(name, change).await?;
        self.follow_catalog().await.map_err(afterwards)?;
        let collection = self.0.catalog.collection(name).map_err(afterwards)?;
        self.payload_index_infos(&collection).await.map_err(afterwards)
    }

    async fn payload_index_infos(&self, collection: &Collection) -> Result<Vec<PayloadIndexInfo>> {
        let figures = self.figures(&collection.shard_ids()).await?;
        Ok(infos(collection, &figures.of(collection)))
    }
}

/// The indexed fields of a collection over its shards, of which some may be missing.
pub(super) fn infos(collection: &Collection, shards: &[&ShardFigures]) -> Vec<PayloadIndexInfo> {
    let info = |(field, kind): (&Path, &PayloadIndexKind)| {
        let states = || shards.iter().flat_map(|shard| &shard.fields).filter(|state| state.field == *field);
        let ready = states().count() == collection.shards.len() && states().all(|state| state.ready);
        PayloadIndexInfo {
            field: field.clone(),
            kind: *kind,
            state: if ready { "ready" } else { "building" },
            points: states().map(|state| state.points).sum(),
            distinct: states().map(|state| state.distinct).sum(),
            memory_bytes: states().map(|state| state.memory_bytes).sum(),
        }
    };
    collection.spec.indexed_fields.iter().map(info).collect()
}

fn not_found(field: &Path) -> Error {
    Error::new(ErrorKind::NotFound, "payload_index_not_found", "the table has no index on this field")
        .at("field")
        .got(field)
}
