//! The gateway over real nodes in this process.
