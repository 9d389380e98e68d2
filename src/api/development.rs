//! What a node offers to `cluster dev` on the operators' port when `dev.partitions` is set, and never otherwise: `PUT /dev/cuts`
//! takes a JSON list of peer addresses (`["127.0.0.1:6336"]`) that shall seem unreachable from here, an empty one to heal;
//! `GET` shows them. Called by the roof, which adds [`router`] to the operators' listener.

use crate::rt::cuts::Cuts;
use axum::{Json, Router, routing::get};
use http::StatusCode;
use std::collections::BTreeSet;

/// More addresses than any development cluster has.
const ADDRESSES_MAX: usize = 256;

/// The calls.
pub fn router(cuts: Cuts) -> Router {
    let shown = cuts.clone();
    let show = async move || Json(shown.addresses());
    let change = async move |Json(addresses): Json<BTreeSet<String>>| {
        if addresses.len() > ADDRESSES_MAX {
            return StatusCode::PAYLOAD_TOO_LARGE;
        }
        tracing::warn!(?addresses, "the network to these peers seems cut from here on");
        cuts.set(addresses);
        StatusCode::NO_CONTENT
    };
    Router::new().route("/dev/cuts", get(show).put(change))
}
