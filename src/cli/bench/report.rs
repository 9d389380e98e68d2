//! What a measurement found, for people and for programs. Called by `bench`.

use super::histogram::Histogram;
use crate::cli::context::{facts, grouped};
use serde::Serialize;
use std::time::Duration;

/// Rows of the printed histogram, and columns of its longest bar.
const HISTOGRAM_ROWS: usize = 16;
const BAR_COLUMNS: u64 = 40;

/// Latencies of one kind of request, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    pub requests: u64,
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
    /// Ranges of equal ratio: from, to, requests.
    pub histogram: Vec<(f64, f64, u64)>,
}

impl Latency {
    /// `None` if nothing was recorded.
    pub fn of(histogram: &Histogram) -> Option<Latency> {
        let quantile = |share| ms(histogram.quantile(share));
        (histogram.count() > 0).then(|| Latency {
            requests: histogram.count(),
            mean_ms: ms(histogram.mean()),
            p50_ms: quantile(0.5),
            p95_ms: quantile(0.95),
            p99_ms: quantile(0.99),
            p999_ms: quantile(0.999),
            max_ms: ms(histogram.max()),
            histogram: histogram
                .ranges(HISTOGRAM_ROWS)
                .iter()
                .map(|(from, to, count)| (ms(*from), ms(*to), *count))
                .collect(),
        })
    }

    fn table(&self, what: &str, per_second: f64) -> String {
        let mut text = facts(&[
            (what, format!("{} requests, {:.0} a second", grouped(self.requests), per_second)),
            ("latency", format!("mean {:.3} ms", self.mean_ms)),
            ("  p50", format!("{:.3} ms", self.p50_ms)),
            ("  p95", format!("{:.3} ms", self.p95_ms)),
            ("  p99", format!("{:.3} ms", self.p99_ms)),
            ("  p99.9", format!("{:.3} ms", self.p999_ms)),
            ("  max", format!("{:.3} ms", self.max_ms)),
        ]);
        let most = self.histogram.iter().map(|(_, _, count)| *count).max().unwrap_or(1).max(1);
        for (from, to, count) in &self.histogram {
            let bar = "█".repeat((count * BAR_COLUMNS).div_ceil(most) as usize);
            text += &format!("{from:>10.3} – {to:>10.3} ms  {bar} {}\n", grouped(*count));
        }
        text
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e6
}

/// The whole measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub table: String,
    pub documents: Option<u64>,
    pub dimension: usize,
    pub concurrency: u32,
    pub seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub searches_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k: Option<usize>,
    /// Mean over the searches whose true neighbours are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insert: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inserted_per_second: Option<f64>,
    pub errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
}

impl Report {
    pub fn table(&self) -> String {
        let documents = self.documents.map_or_else(|| "?".to_owned(), grouped);
        let mut told = vec![
            ("table", format!("{}: {documents} documents of dimension {}", self.table, self.dimension)),
            ("load", format!("{} connections for {:.1} s", self.concurrency, self.seconds)),
        ];
        if let (Some(recall), Some(k)) = (self.recall, self.k) {
            told.push(("recall", format!("{recall:.4} at {k}")));
        }
        if let Some(rate) = self.inserted_per_second {
            told.push(("inserted", format!("{} documents a second", grouped(rate as u64))));
        }
        if let Some(error) = &self.first_error {
            told.push(("errors", format!("{}, the first: {error}", grouped(self.errors))));
        }
        let mut text = facts(&told);
        for (what, latency) in [("search", &self.search), ("insert", &self.insert)] {
            if let Some(latency) = latency {
                let per_second = latency.requests as f64 / self.seconds.max(1e-9);
                text += &format!("\n{}", latency.table(what, per_second));
            }
        }
        text
    }
}
