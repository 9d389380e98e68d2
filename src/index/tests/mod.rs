//! The index as a whole against oracles.
