//! (placeholder)
use super::settings::Settings;
use crate::scenarios::Scenario;
pub fn run(_: &[Scenario], _: &Settings) -> bool {
    false
}
