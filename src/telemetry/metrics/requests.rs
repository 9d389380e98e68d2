//! Requests over HTTP and gRPC: how many, how long, how many now.
//!
//! Promise: the number of series is bounded by [`ROUTES_MAX`] and the known methods; what is beyond is counted under
//! `other`. Called by the faces' middleware, once a request.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::SECONDS_BUCKETS;

/// Most distinct series of one family. Routes are the router's own templates, so this is never met by a good caller;
/// it holds where somebody passes a raw path by mistake.
pub const ROUTES_MAX: usize = 1_000;

const OTHER: &str = "other";
const METHODS: [&str; 8] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", OTHER];

/// Makes the histogram of a duration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seconds;

impl Seconds {
    pub(super) fn histogram() -> Histogram {
        Histogram::new(SECONDS_BUCKETS)
    }
}

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Seconds::histogram()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpRequest {
    route: String,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpRoute {
    route: String,
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GrpcRequest {
    method: String,
    code: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GrpcMethod {
    method: String,
}

/// Requests over HTTP.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    requests: Bounded<HttpRequest>,
    duration: Family<HttpRoute, Histogram, Seconds>,
    in_flight: Gauge,
}

impl HttpMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Bounded::new(),
            duration: Family::new_with_constructor(Seconds),
            in_flight: Gauge::default(),
        };
        registry.register("http_requests", "HTTP requests answered", metrics.requests.family.clone());
        registry.register_with_unit(
            "http_request_duration",
            "Time from the end of a request's head to the end of its answer's head",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register("http_requests_in_flight", "HTTP requests being served", metrics.in_flight.clone());
        metrics
    }

    /// Counts a request as being served until the answer is dropped.
    pub fn begin(&self) -> InFlight {
        InFlight::begin(&self.in_flight)
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight.get().unsigned_abs()
    }

    /// Records an answered request. `route` is the router's template (`/api/v1/tables/{t}`), never the raw path.
    pub fn served(&self, route: &str, method: &str, status: u16, duration: Duration) {
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or(OTHER);
        let request = HttpRequest { route: route.to_owned(), method, status };
        let request = self.requests.count(request, |request| request.route = OTHER.to_owned());
        let route = HttpRoute { route: request.route, method };
        self.duration.get_or_create(&route).observe(duration.as_secs_f64());
    }
}

/// Requests over gRPC.
#[derive(Clone, Debug)]
pub struct GrpcMetrics {
    requests: Bounded<GrpcRequest>,
    duration: Family<GrpcMethod, Histogram, Seconds>,
    in_flight: Gauge,
}

impl GrpcMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Bounded::new(),
            duration: Family::new_with_constructor(Seconds),
            in_flight: Gauge::default(),
        };
        registry.register("grpc_requests", "gRPC requests answered, by status code", metrics.requests.family.clone());
        let help = "Time from a gRPC request to its answer";
        registry.register_with_unit("grpc_request_duration", help, Unit::Seconds, metrics.duration.clone());
        registry.register("grpc_requests_in_flight", "gRPC requests being served", metrics.in_flight.clone());
        metrics
    }

    /// Counts a request as being served until the answer is dropped.
    pub fn begin(&self) -> InFlight {
        InFlight::begin(&self.in_flight)
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight.get().unsigned_abs()
    }

    /// Records an answered request by full method name and numeric status code.
    pub fn served(&self, method: &str, code: u32, duration: Duration) {
        let request = GrpcRequest { method: method.to_owned(), code };
        let request = self.requests.count(request, |request| request.method = OTHER.to_owned());
        let method = GrpcMethod { method: request.method };
        self.duration.get_or_create(&method).observe(duration.as_secs_f64());
    }
}

/// A request being served; dropping it ends that.
#[derive(Debug)]
pub struct InFlight(Gauge);

impl InFlight {
    fn begin(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A family of counters that stops growing at [`ROUTES_MAX`] series.
#[derive(Clone, Debug)]
struct Bounded<S> {
    family: Family<S, Counter>,
    series: Arc<AtomicUsize>,
}

impl<S: Clone + Hash + Eq> Bounded<S> {
    fn new() -> Self {
        Self { family: Family::default(), series: Arc::default() }
    }

    /// Counts one for `labels`, or for what `into_other` makes of them where they would be a series too many. Gives back
    /// the labels counted.
    fn count(&self, mut labels: S, into_other: impl FnOnce(&mut S)) -> S {
        if let Some(counter) = self.family.get(&labels) {
            counter.inc();
            return labels;
        }
        // Threads that meet here at once may count a series twice, which only moves the bound down.
        if self.series.load(Ordering::Relaxed) >= ROUTES_MAX {
            into_other(&mut labels);
        } else {
            self.series.fetch_add(1, Ordering::Relaxed);
        }
        self.family.get_or_create(&labels).inc();
        labels
    }
}
