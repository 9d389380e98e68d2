//! A machine over a store in a temporary directory, commands to give it, and ways to look at what it holds.

use super::super::{
    commands,
    content::{self, ContentHash},
    files::IndexFiles,
    live::Live,
    machine::Machine,
    open,
    outcome::Outcome,
    records::Records,
    search,
    settings::IndexSettings,
};
use crate::{
    raft::{ApplyError, CheckpointReader, Entry, StateMachine},
    store::{Store, StoreOptions},
    types::{
        CollectionSpec, DocumentId, Filter, IndexType, IndexedFields, Metric, Payload, PayloadIndexKind, Point,
        PointId, PointPatch, RequestId, SlotRange, Vector, VectorName, VectorSpec,
        operation::{DeleteRequest, Search},
    },
};
use bytes::Bytes;
use proptest::prelude::*;
use std::{collections::BTreeMap, path::Path, sync::Arc};

const SHARD: u64 = 7;
/// Small, so that requests are forgotten within a test.
pub const REQUEST_IDS_MAX: u64 = 6;

/// See the module.
pub struct Rig {
    pub live: Arc<Live>,
    pub machine: Machine,
    pub files: IndexFiles,
}

impl Rig {
    /// The machine whose data is under `path`.
    pub fn open(path: &Path) -> Rig {
        Rig::open_with(path, IndexType::Flat, IndexSettings::default())
    }

    /// The same with another index.
    pub fn open_with(path: &Path, index: IndexType, settings: IndexSettings) -> Rig {
        Rig::open_spec(path, CollectionSpec::single(VectorSpec::new(2, Metric::Euclidean, index).unwrap()), settings)
    }

    /// A machine of a shard that had these slots when it was made.
    pub fn open_born(path: &Path, born: SlotRange) -> Rig {
        let spec = CollectionSpec::single(VectorSpec::new(2, Metric::Euclidean, IndexType::Flat).unwrap());
        Rig::open_all(path, (spec, born), IndexSettings::default())
    }

    /// The same with another collection.
    pub fn open_spec(path: &Path, spec: CollectionSpec, settings: IndexSettings) -> Rig {
        Rig::open_all(path, (spec, SlotRange::ALL), settings)
    }

    fn open_all(path: &Path, (spec, born): (CollectionSpec, SlotRange), settings: IndexSettings) -> Rig {
        let options = StoreOptions { cache_bytes: 1 << 20, ..StoreOptions::default() };
        let store = Store::open(path.join("data"), options).unwrap();
        let records = Records::open(store, SHARD).unwrap();
        let files = IndexFiles::new(path, SHARD);
        let mut state = open::state(SHARD, (spec, born), records, settings, &files).unwrap();
        state.request_ids_max = REQUEST_IDS_MAX;
        let live = Arc::new(Live::new(state));
        Rig { machine: Machine::new(live.clone(), files.clone()), live, files }
    }

    /// Applies each command as the next entry of the log; all in one call.
    pub fn apply(&mut self, commands: &[Bytes]) -> Vec<Outcome> {
        let first = self.machine.applied() + 1;
        let entry = |(index, data): (u64, &Bytes)| Entry { index, term: 1, data: data.clone() };
        let entries: Vec<Entry> = (first..).zip(commands).map(entry).collect();
        self.machine.apply(&entries).unwrap()
    }

    /// The chunks of a checkpoint taken now.
    pub fn checkpoint(&mut self) -> Chunks {
        let mut checkpoint = self.machine.checkpoint().unwrap();
        assert_eq!(checkpoint.index(), self.machine.applied());
        let mut chunks = Vec::new();
        while let Some(chunk) = checkpoint.next_chunk().unwrap() {
            chunks.push(chunk);
        }
        Chunks { at: checkpoint.index(), chunks, given: 0, fails_at: None }
    }

    /// Puts the checkpoint in the place of what the machine holds.
    pub fn install(&mut self, mut chunks: Chunks) -> Result<(), ApplyError> {
        self.machine.install(chunks.at, &mut chunks)
    }

    /// Everything replicas must agree on.
    pub fn contents(&self) -> Contents {
        let state = self.live.state();
        let view = state.records.view();
        let counters = view.counters().unwrap();
        assert_eq!(counters, state.counters(), "what is published is what is stored");
        assert_eq!(counters.hash, content::of_view(&view).unwrap(), "the hash is kept up");
        let points: BTreeMap<PointId, Vec<u8>> =
            view.points().map(|point| point.unwrap()).map(|(id, record)| (id, record.to_vec())).collect();
        assert_eq!(counters.points, points.len() as u64);
        let requests: BTreeMap<RequestId, Vec<u8>> =
            view.requests().map(|request| request.unwrap()).map(|(id, record)| (id, record.to_vec())).collect();
        assert_eq!(requests.len() as u64, counters.requests.min(REQUEST_IDS_MAX));
        Contents { applied: counters.applied, hash: counters.hash, points, requests, nearest: self.nearest() }
    }

    /// All points by distance, as exact search finds them, and those of a filter.
    fn nearest(&self) -> Vec<(DocumentId, u64, f32)> {
        let state = self.live.state();
        let all = Search { exact: true, ..Search::nearest(Vector::new(vec![0.5, 1.0]).unwrap(), 100) };
        let filtered = Search { filter: Some(filter(1)), ..all.clone() };
        let answers = [all, filtered].map(|search| search::search(&state, &search).unwrap().hits);
        answers.into_iter().flatten().map(|hit| (hit.point.id, hit.point.version, hit.score)).collect()
    }
}

/// What a machine holds.
#[derive(Debug, PartialEq)]
pub struct Contents {
    pub applied: u64,
    pub hash: ContentHash,
    pub points: BTreeMap<PointId, Vec<u8>>,
    pub requests: BTreeMap<RequestId, Vec<u8>>,
    pub nearest: Vec<(DocumentId, u64, f32)>,
}

/// A checkpoint on its way.
#[derive(Clone)]
pub struct Chunks {
    pub at: u64,
    pub chunks: Vec<Bytes>,
    pub given: usize,
    /// Before which chunk the reader fails.
    pub fails_at: Option<usize>,
}

impl Chunks {
    /// A checkpoint said to be of log index `at`.
    pub fn new(at: u64, chunks: Vec<Bytes>) -> Chunks {
        Chunks { at, chunks, given: 0, fails_at: None }
    }

    /// The same stream cut elsewhere.
    pub fn recut(&self, bytes: usize) -> Chunks {
        let stream = self.chunks.concat();
        Chunks::new(self.at, stream.chunks(bytes).map(Bytes::copy_from_slice).collect())
    }
}

impl CheckpointReader for Chunks {
    fn next_chunk(&mut self) -> Result<Option<Bytes>, ApplyError> {
        if self.fails_at == Some(self.given) {
            return Err(ApplyError::Checkpoint { at: self.at, problem: "the reader failed".to_owned() });
        }
        self.given += 1;
        Ok(self.chunks.get(self.given - 1).cloned())
    }
}

/// The field that filters look at.
pub fn indexed_field() -> IndexedFields {
    [(crate::types::path::Path::parse("tag").unwrap(), PayloadIndexKind::Value)].into()
}

fn filter(tag: u8) -> Filter {
    Filter::from_json(&serde_json::json!({"must": [{"key": "tag", "match": {"value": tag}}]})).unwrap()
}

fn payload(tag: u8) -> Payload {
    Payload::from_json(format!(r#"{{"tag":{tag}}}"#).as_bytes()).unwrap()
}

fn vectors(x: u8) -> Vec<(VectorName, Vector)> {
    vec![(VectorName::default(), Vector::new(vec![f32::from(x), 1.0]).unwrap())]
}

/// The request called by a number.
pub fn request(number: u8) -> RequestId {
    RequestId::from_bytes([number; 16])
}

/// A point to write.
pub fn point(id: u8, x: u8, if_version: Option<u64>) -> Point {
    // Half of the ids are texts, whose spelling is stored.
    let id = if id.is_multiple_of(2) { id.to_string() } else { format!("id {id}") };
    Point { id: DocumentId::from_text(id).unwrap(), vectors: vectors(x), payload: payload(x % 4), if_version }
}

/// Writes one point.
pub fn upsert(id: u8, x: u8, request: Option<RequestId>) -> Bytes {
    commands::upsert(vec![point(id, x, None)], request).unwrap()
}

/// Writes so many points at once.
pub fn upserts(points: u8) -> Bytes {
    commands::upsert((0..points).map(|id| point(id, id, None)).collect(), None).unwrap()
}

/// Any command of any client, with few ids so that they meet.
pub fn any_command() -> impl Strategy<Value = Bytes> {
    let version = prop_oneof![6 => Just(None), 1 => (0..40u64).prop_map(Some)];
    let write = (0..12u8, any::<u8>(), version);
    let write = write.prop_map(|(id, x, if_version)| point(id, x, if_version));
    let request = prop_oneof![1 => Just(None), 2 => (0..10u8).prop_map(|number| Some(request(number)))];
    let patch = |point: Point| PointPatch {
        id: point.id,
        vectors: point.vectors,
        payload: point.payload,
        if_version: point.if_version,
    };
    let id = |point: &Point| point.id.clone();
    prop_oneof![
        6 => (prop::collection::vec(write.clone(), 1..5), request.clone())
            .prop_map(|(points, request)| commands::upsert(points, request).unwrap()),
        2 => (write.clone(), request.clone())
            .prop_map(move |(point, request)| commands::patch(patch(point), request).unwrap()),
        2 => (prop::collection::vec(write, 1..5), request.clone()).prop_map(move |(points, request)| {
            commands::delete(&DeleteRequest::Ids(points.iter().map(id).collect()), request).unwrap()
        }),
        1 => (0..4u8, request)
            .prop_map(|(tag, request)| commands::delete(&DeleteRequest::Filter(filter(tag)), request).unwrap()),
        1 => Just(Bytes::new()),
    ]
}
