//! Whether this program may take part in the cluster: the cluster speaks the newest version of its protocols that every member could at
//! some moment, which the master raises and nobody lowers. A program that is too old for that, or too new, stops before it does harm.
//! Called by [`super::Engine`], at its start and whenever what the cluster agrees on has changed.

use super::StartError;
use crate::{cluster::spoken_version, coordination::Coordinator, peer::protocol_versions};
use std::ops::RangeInclusive;

/// Looks at what this node remembers of the coordinator.
///
/// # Errors
/// `Version`; `Data` if what is remembered cannot be read.
pub fn check(coordinator: &dyn Coordinator) -> Result<(), StartError> {
    compare(spoken_version(coordinator)?, protocol_versions())
}

fn compare(spoken: u32, ours: RangeInclusive<u32>) -> Result<(), StartError> {
    if ours.contains(&spoken) {
        return Ok(());
    }
    let (first, last) = ours.into_inner();
    let what_to_do = match spoken > last {
        true => "every node could speak that already, so there is no way back: start the node with the newer program",
        false => "first upgrade all nodes to a version in between",
    };
    Err(StartError::Version(format!(
        "the cluster speaks version {spoken}, this program versions {first} to {last}: {what_to_do}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::VERSION_OF_SPLITS;

    #[test]
    fn this_program_knows_splits_and_the_one_before_did_not() {
        let ours = protocol_versions();
        assert!(ours.contains(&VERSION_OF_SPLITS) && ours.contains(&(VERSION_OF_SPLITS - 1)));
    }

    #[test]
    fn only_programs_that_speak_the_clusters_version_take_part() {
        assert!(compare(1, 1..=1).is_ok() && compare(1, 1..=2).is_ok() && compare(2, 1..=2).is_ok());
        let old = compare(3, 1..=2).unwrap_err();
        assert!(old.exit_code() == 2 && old.to_string().contains("start the node with the newer program"), "{old}");
        let new = compare(1, 2..=3).unwrap_err();
        assert!(new.exit_code() == 2 && new.to_string().contains("a version in between"), "{new}");
    }
}
