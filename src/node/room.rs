//! Watches the room on the disk and tells those who have to know: shards refuse writes while only the reserve is left, groups take no
//! entries of others when most of that is gone, and what is led here is offered to nodes that may have room. When there is room again
//! all of that ends by itself. Started by [`super::engine`].

use crate::{
    raft::MultiRaft,
    rt::{
        self,
        shutdown::Shutdown,
        time::{self, Instant},
    },
    service::Service,
    store::room::{Room, RoomSeen, free_bytes},
};
use std::{path::PathBuf, time::Duration};

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Between two offers of what is led: who got it may have as little room.
const OFFER_INTERVAL: Duration = Duration::from_secs(10);
/// How long the others may take to take it.
const OFFER_LIMIT: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct RoomWatch {
    pub(super) directory: PathBuf,
    /// Bytes to be kept free.
    pub(super) reserve: u64,
    pub(super) seen: RoomSeen,
    pub(super) raft: MultiRaft,
    pub(super) service: Service,
}

impl RoomWatch {
    /// Looks until `stop`.
    pub(super) async fn run(self, stop: Shutdown) {
        let mut offered = None;
        let watch = async {
            loop {
                self.look().await;
                let is_due = |offered: Instant| offered.elapsed() >= OFFER_INTERVAL;
                if self.seen.get() != Room::Enough && offered.is_none_or(is_due) {
                    offered = Some(time::now());
                    self.offer_leaders().await;
                }
                time::sleep(LOOK_INTERVAL).await;
            }
        };
        tokio::select! {
            biased;
            () = stop.wait() => {}
            () = watch => {}
        }
    }

    async fn look(&self) {
        let directory = self.directory.clone();
        let before = self.seen.get();
        let free = match rt::compute::io(move || free_bytes(&directory)).await {
            Ok(free) => free,
            // What can be done is done: writes tell whether there is room.
            Err(error) => return tracing::debug!(%error, "the system does not tell how much room is left"),
        };
        let room = Room::of(free, self.reserve, before);
        if room == before {
            return;
        }
        let reserve = self.reserve;
        match room {
            Room::Enough => tracing::info!(free, reserve, "there is room on the disk again: writes are taken"),
            Room::Reserve => tracing::warn!(free, reserve, "the disk is nearly full: writes are refused"),
            Room::Last => tracing::error!(free, reserve, "the disk is full: nothing is taken from other nodes either"),
        }
        rt::mark("the room on the disk ran short or came back");
        self.seen.set(room);
        self.raft.set_full(room == Room::Last);
    }

    /// Hands over what is led here, as far as others take it in time.
    async fn offer_leaders(&self) {
        let mut led = self.service.host().replicas();
        led.retain(|(_, replica)| replica.is_leader());
        let offers = futures_util::future::join_all(led.iter().map(|(_, replica)| replica.hand_over()));
        let taken = time::timeout(OFFER_LIMIT, offers).await;
        let taken = taken.map_or(0, |offered| offered.into_iter().filter(Result::is_ok).count());
        tracing::info!(taken, offered = led.len(), "for want of room others were asked to lead");
    }
}
