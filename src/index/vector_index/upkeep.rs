//! The upkeep of an index: which work would pay, taking it as a job, putting in what came of it. What a job finds is as of the moment
//! it was taken; what changes until it is installed is made up for there. Called by `shard`.

use super::{Training, VectorIndex};
use crate::index::adoption::{Adoption, Journal};
use crate::index::arrange::{ArrangeJob, Arranged};
use crate::index::filing::FilingJob;
use crate::index::locations::Location;
use crate::index::plan::TriedOn;
use crate::index::points::Points;
use crate::index::reach::Reach;
use crate::index::rearrange::Rearranged;
use crate::index::recalibrate::{Recalibrated, RecalibrationJob};
use crate::index::reshape::ReshapeJob;
use crate::index::spec::IndexKind;
use crate::index::train::Built;
use crate::index::trained::Trained;
use crate::index::{InstallError, Installed};
use std::sync::Arc;

/// Retrain when there are this many times as many rows as at training.
const GROWTH_MAX: usize = 2;

impl VectorIndex {
    /// Whether building posting lists would pay: too many rows for a flat index, twice the rows of the last training, or
    /// rows that lie a fifth farther from their centroids though the lists are in shape. False while a training runs.
    pub fn wants_training(&self) -> bool {
        if self.spec.kind == IndexKind::Flat || self.training.is_some() {
            return false;
        }
        match &self.trained {
            None => self.len() > self.spec.flat_rows_max,
            Some(trained) => {
                self.len() > GROWTH_MAX * trained.rows_at_training.max(self.spec.flat_rows_max / 2)
                    || trained.has_drifted(self.spec.list_bounds())
            }
        }
    }

    /// A training on a view of now or later begins. Until [`VectorIndex::install_adopted`] or [`VectorIndex::training_abandoned`] no
    /// row leaves the tail, so that every row is in the tail or in the view, and what changes is noted.
    pub fn training_started(&mut self) {
        self.epoch += 1;
        self.training = Some(Training { journal: Journal::default(), first_chunk: self.tail.close_chunk() });
    }

    /// The training ended without a result.
    pub fn training_abandoned(&mut self) {
        self.training = None;
    }

    /// The training ended with nothing to build lists from: there are none any more. Whatever rows there are came since, and are in
    /// the tail.
    pub fn training_found_nothing(&mut self) {
        (self.training, self.trained) = (None, None);
        self.epoch += 1;
        self.sweep_tail();
    }

    /// Does a piece of what has to be done before new lists can be installed; whether there is more. Changes nothing that a search
    /// could see, so that a shared lock is enough. Cost: a fraction of a millisecond.
    pub fn adopt_some(&self, points: &Points, adoption: &mut Adoption) -> bool {
        adoption.advance(points, &self.locations)
    }

    /// Puts new posting lists in place of the old; the rows they have leave the tail. `None`: so much has changed meanwhile that
    /// more should be done by [`VectorIndex::adopt_some`] first. Rows replaced or removed since the training began are dead in the
    /// lists. Cost: a look-up for each of the last changes (about a thousand at most).
    ///
    /// # Errors
    /// The lists do not fit, or lack rows: the index is unchanged, the training goes on until it is abandoned.
    pub fn install_adopted(&mut self, adoption: &mut Adoption) -> Option<Result<Installed, InstallError>> {
        if !adoption.sealed().quantizer.fits(&self.spec) {
            return Some(Err(InstallError::Specification));
        }
        let Some(training) = &mut self.training else { return Some(Err(InstallError::NoTraining)) };
        let first_chunk = training.first_chunk;
        if !adoption.catch_up(std::mem::take(&mut training.journal), &self.locations) {
            return None;
        }
        if adoption.len() != self.len() {
            return Some(Err(InstallError::NotCovered { rows: self.len().saturating_sub(adoption.len()) }));
        }
        let covered = self.tail.split_before(first_chunk);
        let sealed = adoption.exchange((self.trained.take(), covered), &mut self.locations);
        let (live_rows, built_rows) = (sealed.len(), sealed.lists.iter().map(|l| l.list.len()).sum::<usize>());
        self.trained = Some(Trained::new(sealed));
        self.training = None;
        self.epoch += 1;
        self.sweep_tail();
        Some(Ok(Installed { live_rows, dead_rows: built_rows - live_rows }))
    }

    /// The same at once, for callers that nobody waits for.
    pub fn install(&mut self, points: &Points, built: Built) -> Result<Installed, InstallError> {
        let mut adoption = Adoption::new(built);
        loop {
            while self.adopt_some(points, &mut adoption) {}
            if let Some(installed) = self.install_adopted(&mut adoption) {
                return installed;
            }
        }
    }

    /// Packs the rows of mostly dead chunks together.
    fn sweep_tail(&mut self) {
        for evicted in self.tail.sweep() {
            self.append_again(evicted);
        }
    }

    /// Whether filing would pay: the tail is longer than its bound, or one list in sixteen is more than a quarter dead. False
    /// until trained and while a training runs.
    pub fn wants_filing(&self) -> bool {
        let Some(trained) = &self.trained else { return false };
        let tail_long = self.tail.live_rows() > self.spec.tail_rows_max && self.tail.full_chunks().next().is_some();
        self.training.is_none() && (tail_long || trained.sparse_lists * 16 > trained.lists.len())
    }

    /// The work of moving the tail's rows into their lists; none if not trained, or while a training runs. `points` are those whose
    /// ordinals the rows have. Cost: a copy of the lists' handles and live bits, and of the points' pages' handles.
    pub fn filing_job(&self, points: &Points) -> Option<FilingJob> {
        let trained = self.trained.as_ref().filter(|_| self.training.is_none())?;
        Some(FilingJob {
            epoch: self.epoch,
            kernels: self.kernels,
            quantizer: Arc::clone(&trained.quantizer),
            lists: trained.lists.clone(),
            tail: self.tail.clone(),
            points: points.clone(),
        })
    }

    /// Whether splitting and dissolving lists would pay: one of them is out of bounds. False until trained and while a training
    /// runs. Cost: a look at every list.
    pub fn wants_reshaping(&self) -> bool {
        self.training.is_none() && self.trained.as_ref().is_some_and(|t| t.wants_reshaping(self.spec.list_bounds()))
    }

    /// The work of splitting lists that grew too large and dissolving those that shrank; none if not trained, or while a training
    /// runs. Cost: a copy of the lists' handles and live bits.
    pub fn reshape_job(&self) -> Option<ReshapeJob> {
        let trained = self.trained.as_ref().filter(|_| self.training.is_none())?;
        Some(ReshapeJob {
            epoch: self.epoch,
            kernels: self.kernels,
            bounds: self.spec.list_bounds(),
            quantizer: Arc::clone(&trained.quantizer),
            lists: trained.lists.clone(),
        })
    }

    /// Whether choosing the plans of searches anew would pay: many lists are others than those they were tried on. False until
    /// trained and while a training runs.
    pub fn wants_recalibration(&self) -> bool {
        self.training.is_none() && self.trained.as_ref().is_some_and(Trained::wants_recalibration)
    }

    /// The work of choosing plans anew; none if not trained, or while a training runs. `points` are those whose ordinals the rows
    /// have. Cost: a copy of the lists' handles and live bits, and of the points' pages' handles.
    pub fn recalibration_job(&self, points: &Points) -> Option<RecalibrationJob> {
        let trained = self.trained.as_ref().filter(|_| self.training.is_none())?;
        Some(RecalibrationJob {
            epoch: self.epoch,
            kernels: self.kernels,
            queries: self.spec.calibration_queries,
            quantizer: Arc::clone(&trained.quantizer),
            lists: trained.lists.clone(),
            points: points.clone(),
        })
    }

    /// Searches by a job's plans from now on. Whether it was done: not if lists were changed otherwise since the job was taken.
    pub fn install_recalibrated(&mut self, recalibrated: Recalibrated) -> bool {
        let Some(trained) = self.trained.as_mut().filter(|_| recalibrated.epoch == self.epoch) else { return false };
        trained.calibration = recalibrated.calibration;
        trained.tried_on = TriedOn::now(trained.lists.len());
        true
    }

    /// Puts a job's lists in place: rows that were replaced or removed meanwhile are dead in them. Whether it was done: not if
    /// lists were changed otherwise since the job was taken. Cost: a look-up a row moved.
    pub fn install_rearranged(&mut self, rearranged: &mut Rearranged) -> bool {
        let Some(trained) = self.trained.as_mut().filter(|_| rearranged.epoch == self.epoch) else { return false };
        self.epoch += 1;
        let dissolved = trained.adopt(rearranged);
        for changed in &rearranged.changed {
            let rows = Arc::clone(&trained.lists[changed.list].list);
            for (slot, origin) in changed.moved() {
                let ordinal = rows.ordinals[slot];
                if self.locations.get(ordinal) != Some(origin) {
                    continue;
                }
                self.locations.set(ordinal, Location::List { list: changed.list as u32, slot: slot as u32 });
                trained.lists[changed.list].set(slot);
                match origin {
                    Location::Tail(at) => self.tail.clear(at),
                    Location::List { list, slot } if !dissolved.contains(&list) => {
                        trained.clear(list as usize, slot as usize);
                    }
                    Location::List { .. } => {}
                }
            }
        }
        rearranged.retired = trained.lists.split_off(rearranged.lists);
        trained.count_sparse();
        if !self.is_arranging {
            self.sweep_tail();
        }
        true
    }

    /// The work of bringing everything into shape: the tail's rows into lists, the lists within bounds. None if not trained, or
    /// while a training or another such job runs. Until [`VectorIndex::install_arranged`] or [`VectorIndex::arranging_abandoned`]
    /// nothing else may be installed. Cost: as [`VectorIndex::filing_job`], and a copy of the handles of the places.
    pub fn arrange_job(&mut self, points: &Points) -> Option<ArrangeJob> {
        if self.training.is_some() || self.is_arranging {
            return None;
        }
        let trained = self.trained.clone()?;
        self.is_arranging = true;
        let index = VectorIndex {
            spec: self.spec.clone(),
            kernels: self.kernels,
            tail: self.tail.clone(),
            trained: Some(trained),
            locations: self.locations.clone(),
            epoch: self.epoch,
            training: None,
            is_arranging: true,
            file_reads: None,
        };
        Some(ArrangeJob { index, points: points.clone() })
    }

    /// Puts the lists of a job in place: rows that were replaced or removed meanwhile are dead in them. The outcome depends on what
    /// the index was when the job was taken and on what has changed since, not on when or how fast the job ran. Whether it was
    /// done: not if lists were changed otherwise. Cost: a look-up a row moved.
    pub fn install_arranged(&mut self, arranged: &mut Arranged) -> bool {
        let mut is_done = self.is_arranging;
        for step in &mut arranged.steps {
            is_done = is_done && self.install_rearranged(step);
        }
        if let Some(trained) = self.trained.as_mut().filter(|_| is_done)
            && let Some(reach) = arranged.reach.take()
        {
            trained.renew_reach(reach);
        }
        self.arranging_abandoned();
        is_done
    }

    /// The reach of filtered searches on the lists there are now, if many of them are others than at the last measurement.
    pub(crate) fn measured_reach(&self, points: &Points) -> Option<Reach> {
        let trained = self.trained.as_ref().filter(|trained| trained.reach_is_outdated())?;
        Some(Reach::measure(trained.view(points), self.kernels))
    }

    /// The job ended without a result.
    pub fn arranging_abandoned(&mut self) {
        self.is_arranging = false;
        self.sweep_tail();
    }
}
