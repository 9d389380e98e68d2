//! The nodes behind a gateway, one series a node. The figures are kept by the balancer. Called by `gateway`.

use super::table::{Column, Table, counter, gauge, one_if};
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

const COLUMNS: &[Column<BackendRow>] = &[
    counter("gateway_node_requests", "Requests sent to a node", |row| row.requests as f64),
    counter("gateway_node_failures", "Requests that a node did not answer", |row| row.failures as f64),
    counter("gateway_node_abandoned", "Requests given up by their client while a node worked on them", |row| {
        row.abandoned as f64
    }),
    counter("gateway_node_ejections", "Times a node was taken out because it failed", |row| row.ejections as f64),
    gauge("gateway_node_in", "Whether a node gets requests: 1 or 0", |row| one_if(row.is_in)),
    gauge("gateway_node_in_flight", "Requests that a node is working on", |row| f64::from(row.in_flight)),
    gauge("gateway_node_latency", "Mean time to the head of an answer, lately", |row: &BackendRow| {
        row.latency.as_secs_f64()
    })
    .in_seconds(),
];

/// The nodes that `rows` tells of at each scrape.
pub(super) fn table(rows: impl Fn() -> Vec<BackendRow> + Send + Sync + 'static) -> Table<BackendRow> {
    Table { columns: COLUMNS, labels: |row| vec![("node", row.node.clone())], rows: Box::new(rows) }
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
            "vectorsphere_gateway_node_requests_total{node=\"a\"} 7.0",
            "vectorsphere_gateway_node_failures_total{node=\"b\"} 1.0",
            "vectorsphere_gateway_node_in{node=\"a\"} 1.0",
            "vectorsphere_gateway_node_latency_seconds{node=\"b\"} 0.0015",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
    }
}
