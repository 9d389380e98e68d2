//! Every bound of the system in one place, with the relations between them checked at compile time.
//! Called by whoever parses or stores something; listed at `GET /api/v1/limits`.

use serde::Serialize;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Most dimensions of a vector.
pub const DIMENSION_MAX: usize = 65_536;
/// Most dimensions of a vector with binary codes: a sum over all its signs must fit 16 bits.
pub const BINARY_DIMENSION_MAX: usize = 4_096;
/// Most named vectors of a collection.
pub const VECTORS_PER_POINT_MAX: usize = 16;
/// Longest name of a vector, in bytes.
pub const VECTOR_NAME_BYTES_MAX: usize = 128;
/// Longest name of a collection, in bytes.
pub const COLLECTION_NAME_BYTES_MAX: usize = 255;
/// Most collections of a node.
pub const COLLECTIONS_MAX: usize = 10_000;
/// Most aliases of a cluster, and of one collection.
pub const ALIASES_MAX: usize = 2_000;
pub const ALIASES_PER_COLLECTION_MAX: usize = 100;
/// Most changes of aliases in one request.
pub const ALIAS_CHANGES_MAX: usize = 50;
/// Most shards of a collection.
pub const SHARDS_PER_COLLECTION_MAX: u32 = 1_024;
/// Most replicas of shards that a node is given. Above the relation below there is room for replicas that come before others have gone.
pub const SHARDS_PER_NODE_MAX: usize = 960;
/// Most spaces of a store. The engine opens no more that have tables: at its start it puts a note for each of them into a mailbox of this
/// size, which nobody empties before all are in (fjall 3.1.13, `Database::recover` and `WorkerPool::prepare`).
pub const SPACES_PER_STORE_MAX: usize = 1_000;
/// Most copies of a shard that may be asked for.
pub const REPLICAS_MAX: u32 = 16;
/// Longest string id of a document, in bytes.
pub const DOCUMENT_ID_BYTES_MAX: usize = 512;
/// Largest payload of a point, as JSON bytes.
pub const PAYLOAD_BYTES_MAX: usize = MIB;
/// Deepest nesting of a payload (the object itself is level 1).
pub const PAYLOAD_DEPTH_MAX: usize = 32;
/// Most points in one write.
pub const BATCH_POINTS_MAX: usize = 100_000;
/// Largest body of a request, after decompression.
pub const REQUEST_BYTES_MAX: usize = 64 * MIB;
/// Largest replicated command: what one write can become once it is encoded.
pub const COMMAND_BYTES_MAX: usize = 96 * MIB;
/// Largest encoding of one point.
pub const POINT_BYTES_MAX: usize = 8 * MIB;
/// Most hits of one search.
pub const TOP_K_MAX: usize = 10_000;
/// Most searches in one request.
pub const SEARCHES_PER_REQUEST_MAX: usize = 1_000;
/// Most hits of all searches of one request together.
pub const HITS_PER_REQUEST_MAX: usize = 100_000;
/// Most posting lists a search may be told to visit.
pub const NPROBE_MAX: usize = 65_536;
/// Most points of one page of a listing.
pub const LIST_LIMIT_MAX: usize = 10_000;
/// Largest page of a listing, as bytes of its points; a page that would be larger ends early, with a cursor.
pub const LIST_BYTES_MAX: usize = 64 * MIB;
/// Deepest nesting of a filter.
pub const FILTER_DEPTH_MAX: usize = 16;
/// Most conditions of a filter, nested ones included.
pub const FILTER_CONDITIONS_MAX: usize = 1_024;
/// Most values of one `any`, `except` or `has_id`.
pub const FILTER_VALUES_MAX: usize = 65_536;
/// Most indexed payload fields of a collection.
pub const INDEXED_FIELDS_MAX: usize = 64;
/// Longest payload path, in bytes.
pub const PATH_BYTES_MAX: usize = KIB;
/// Longest text of a request id, in bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 64;
/// Request ids a shard remembers, the latest: a retry with one of these is known again.
pub const REQUEST_IDS_MAX: usize = 100_000;

const _: () = assert!(DIMENSION_MAX * 4 * VECTORS_PER_POINT_MAX + PAYLOAD_BYTES_MAX < POINT_BYTES_MAX, "a point fits");
const _: () = assert!(REQUEST_BYTES_MAX + BATCH_POINTS_MAX * 128 < COMMAND_BYTES_MAX, "a whole body fits one command");
const _: () = assert!(POINT_BYTES_MAX < REQUEST_BYTES_MAX, "the largest point can be sent");
const _: () = assert!(TOP_K_MAX <= HITS_PER_REQUEST_MAX, "one full search fits a request");
const _: () = assert!(LIST_LIMIT_MAX <= BATCH_POINTS_MAX, "a page can be written back as one batch");
const _: () = assert!(ALIASES_PER_COLLECTION_MAX <= ALIASES_MAX, "a collection's aliases fit a cluster");
const _: () =
    assert!(SHARDS_PER_NODE_MAX < SPACES_PER_STORE_MAX, "a node's shards fit its store, and the coordinator's records");
const _: () = assert!(POINT_BYTES_MAX <= LIST_BYTES_MAX, "a page holds at least one point");

/// The bounds as data, for the call that lists them. Names are the API's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    pub dimension_max: usize,
    pub vectors_per_document_max: usize,
    pub vector_name_bytes_max: usize,
    pub table_name_bytes_max: usize,
    pub tables_max: usize,
    pub aliases_max: usize,
    pub aliases_per_table_max: usize,
    pub alias_changes_max: usize,
    pub shards_per_table_max: u32,
    pub shards_per_node_max: usize,
    pub document_id_bytes_max: usize,
    pub metadata_bytes_max: usize,
    pub metadata_depth_max: usize,
    pub batch_documents_max: usize,
    pub request_bytes_max: usize,
    pub document_bytes_max: usize,
    pub top_k_max: usize,
    pub searches_per_request_max: usize,
    pub hits_per_request_max: usize,
    pub nprobe_max: usize,
    pub list_limit_max: usize,
    pub list_bytes_max: usize,
    pub filter_depth_max: usize,
    pub filter_conditions_max: usize,
    pub filter_values_max: usize,
    pub indexed_fields_per_table_max: usize,
    pub path_bytes_max: usize,
    pub request_id_bytes_max: usize,
    pub request_ids_per_shard_max: usize,
}

impl Limits {
    /// The bounds compiled into this program.
    pub const CURRENT: Limits = Limits {
        dimension_max: DIMENSION_MAX,
        vectors_per_document_max: VECTORS_PER_POINT_MAX,
        vector_name_bytes_max: VECTOR_NAME_BYTES_MAX,
        table_name_bytes_max: COLLECTION_NAME_BYTES_MAX,
        tables_max: COLLECTIONS_MAX,
        aliases_max: ALIASES_MAX,
        aliases_per_table_max: ALIASES_PER_COLLECTION_MAX,
        alias_changes_max: ALIAS_CHANGES_MAX,
        shards_per_table_max: SHARDS_PER_COLLECTION_MAX,
        shards_per_node_max: SHARDS_PER_NODE_MAX,
        document_id_bytes_max: DOCUMENT_ID_BYTES_MAX,
        metadata_bytes_max: PAYLOAD_BYTES_MAX,
        metadata_depth_max: PAYLOAD_DEPTH_MAX,
        batch_documents_max: BATCH_POINTS_MAX,
        request_bytes_max: REQUEST_BYTES_MAX,
        document_bytes_max: POINT_BYTES_MAX,
        top_k_max: TOP_K_MAX,
        searches_per_request_max: SEARCHES_PER_REQUEST_MAX,
        hits_per_request_max: HITS_PER_REQUEST_MAX,
        nprobe_max: NPROBE_MAX,
        list_limit_max: LIST_LIMIT_MAX,
        list_bytes_max: LIST_BYTES_MAX,
        filter_depth_max: FILTER_DEPTH_MAX,
        filter_conditions_max: FILTER_CONDITIONS_MAX,
        filter_values_max: FILTER_VALUES_MAX,
        indexed_fields_per_table_max: INDEXED_FIELDS_MAX,
        path_bytes_max: PATH_BYTES_MAX,
        request_id_bytes_max: REQUEST_ID_BYTES_MAX,
        request_ids_per_shard_max: REQUEST_IDS_MAX,
    };
}
