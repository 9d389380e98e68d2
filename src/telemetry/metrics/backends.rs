//! The nodes behind a gateway, one series a node. The figures are kept by the balancer and read at each scrape, so that nothing is
//! counted twice and a node that is gone has no series. Called by `gateway`.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use std::fmt;
use std::time::Duration;

/// One node as its gateway knows it.
#[derive(Clone, Debug)]
pub struct BackendRow {
    pub node: String,
    /// Whether it gets requests.
    pub is_in: bool,
    pub in_flight: u32,
    pub requests: u64,
    pub failures: u64,
    pub abandoned: u64,
    pub ejections: u64,
    pub latency: Duration,
}

/// Reads the rows at each scrape.
pub(super) struct Backends(pub(super) Box<dyn Fn() -> Vec<BackendRow> + Send + Sync>);

impl fmt::Debug for Backends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backends")
    }
}

type Read<T> = fn(&BackendRow) -> T;

const COUNTERS: [(&str, &str, Read<u64>); 4] = [
    ("gateway_node_requests", "Requests sent to a node", |row| row.requests),
    ("gateway_node_failures", "Requests that a node did not answer", |row| row.failures),
    ("gateway_node_abandoned", "Requests given up by their client while a node worked on them", |row| row.abandoned),
    ("gateway_node_ejections", "Times a node was taken out because it failed", |row| row.ejections),
];

const GAUGES: [(&str, &str, Option<Unit>, Read<f64>); 3] = [
    ("gateway_node_in", "Whether a node gets requests: 1 or 0", None, |row| f64::from(u8::from(row.is_in))),
    ("gateway_node_in_flight", "Requests that a node is working on", None, |row| f64::from(row.in_flight)),
    ("gateway_node_latency", "Mean time to the head of an answer, lately", Some(Unit::Seconds), |row| {
        row.latency.as_secs_f64()
    }),
];

impl Collector for Backends {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let rows = (self.0)();
        for (name, help, read) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for row in &rows {
                ConstCounter::new(read(row)).encode(family.encode_family(&[("node", row.node.as_str())])?)?;
            }
        }
        for (name, help, unit, read) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            for row in &rows {
                ConstGauge::new(read(row)).encode(family.encode_family(&[("node", row.node.as_str())])?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[test]
    fn every_node_has_its_series_while_it_is_there() {
        let metrics = Metrics::new();
        let row = |node: &str| BackendRow {
            node: node.to_owned(),
            is_in: true,
            in_flight: 2,
            requests: 7,
            failures: 1,
            abandoned: 0,
            ejections: 3,
            latency: Duration::from_micros(1_500),
        };
        metrics.watch_backends(move || vec![row("a"), row("b")]);
        let text = metrics.encode();
        for line in [
            "vectorsphere_gateway_node_requests_total{node=\"a\"} 7",
            "vectorsphere_gateway_node_failures_total{node=\"b\"} 1",
            "vectorsphere_gateway_node_in{node=\"a\"} 1.0",
            "vectorsphere_gateway_node_latency_seconds{node=\"b\"} 0.0015",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
    }
}
