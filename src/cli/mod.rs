//! The command line.

pub mod client;
pub mod context;
#[cfg(all(test, not(madsim)))]
mod fake;
pub mod import;

pub use context::{CliError, Context, OutputFormat};
