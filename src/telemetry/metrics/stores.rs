//! The databases of a node: what they hold in memory and on the disk, and what their threads do. The figures are kept by the engine.
//! Told by `service` before each scrape: metrics that held the databases themselves would keep them open.

use super::table::{Column, Table, Told, counter, gauge};
use prometheus_client::registry::Registry;

/// A database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreRow {
    /// `store` or `log`.
    pub database: &'static str,
    pub spaces: u64,
    /// All files.
    pub disk_bytes: u64,
    pub journals: u64,
    pub journal_bytes: u64,
    /// Writes that are not in tables yet.
    pub unflushed_bytes: u64,
    pub flushes_waiting: u64,
    pub compactions_active: u64,
    pub compactions_done: u64,
    pub cache_bytes: u64,
}

const COLUMNS: &[Column<StoreRow>] = &[
    gauge("store_spaces", "Key spaces of a database", |row| row.spaces as f64),
    gauge("store_disk", "Files of a database", |row: &StoreRow| row.disk_bytes as f64).in_bytes(),
    gauge("store_journals", "How many journals a database has", |row| row.journals as f64),
    gauge("store_journal", "Journals of a database", |row: &StoreRow| row.journal_bytes as f64).in_bytes(),
    gauge("store_unflushed", "Writes kept in memory and in journals only", |row: &StoreRow| row.unflushed_bytes as f64)
        .in_bytes(),
    gauge("store_flushes_waiting", "Parts of memory that wait to be written as tables", |row| {
        row.flushes_waiting as f64
    }),
    gauge("store_compactions_active", "Merges of tables under way", |row| row.compactions_active as f64),
    counter("store_compactions", "Merges of tables done", |row| row.compactions_done as f64),
    gauge("store_cache", "Blocks of a database that are cached", |row: &StoreRow| row.cache_bytes as f64).in_bytes(),
];

/// Told before each scrape.
#[derive(Clone, Debug, Default)]
pub struct StoresMetrics {
    /// The databases of this node.
    pub rows: Told<StoreRow>,
}

impl StoresMetrics {
    pub(super) fn new(registry: &mut Registry) -> StoresMetrics {
        let metrics = StoresMetrics::default();
        let rows = metrics.rows.clone();
        let labels = |row: &StoreRow| vec![("database", row.database.to_owned())];
        registry.register_collector(Box::new(Table { columns: COLUMNS, labels, rows: Box::new(move || rows.rows()) }));
        metrics
    }
}
