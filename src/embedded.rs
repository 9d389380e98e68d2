//! VectorSphere as a library: open a directory, call plain functions, no server. The directory is the one a server opens;
//! only one process at a time may have it open.
//!
//! ```
//! use vectorsphere::embedded::{Database, Options};
//! use vectorsphere::types::{IndexType, Metric};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! let database = Database::open(directory.path(), Options::default())?;
//! let words = database.create_collection("words", 3, Metric::Cosine, IndexType::IvfPq)?;
//! words.upsert([("king", vec![0.9, 0.1, 0.0]), ("queen", vec![0.8, 0.3, 0.0]), ("car", vec![0.0, 0.1, 0.9])])?;
//! let hits = words.search(vec![1.0, 0.1, 0.0], 2)?;
//! assert_eq!(hits[0].point.id.to_string(), "king");
//! database.close();
//! # Ok(())
//! # }
//! ```

use crate::{
    config::Config,
    node::{Engine, StartError},
    rt::{self, Runtime},
    service::{
        AliasInfo, AliasesChanged, CollectionInfo, CollectionStats, HealthReport, PayloadIndexInfo, Phase, Service,
    },
    telemetry::metrics::Metrics,
    types::{
        AliasChange, CollectionName, CollectionSpec, DocumentId, Error, IndexType, Metric, Payload, PayloadIndexKind,
        Point, PointPatch, Result, StoredPoint, Vector, VectorName, VectorSpec, WriteOptions,
        operation::{
            DeleteAnswer, DeleteRequest, ListAnswer, ListRequest, ReadOptions, Search, SearchAnswer, SearchHit,
            WriteAnswer,
        },
        path::Path,
    },
};
use std::time::Duration;

/// How long closing waits for blocking work.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How to open a database.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Worker threads; as many as there are processors if `None`.
    pub threads: Option<usize>,
    /// Everything else a server can be configured with. `data_dir` and the listeners are not looked at.
    pub config: Config,
}

/// An open database. Calls block until they are done and may come from any number of threads, but not from inside an
/// async task. Dropping it closes it.
pub struct Database {
    service: Service,
    running: Option<(Runtime, Engine)>,
}

impl Database {
    /// Opens the directory, making it if it is not there.
    ///
    /// # Errors
    /// It is in use by another process, or damaged, or newer than this program; nothing is changed then.
    pub fn open(directory: impl AsRef<std::path::Path>, options: Options) -> Result<Database, StartError> {
        let config = Config { data_dir: directory.as_ref().to_owned(), ..options.config };
        let runtime = Runtime::new(options.threads.unwrap_or_else(rt::compute::cores)).map_err(|source| {
            StartError::Listen { listener: "worker threads", address: "this process".to_owned(), source }
        })?;
        let engine = runtime.block_on(Engine::open(&config, &Metrics::new(), |identity| identity))?;
        engine.service().identity().enter(Phase::Up);
        Ok(Database { service: engine.service().clone(), running: Some((runtime, engine)) })
    }

    /// Creates a collection with one unnamed vector.
    ///
    /// # Errors
    /// `bad_table_name`, `bad_dimension`, `table_exists`.
    pub fn create_collection(
        &self,
        name: &str,
        dimension: usize,
        metric: Metric,
        index: IndexType,
    ) -> Result<Collection<'_>> {
        let spec = CollectionSpec::single(VectorSpec::new(dimension, metric, index)?);
        self.create_collection_with(name, spec)
    }

    /// Creates a collection with any spec.
    ///
    /// # Errors
    /// `bad_table_name`, `table_exists`.
    pub fn create_collection_with(&self, name: &str, spec: CollectionSpec) -> Result<Collection<'_>> {
        let name = CollectionName::new(name)?;
        self.wait(self.service.create_collection(name.clone(), spec))?;
        Ok(Collection { database: self, name })
    }

    /// A collection that is there.
    ///
    /// # Errors
    /// `table_not_found`.
    pub fn collection(&self, name: &str) -> Result<Collection<'_>> {
        let name = CollectionName::new(name)?;
        self.wait(self.service.collection(&name))?;
        Ok(Collection { database: self, name })
    }

    /// Every collection.
    pub fn collections(&self) -> Result<Vec<CollectionInfo>> {
        self.wait(self.service.list_collections())
    }

    /// Deletes a collection with all its points.
    ///
    /// # Errors
    /// `table_not_found`.
    pub fn delete_collection(&self, name: &str) -> Result<()> {
        self.wait(self.service.delete_collection(&CollectionName::new(name)?, false))
    }

    /// Gives an alias to a collection, or takes it away, or both, several at once: all changes or none, in one step.
    ///
    /// # Errors
    /// `table_not_found`, `alias_not_found`; `table_exists` for a name that a collection has; `alias_of_alias`; `no_changes`, `too_many_changes`,
    /// `too_many_aliases`.
    pub fn change_aliases(&self, changes: Vec<AliasChange>) -> Result<AliasesChanged> {
        self.wait(self.service.change_aliases(changes))
    }

    /// Every alias, by name. Any call that takes a collection's name takes an alias of it.
    pub fn aliases(&self) -> Result<Vec<AliasInfo>> {
        self.wait(async { Ok(self.service.aliases().await) })
    }

    /// Whether the database works.
    pub fn health(&self) -> HealthReport {
        self.service.health()
    }

    /// Finishes what is under way, syncs and closes; the same as dropping it.
    pub fn close(self) {}

    fn wait<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        let (runtime, _) = self.running.as_ref().expect("open until dropped");
        runtime.block_on(future)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some((runtime, engine)) = self.running.take() {
            runtime.block_on(engine.close());
            runtime.stop(CLOSE_TIMEOUT);
        }
    }
}

/// One collection of an open database.
pub struct Collection<'d> {
    database: &'d Database,
    name: CollectionName,
}

impl Collection<'_> {
    /// Writes points given as (id, vector); those of one shard all or none.
    ///
    /// # Errors
    /// Those of [`Service::upsert`].
    pub fn upsert<I: Into<String>>(&self, points: impl IntoIterator<Item = (I, Vec<f32>)>) -> Result<WriteAnswer> {
        let point = |(id, vector): (I, Vec<f32>)| {
            let vectors = vec![(VectorName::default(), Vector::new(vector)?)];
            Ok(Point { id: DocumentId::from_text(id)?, vectors, payload: Payload::default(), if_version: None })
        };
        self.upsert_points(points.into_iter().map(point).collect::<Result<Vec<_>>>()?)
    }

    /// Writes points; those of one shard all or none.
    ///
    /// # Errors
    /// Those of [`Service::upsert`].
    pub fn upsert_points(&self, points: Vec<Point>) -> Result<WriteAnswer> {
        self.database.wait(self.service().upsert(&self.name, points, &WriteOptions::default()))
    }

    /// Changes one point that is there.
    ///
    /// # Errors
    /// Those of [`Service::patch`].
    pub fn patch(&self, patch: PointPatch) -> Result<WriteAnswer> {
        self.database.wait(self.service().patch(&self.name, patch, &WriteOptions::default()))
    }

    /// Removes points.
    ///
    /// # Errors
    /// Those of [`Service::delete`].
    pub fn delete(&self, request: DeleteRequest) -> Result<DeleteAnswer> {
        self.database.wait(self.service().delete(&self.name, request, &WriteOptions::default()))
    }

    /// One point with its vectors.
    ///
    /// # Errors
    /// `document_not_found`.
    pub fn get(&self, id: &str) -> Result<StoredPoint> {
        let id = DocumentId::from_text(id)?;
        Ok(self.database.wait(self.service().get(&self.name, &id, &ReadOptions::default()))?.point)
    }

    /// A page of points in id order.
    ///
    /// # Errors
    /// `bad_limit`.
    pub fn list(&self, request: ListRequest) -> Result<ListAnswer> {
        Ok(self.database.wait(self.service().list(&self.name, request, &ReadOptions::default()))?.page)
    }

    /// The `top_k` nearest points by the unnamed vector, best first.
    ///
    /// # Errors
    /// Those of [`Service::search`].
    pub fn search(&self, vector: Vec<f32>, top_k: usize) -> Result<Vec<SearchHit>> {
        Ok(self.search_with(Search::nearest(Vector::new(vector)?, top_k))?.hits)
    }

    /// Any search.
    ///
    /// # Errors
    /// Those of [`Service::search`].
    pub fn search_with(&self, search: Search) -> Result<SearchAnswer> {
        let answers = self.database.wait(self.service().search(&self.name, vec![search], &ReadOptions::default()))?;
        answers.answers.into_iter().next().ok_or_else(|| Error::internal("a search has no answer"))
    }

    /// Indexes a field of the payloads, so that filters on it need not read every point; the index is filled in the background.
    ///
    /// # Errors
    /// `bad_path`; those of [`Service::put_payload_index`].
    pub fn index_field(&self, field: &str, kind: PayloadIndexKind) -> Result<PayloadIndexInfo> {
        self.database.wait(self.service().put_payload_index(&self.name, Path::parse(field)?, kind))
    }

    /// Stops indexing a field.
    ///
    /// # Errors
    /// `bad_path`; those of [`Service::delete_payload_index`].
    pub fn drop_field_index(&self, field: &str) -> Result<()> {
        self.database.wait(self.service().delete_payload_index(&self.name, &Path::parse(field)?))
    }

    /// The indexed fields.
    pub fn field_indexes(&self) -> Result<Vec<PayloadIndexInfo>> {
        self.database.wait(self.service().payload_indexes(&self.name))
    }

    /// Sizes and states.
    pub fn stats(&self) -> Result<CollectionStats> {
        self.database.wait(self.service().stats(&self.name))
    }

    fn service(&self) -> &Service {
        &self.database.service
    }
}

// A database may be shared between threads.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Database>();
};
