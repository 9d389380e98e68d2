//! Deliberate bugs, one number each, that the simulation must catch (`SIM_MUTANT=<number>`, feature `mutants`).
//! `mutant!(n)` stands at the fault's site and is the constant `false` in every build without the feature, so a release
//! holds no trace of them. Used by every room that has a fault site; the list of numbers is in sim/README.md.

/// Whether mutant `number` is the one chosen by `SIM_MUTANT`. The variable is read once a process.
#[cfg(feature = "mutants")]
pub fn active(number: u32) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<Option<u32>> = OnceLock::new();
    let read = || std::env::var("SIM_MUTANT").ok().and_then(|text| text.parse().ok());
    *CHOSEN.get_or_init(read) == Some(number)
}

/// `mutant!(n)`: whether mutant `n` is active; the constant `false` without the feature `mutants`.
macro_rules! mutant {
    ($number:literal) => {{
        #[cfg(feature = "mutants")]
        let active = $crate::mutants::active($number);
        #[cfg(not(feature = "mutants"))]
        let active = false;
        active
    }};
}
pub(crate) use mutant;
