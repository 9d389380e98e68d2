//! The metrics of one node.
//!
//! Promise: one registry per [`Metrics`], nothing global; every family has a help text and a base unit (seconds, bytes,
//! or none) in its name; the number of series is bounded, whatever clients send; recording takes no lock that a scrape
//! holds for long and never fails. `node.rs` builds one, hands its groups (all cheap to clone) to the rooms, and serves
//! [`Metrics::encode`] at `/metrics`.

mod backends;
mod cluster;
mod collections;
mod log;
mod peers;
mod process;
mod replicas;
mod requests;
mod search;
mod stores;
mod table;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use backends::BackendRow;
pub use cluster::{ClusterMetrics, MasterMetrics, MemberRow, NodeRow, WholeRow};
pub use collections::{CollectionMetrics, CollectionsMetrics};
pub use log::LogMetrics;
pub use peers::{PeerMetrics, PeersMetrics};
pub use process::{ProcessUse, Resident};
pub use replicas::{GroupRow, OtherRow, ReplicaRow, ReplicasMetrics};
pub use requests::{GrpcMetrics, HttpMetrics, InFlight};
pub use search::{SearchKind, SearchMetrics, Stage};
pub use stores::{StoreRow, StoresMetrics};
pub use table::Told;

/// What every name starts with, but for the `process_*` families, whose names are the convention's.
const PREFIX: &str = "vectorsphere";

/// The `Content-Type` of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bounds of the buckets of every duration, in seconds: 50 µs (a search in memory) to 30 s (a request's deadline).
const SECONDS_BUCKETS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
    30.0,
];

/// All metrics of one node. Cloning gives another handle to the same.
#[derive(Clone)]
pub struct Metrics {
    /// Requests over HTTP.
    pub http: HttpMetrics,
    /// Requests over gRPC.
    pub grpc: GrpcMetrics,
    /// Collections, their points and their index.
    pub collections: CollectionsMetrics,
    /// The synced log.
    pub log: LogMetrics,
    /// Other nodes.
    pub peers: PeersMetrics,
    /// Searches, by stage.
    pub search: SearchMetrics,
    /// The replicas of this node.
    pub replicas: ReplicasMetrics,
    /// Its databases.
    pub stores: StoresMetrics,
    /// Its part in the cluster, and the cluster where this node is the master.
    pub cluster: ClusterMetrics,
    registry: Arc<Mutex<Registry>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// The families of a node, all at zero. The process's own use is not among them: see [`Metrics::watch_process`].
    pub fn new() -> Self {
        let mut root = Registry::default();
        let registry = root.sub_registry_with_prefix(PREFIX);
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION")), ("architecture", std::env::consts::ARCH)]);
        registry.register("build", "The program", build);
        Self {
            http: HttpMetrics::new(registry),
            grpc: GrpcMetrics::new(registry),
            collections: CollectionsMetrics::new(registry),
            log: LogMetrics::new(registry),
            peers: PeersMetrics::new(registry),
            search: SearchMetrics::new(registry),
            replicas: ReplicasMetrics::new(registry),
            stores: StoresMetrics::new(registry),
            cluster: ClusterMetrics::new(registry),
            registry: Arc::new(Mutex::new(root)),
        }
    }

    /// Requests being served, over all interfaces.
    pub fn in_flight(&self) -> u64 {
        self.http.in_flight() + self.grpc.in_flight()
    }

    /// Adds the `process_*` families, read from the operating system at each scrape. `started_at_ms` is the wall clock
    /// at start, in milliseconds since 1970. Not for a simulation, where what the process uses is chance.
    pub fn watch_process(&self, started_at_ms: u64) {
        self.registry().register_collector(Box::new(process::ProcessCollector::new(started_at_ms)));
    }

    /// Adds a gauge whose value is asked for at each scrape, for rooms that count on their own. `name` is without
    /// prefix and unit.
    pub fn sample_gauge<F>(&self, name: &'static str, help: &'static str, unit: Option<Unit>, read: F)
    where
        F: Fn() -> f64 + Send + Sync + 'static,
    {
        self.sample(Sampled { name, help, unit, kind: MetricType::Gauge, read: Box::new(read) });
    }

    /// As [`Metrics::sample_gauge`] for a value that only grows; `_total` is added to the name.
    pub fn sample_counter<F>(&self, name: &'static str, help: &'static str, unit: Option<Unit>, read: F)
    where
        F: Fn() -> f64 + Send + Sync + 'static,
    {
        self.sample(Sampled { name, help, unit, kind: MetricType::Counter, read: Box::new(read) });
    }

    /// Adds the series of the nodes behind a gateway, read at each scrape.
    pub fn watch_backends(&self, read: impl Fn() -> Vec<BackendRow> + Send + Sync + 'static) {
        self.registry().sub_registry_with_prefix(PREFIX).register_collector(Box::new(backends::table(read)));
    }

    /// The text of `/metrics` (OpenMetrics), of type [`CONTENT_TYPE`]. Linear in the number of series.
    pub fn encode(&self) -> String {
        let mut body = String::new();
        // Writing to a String cannot fail; a collector that does loses its own family, not the scrape.
        if text::encode(&mut body, &self.registry()).is_err() {
            body.push_str("# EOF\n");
        }
        body
    }

    fn sample(&self, sampled: Sampled) {
        self.registry().sub_registry_with_prefix(PREFIX).register_collector(Box::new(sampled));
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        // A panic while holding it can only come from a collector's reading, which leaves the registry whole.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Sampled {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    read: Box<dyn Fn() -> f64 + Send + Sync>,
}

impl fmt::Debug for Sampled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampled").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Collector for Sampled {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let metric = encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), self.kind)?;
        match self.kind {
            MetricType::Counter => ConstCounter::new((self.read)()).encode(metric),
            _ => ConstGauge::new((self.read)()).encode(metric),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn line(metrics: &Metrics, start: &str) -> String {
        let text = metrics.encode();
        let found = text.lines().find(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("no {start} in\n{text}")).to_owned()
    }

    #[test]
    fn two_nodes_share_nothing() {
        let (one, two) = (Metrics::new(), Metrics::new());
        one.log.appended(3, 100);
        assert_eq!(line(&one, "vectorsphere_log_appends_total"), "vectorsphere_log_appends_total 3");
        assert_eq!(line(&two, "vectorsphere_log_appends_total"), "vectorsphere_log_appends_total 0");
    }

    #[test]
    fn requests_are_counted_by_route_method_and_status() {
        let metrics = Metrics::new();
        metrics.http.served("/api/v1/tables/{t}", "GET", 404, Duration::from_millis(2));
        metrics.http.served("/api/v1/tables/{t}", "GET", 404, Duration::from_millis(2));
        let series = "vectorsphere_http_requests_total{route=\"/api/v1/tables/{t}\",method=\"GET\",status=\"404\"} 2";
        assert_eq!(line(&metrics, "vectorsphere_http_requests_total"), series);
        let count = line(&metrics, "vectorsphere_http_request_duration_seconds_count");
        assert!(count.ends_with(" 2"), "{count}");
        let bucket = "vectorsphere_http_request_duration_seconds_bucket{le=\"0.0025\"";
        assert!(line(&metrics, bucket).ends_with(" 2"));
        metrics.grpc.served("/vectorsphere.v1.VectorService/Search", 0, Duration::from_micros(80));
        let series = line(&metrics, "vectorsphere_grpc_requests_total");
        assert!(series.contains("code=\"0\"") && series.ends_with(" 1"), "{series}");
    }

    #[test]
    fn requests_in_flight_go_up_and_down() {
        let metrics = Metrics::new();
        let first = metrics.http.begin();
        let second = metrics.http.begin();
        assert_eq!(line(&metrics, "vectorsphere_http_requests_in_flight"), "vectorsphere_http_requests_in_flight 2");
        drop((first, second));
        assert_eq!(line(&metrics, "vectorsphere_http_requests_in_flight"), "vectorsphere_http_requests_in_flight 0");
    }

    #[test]
    fn a_client_cannot_make_series_without_end() {
        let metrics = Metrics::new();
        for number in 0..5_000 {
            metrics.http.served(&format!("/made/up/{number}"), "GET", 200, Duration::ZERO);
            metrics.http.served("/", &format!("M{number}"), 200, Duration::ZERO);
        }
        let series =
            metrics.encode().lines().filter(|line| line.starts_with("vectorsphere_http_requests_total")).count();
        assert!(series <= 1_100, "{series} series");
        let other = metrics.encode().contains("route=\"other\"");
        assert!(other, "what is beyond the bound is still counted");
    }

    #[test]
    fn a_collection_has_its_series_until_it_is_forgotten() {
        let metrics = Metrics::new();
        let glove = metrics.collections.collection("glove");
        glove.set_points(7);
        glove.set_index(5, 2);
        glove.trained(Duration::from_secs(2));
        metrics.collections.set_count(1);
        assert_eq!(line(&metrics, "vectorsphere_collections "), "vectorsphere_collections 1");
        assert_eq!(
            line(&metrics, "vectorsphere_collection_points"),
            "vectorsphere_collection_points{collection=\"glove\"} 7"
        );
        assert!(line(&metrics, "vectorsphere_index_tail_rows").ends_with("{collection=\"glove\"} 2"));
        assert!(line(&metrics, "vectorsphere_index_training_duration_seconds_sum").ends_with(" 2.0"));
        metrics.collections.forget("glove");
        assert!(!metrics.encode().contains("glove"));
    }

    #[test]
    fn searches_are_counted_by_kind_and_stage() {
        let metrics = Metrics::new();
        metrics.search.finished(SearchKind::Approximate, Duration::from_micros(300));
        metrics.search.stage(Stage::Scan, Duration::from_micros(200));
        metrics.search.worked(32, 16_000, 160);
        assert!(metrics.encode().contains("vectorsphere_searches_total{kind=\"approximate\"} 1"));
        assert!(metrics.encode().contains("vectorsphere_search_stage_duration_seconds_count{stage=\"scan\"} 1"));
        assert_eq!(
            line(&metrics, "vectorsphere_search_codes_scanned_total"),
            "vectorsphere_search_codes_scanned_total 16000"
        );
    }

    #[test]
    fn the_log_counts_bytes_and_syncs() {
        let metrics = Metrics::new();
        metrics.log.appended(10, 4_096);
        metrics.log.synced(10, Duration::from_millis(1));
        metrics.log.sync_failed();
        assert_eq!(line(&metrics, "vectorsphere_log_append_bytes_total"), "vectorsphere_log_append_bytes_total 4096");
        assert_eq!(line(&metrics, "vectorsphere_log_syncs_total"), "vectorsphere_log_syncs_total 1");
        assert_eq!(line(&metrics, "vectorsphere_log_sync_failures_total"), "vectorsphere_log_sync_failures_total 1");
        assert!(line(&metrics, "vectorsphere_log_sync_duration_seconds_sum").ends_with(" 0.001"));
    }

    #[test]
    fn a_peer_has_its_series() {
        let metrics = Metrics::new();
        let peer = metrics.peers.peer("00ab");
        peer.found();
        peer.sent(3, 500);
        peer.dropped(2);
        peer.round_trip(Duration::from_micros(1_500));
        assert_eq!(line(&metrics, "vectorsphere_peer_connected"), "vectorsphere_peer_connected{peer=\"00ab\"} 1");
        assert!(line(&metrics, "vectorsphere_peer_sent_bytes_total").ends_with("{peer=\"00ab\"} 500"));
        assert!(line(&metrics, "vectorsphere_peer_messages_dropped_total").ends_with(" 2"));
        assert!(line(&metrics, "vectorsphere_peer_round_trip_seconds").ends_with(" 0.0015"));
        peer.lost();
        assert!(line(&metrics, "vectorsphere_peer_connected").ends_with(" 0"));
        metrics.peers.refused("wrong_cluster");
        assert!(line(&metrics, "vectorsphere_peer_refusals_total").ends_with("{cause=\"wrong_cluster\"} 1"));
    }

    #[test]
    fn sampled_values_are_read_at_each_scrape() {
        use std::sync::atomic::{AtomicU64, Ordering};
        let metrics = Metrics::new();
        let value = Arc::new(AtomicU64::new(1));
        let read = value.clone();
        metrics.sample_gauge("connections", "Open connections", None, move || read.load(Ordering::Relaxed) as f64);
        metrics.sample_counter("disk_written", "Written", Some(Unit::Bytes), || 5.0);
        assert_eq!(line(&metrics, "vectorsphere_connections"), "vectorsphere_connections 1.0");
        value.store(2, Ordering::Relaxed);
        assert_eq!(line(&metrics, "vectorsphere_connections"), "vectorsphere_connections 2.0");
        assert_eq!(
            line(&metrics, "vectorsphere_disk_written_bytes_total"),
            "vectorsphere_disk_written_bytes_total 5.0"
        );
    }

    #[test]
    fn every_family_has_a_help_text_and_names_its_unit() {
        let metrics = Metrics::new();
        metrics.watch_process(1_000);
        let text = metrics.encode();
        assert!(text.ends_with("# EOF\n"));
        assert!(text.contains("vectorsphere_build_info{version=\""));
        let mut families = 0;
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().expect("a name");
            let help = text.lines().find(|line| line.starts_with(&format!("# HELP {name} ")));
            assert!(help.is_some_and(|help| help.len() > name.len() + 15), "{name} has no help");
            if name.contains("duration") {
                assert!(name.ends_with("_seconds"), "{name} has no unit");
            }
            families += 1;
        }
        assert!(families >= 20, "{families} families");
    }
}
