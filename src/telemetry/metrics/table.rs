//! Families that are read all at once: one row for each thing that is told of (a node, a replica), one family for each column. The
//! figures are kept by whoever has them, so that nothing is counted twice and what is gone has no series. Called by the groups of
//! `metrics`.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// One family: its name without prefix and unit, and where its values are found in a row.
pub(super) struct Column<R> {
    name: &'static str,
    help: &'static str,
    /// `Unit` itself cannot stand in a constant.
    unit: Option<Base>,
    grows: bool,
    read: fn(&R) -> f64,
}

#[derive(Clone, Copy)]
enum Base {
    Bytes,
    Seconds,
}

/// A value that goes up and down.
pub(super) const fn gauge<R>(name: &'static str, help: &'static str, read: fn(&R) -> f64) -> Column<R> {
    Column { name, help, unit: None, grows: false, read }
}

/// A value that only grows; `_total` is added to the name.
pub(super) const fn counter<R>(name: &'static str, help: &'static str, read: fn(&R) -> f64) -> Column<R> {
    Column { name, help, unit: None, grows: true, read }
}

impl<R> Column<R> {
    /// The same in bytes.
    pub(super) const fn in_bytes(self) -> Column<R> {
        Column { unit: Some(Base::Bytes), ..self }
    }

    /// The same in seconds.
    pub(super) const fn in_seconds(self) -> Column<R> {
        Column { unit: Some(Base::Seconds), ..self }
    }

    fn encode(&self, value: f64, metric: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        if self.grows { ConstCounter::new(value).encode(metric) } else { ConstGauge::new(value).encode(metric) }
    }
}

/// Of a column whose value a row does not know: then there is no series.
pub(super) const UNKNOWN: f64 = f64::NAN;

/// Truth as Prometheus has it.
pub(super) fn one_if(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// Names of labels, with a row's values.
pub(super) type Labels = Vec<(&'static str, String)>;

/// The columns over the rows that `rows` tells at each scrape. A row without labels must be the only one.
pub(super) struct Table<R: 'static> {
    pub(super) columns: &'static [Column<R>],
    pub(super) labels: fn(&R) -> Labels,
    pub(super) rows: Box<dyn Fn() -> Vec<R> + Send + Sync>,
}

impl<R> fmt::Debug for Table<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("first", &self.columns.first().map(|column| column.name)).finish_non_exhaustive()
    }
}

impl<R: 'static> Collector for Table<R> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let rows: Vec<(Labels, R)> = (self.rows)().into_iter().map(|row| ((self.labels)(&row), row)).collect();
        for column in self.columns.iter().filter(|_| !rows.is_empty()) {
            let kind = if column.grows { MetricType::Counter } else { MetricType::Gauge };
            let unit = column.unit.map(|base| match base {
                Base::Bytes => Unit::Bytes,
                Base::Seconds => Unit::Seconds,
            });
            let mut family = encoder.encode_descriptor(column.name, column.help, unit.as_ref(), kind)?;
            match &rows[..] {
                [(labels, row)] if labels.is_empty() => column.encode((column.read)(row), family)?,
                rows => {
                    let values = rows.iter().map(|(labels, row)| (labels, (column.read)(row)));
                    for (labels, value) in values.filter(|(_, value)| !value.is_nan()) {
                        column.encode(value, family.encode_family(labels)?)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Rows as they were told last, for what can only be asked for by waiting: told before a scrape, read by it.
#[derive(Debug)]
pub struct Told<R>(Arc<Mutex<Vec<R>>>);

impl<R> Clone for Told<R> {
    fn clone(&self) -> Told<R> {
        Told(self.0.clone())
    }
}

impl<R> Default for Told<R> {
    fn default() -> Told<R> {
        Told(Arc::default())
    }
}

impl<R: Clone + Send + 'static> Told<R> {
    /// From now on these are the rows.
    pub fn set(&self, rows: Vec<R>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = rows;
    }

    pub(super) fn rows(&self) -> Vec<R> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
