//! What a state knows of its upkeep: the job under way, how far rows are in lists, what the journal builds on. All of it follows from
//! the log; only the saved file is the replica's own affair. Changed by `machine` (behind the gate) and `saving`.

use super::{Work, job::Job};
use crate::{
    index::Block,
    rt,
    shard::saving::IndexFile,
    store::keys::journal::{Base, Row},
    types::VectorName,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// See the module.
#[derive(Default)]
pub struct Keeper {
    /// The one under way.
    pub job: Option<Arc<Job>>,
    /// Versions up to this log index were seen by a job.
    taken_through: u64,
    /// Where the latest training began.
    last_training: u64,
    /// By vector that has lists: versions up to this log index are in them.
    filed: BTreeMap<VectorName, u64>,
    /// What the journal builds on; nothing while there is none.
    base: Option<Saved>,
    /// Vectors whose lists were lost here.
    astray: BTreeSet<VectorName>,
    /// Index files by epoch, open: the latest, and for a moment the one before.
    pub files: BTreeMap<u64, Arc<Block>>,
    /// A file is wanted as soon as no job is under way.
    pub wants_file: bool,
    /// What it will hold.
    pub captured: Option<IndexFile>,
}

/// The log index of the base, and the versions that were in all lists then.
#[derive(Clone, Copy)]
struct Saved {
    at: u64,
    filed: u64,
}

impl Keeper {
    /// What a replica knows that has just read its base.
    pub fn of_base(at: u64, base: &Base) -> Keeper {
        let name = |name: &String| VectorName::new(name).ok();
        let mut keeper = Keeper {
            filed: base.filed.iter().filter_map(|(vector, at)| Some((name(vector)?, *at))).collect(),
            astray: base.astray.iter().filter_map(name).collect(),
            ..Keeper::default()
        };
        keeper.saved(at, keeper.filed.clone());
        keeper
    }

    /// Whether what happens has to be written to the journal.
    pub fn has_journal(&self) -> bool {
        self.base.is_some()
    }

    /// The journal begins behind `at`, on no file.
    pub fn begin_journal(&mut self, at: u64) {
        self.base = Some(Saved { at, filed: 0 });
    }

    /// The journal now builds on the file of log index `at`, when rows were filed this far.
    pub fn saved(&mut self, at: u64, filed: BTreeMap<VectorName, u64>) {
        self.base = Some(Saved { at, filed: filed.into_values().min().unwrap_or(0) });
    }

    /// There is neither file nor journal any more.
    pub fn forgotten(&mut self) {
        (self.base, self.files) = (None, BTreeMap::new());
    }

    /// Whether a point of this version, about to be replaced, has to be kept: the journal may need it to do a job again.
    pub fn keeps(&self, version: u64) -> bool {
        let is_in_file = |base: Saved| self.last_training <= base.at && version <= base.filed;
        version <= self.taken_through && self.base.is_some_and(|base| !is_in_file(base))
    }

    /// Whether there are new lists that no file has.
    pub fn has_unsaved_training(&self) -> bool {
        let ended = self.job.as_ref().is_none_or(|job| job.work != Work::Train);
        ended && self.base.is_some_and(|base| self.last_training > base.at)
    }

    /// A job begins.
    pub fn began(&mut self, job: Arc<Job>) {
        if job.work.takes_rows() {
            self.taken_through = job.begun;
        }
        if job.work == Work::Train {
            self.last_training = job.begun;
        }
        self.job = Some(job);
    }

    /// The job under way, if it is the one that began at this log index.
    pub fn job_begun(&self, at: u64) -> Option<Arc<Job>> {
        self.job.clone().filter(|job| job.begun == at)
    }

    /// A job's rows are in lists now.
    pub fn filed(&mut self, job: &Job) {
        if job.work.takes_rows() {
            self.filed.insert(job.vector.clone(), job.begun);
            if self.astray.remove(&job.vector) {
                rt::mark("a replica that had lost its lists was equal again");
            }
        }
    }

    /// There was nothing to build lists from: all rows there are now came since, and are in the tail.
    pub fn emptied(&mut self, job: &Job) {
        self.job = None;
        self.filed.remove(&job.vector);
        self.astray.remove(&job.vector);
    }

    /// Whether a file is wanted and this is a moment to take it; it is not asked for a second time.
    pub fn may_capture(&mut self) -> bool {
        self.job.is_none() && std::mem::take(&mut self.wants_file)
    }

    /// How far rows are in lists, by vector that has lists.
    pub fn filed_through(&self) -> &BTreeMap<VectorName, u64> {
        &self.filed
    }

    /// All lists are lost.
    pub fn lost(&mut self) {
        let begun = self.job.take().filter(|job| job.work == Work::Train);
        self.astray.extend(std::mem::take(&mut self.filed).into_keys());
        self.astray.extend(begun.map(|job| job.vector.clone()));
        self.files = BTreeMap::new();
        (self.wants_file, self.captured) = (false, None);
    }

    /// A vector has lists elsewhere, of which nothing is known here.
    pub fn is_astray(&mut self, vector: VectorName) {
        self.astray.insert(vector);
    }

    /// Vectors whose lists were lost here.
    pub fn astray(&self) -> &BTreeSet<VectorName> {
        &self.astray
    }

    /// What a file of now lacks, `unfiled` being its rows that are in no list.
    pub fn base_record(&self, unfiled: Vec<Row>) -> Base {
        // As stored, not as shown: the vector without a name is shown as something.
        let stored = |name: &VectorName| name.as_str().to_owned();
        Base {
            unfiled,
            filed: self.filed.iter().map(|(name, at)| (stored(name), *at)).collect(),
            astray: self.astray.iter().map(stored).collect(),
        }
    }
}
