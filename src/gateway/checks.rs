//! Asks every node again and again whether it takes requests, and tells the balancer. Each check is a task of its own: one node
//! that is silent delays no other. Run by the gateway until it stops.

use super::link::Link;
use crate::{
    rt::{
        self,
        shutdown::Shutdown,
        time::{self, now},
    },
    traffic::{Balancer, Check},
};
use std::{sync::Arc, time::Duration};

/// How often it is looked whose turn it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// See the module.
pub async fn run(balancer: Balancer<Arc<Link>>, stop: Shutdown) {
    while !stop.is_triggered() {
        for Check { name, value } in balancer.checks_due(now()) {
            let balancer = balancer.clone();
            drop(rt::spawn("gateway-check", async move {
                let verdict = value.check().await;
                balancer.checked(&name, verdict, now());
            }));
        }
        tokio::select! {
            biased;
            () = stop.wait() => return,
            () = time::sleep(LOOK_INTERVAL) => {}
        }
    }
}
