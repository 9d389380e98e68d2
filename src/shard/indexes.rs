//! The indexes of one replica in memory: its points by ordinal, one index a vector, those of the payload's fields. Every change goes to
//! all of them at once. Held by `state` behind a lock; made by `open`, changed by `round` and `upkeep`, searched by `search`.

use super::{payload::PayloadIndexes, settings::IndexSettings};
use crate::{
    index::{Damage, IndexKind, IndexSpec, Points, VectorIndex},
    types::{CollectionSpec, IndexType, Metric, Payload, PointId, VectorName, VectorSpec},
};
use std::borrow::Cow;

/// The points of the shard by ordinal, one index for every vector of the collection, by name, and those of the payload's fields.
/// Every row of an index belongs to a point, and is of the version the point has.
pub struct Indexes {
    points: Points,
    vectors: Vec<(VectorName, VectorIndex)>,
    /// Of the index files that parts of all this may be in.
    damage: Damage,
    payload: PayloadIndexes,
    /// The log index whose effects it shows.
    applied: u64,
}

impl Indexes {
    /// Empty indexes.
    pub fn new(spec: &CollectionSpec, settings: &IndexSettings) -> Indexes {
        let index = |spec: &VectorSpec| VectorIndex::new(index_spec(spec, settings));
        let vectors = spec.vectors.iter().map(|(name, spec)| (name.clone(), index(spec))).collect();
        Indexes {
            points: Points::new(),
            vectors,
            damage: Damage::default(),
            payload: PayloadIndexes::new(),
            applied: 0,
        }
    }

    /// The index of one vector; `None` if the collection has no such vector.
    pub fn get(&self, name: &VectorName) -> Option<&VectorIndex> {
        self.vectors.iter().find(|(n, _)| n == name).map(|(_, index)| index)
    }

    /// The same, to change, with the points whose ordinals it holds.
    pub fn get_mut(&mut self, name: &VectorName) -> Option<(&Points, &mut VectorIndex)> {
        let (_, index) = self.vectors.iter_mut().find(|(n, _)| n == name)?;
        Some((&self.points, index))
    }

    /// The points by ordinal.
    pub fn points(&self) -> &Points {
        &self.points
    }

    /// What is known of the health of the index file. Once damage is found the answers of these indexes mean nothing.
    pub fn damage(&self) -> &Damage {
        &self.damage
    }

    /// The payload indexes.
    pub fn payload(&self) -> &PayloadIndexes {
        &self.payload
    }

    /// The payload indexes, to fill, with the points whose ordinals they hold.
    pub fn payload_mut(&mut self) -> (&Points, &mut PayloadIndexes) {
        (&self.points, &mut self.payload)
    }

    /// The log index whose effects it shows: a view of the records that has the same applied index is of the same moment.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Everything up to this log index is shown.
    pub fn set_applied(&mut self, applied: u64) {
        self.applied = applied;
    }

    /// Everything up to this log index, if it is not behind what is shown already, is shown.
    pub fn reach(&mut self, applied: u64) {
        self.applied = self.applied.max(applied);
    }

    /// Takes the points that restored indexes hold by ordinal. Comes before any other change.
    pub fn set_points(&mut self, points: Points) {
        self.points = points;
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&VectorName, &VectorIndex)> {
        self.vectors.iter().map(|(name, index)| (name, index))
    }

    /// Makes every index show the vector a point now has, or none; and every payload index what `payload` says has changed.
    pub fn put<'v>(
        &mut self,
        id: PointId,
        version: u64,
        vector: impl Fn(&str) -> Option<Cow<'v, [f32]>>,
        payload: Option<&PayloadChange>,
    ) {
        let ordinal = self.points.put(id, version);
        if let Some(PayloadChange { before, after: Some(after) }) = payload {
            self.payload.put(ordinal, before.as_ref().map(Payload::as_object), after.as_object());
        }
        for (name, index) in &mut self.vectors {
            show(index, ordinal, vector(name.as_str()));
        }
    }

    /// The same for the index called `name`.
    pub fn put_one(&mut self, name: &VectorName, id: PointId, version: u64, vector: Option<Cow<'_, [f32]>>) {
        let ordinal = self.points.put(id, version);
        if let Some((_, index)) = self.get_mut(name) {
            show(index, ordinal, vector);
        }
    }

    /// Makes the indexes forget a point, whose payload was as `payload` says.
    pub fn remove(&mut self, id: PointId, payload: Option<&PayloadChange>) {
        let Some(ordinal) = self.points.ordinal(id) else { return };
        if let Some(PayloadChange { before: Some(before), .. }) = payload {
            self.payload.remove(ordinal, before.as_object());
        }
        for (_, index) in &mut self.vectors {
            index.remove(ordinal);
        }
        self.points.remove(id);
    }
}

/// What a write made of a point's payload: nothing `before` if there was no such point, nothing `after` if there no longer is.
pub struct PayloadChange {
    pub before: Option<Payload>,
    pub after: Option<Payload>,
}

fn show(index: &mut VectorIndex, ordinal: u32, vector: Option<Cow<'_, [f32]>>) {
    match vector {
        Some(components) => index.upsert(ordinal, &prepared(index.spec().metric, components)),
        None => {
            index.remove(ordinal);
        }
    }
}

/// A vector as the index wants it: of length 1 for cosine.
pub fn prepared(metric: Metric, mut components: Cow<'_, [f32]>) -> Cow<'_, [f32]> {
    if metric == Metric::Cosine {
        crate::index::normalize(components.to_mut());
    }
    components
}

fn index_spec(spec: &VectorSpec, settings: &IndexSettings) -> IndexSpec {
    let kind = match spec.index.served_by() {
        IndexType::Flat => IndexKind::Flat,
        IndexType::IvfFlat => IndexKind::IvfFlat,
        IndexType::IvfPq | IndexType::Hnsw => IndexKind::IvfPq,
        IndexType::IvfBinary => IndexKind::IvfBinary,
        IndexType::IvfScalar => IndexKind::IvfInt8,
    };
    IndexSpec {
        kind,
        subspace_width: spec.codes.compression.dimensions_per_code(),
        rerank: spec.codes.rerank,
        flat_rows_max: settings.flat_points_max,
        tail_rows_max: settings.tail_rows_max,
        list_rows: settings.list_rows,
        ..IndexSpec::new(spec.metric, spec.dimension)
    }
}
