//! What a replica answers to peers that compare it with theirs. Called by [`super::peers`].

use crate::{
    peer::{CallError, ContentHash},
    shard::Replica,
};
use std::sync::Arc;

/// The content of a replica, computed again from its records.
pub async fn content(replica: Arc<Replica>) -> Result<ContentHash, CallError> {
    let found = replica.recompute_hash().await.map_err(|error| CallError::Unavailable(error.to_string()))?;
    Ok(ContentHash { applied: found.applied, hash: found.found, buckets: found.buckets })
}
