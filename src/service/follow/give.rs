//! Moving slots: where a shard is led here that gives slots to a neighbour, one step after the other is done until they are all
//! there. Level, not edge: each round looks at what the shard's log and the table say and does the next step; a step that was done
//! already, by a leader before this one, is nothing new (`shard::border`). Called by the roof's task.

use crate::{
    cluster::{ShardId, table::EntryGiving},
    rt,
    service::Service,
    shard::{Border, Replica},
    types::{Ack, Error, Result, SLOTS, SlotRange},
};
use std::time::Duration;

/// Points of one step, at most, unless a single slot has more: clients that want one of them wait for as long as one command takes.
/// Few in tests and in the simulation, whose shards have few.
const STEP_POINTS_MAX: u32 = match () {
    () if rt::SIMULATED => 3,
    () if cfg!(test) => 20,
    () => 500,
};
/// Or one of so many points of the shard, if that is more: a step looks at the id of each, which is some 400 times cheaper than to move it.
const STEPS_PER_SHARD: u32 = 400;
/// By how much a step is made smaller whose points do not fit one command.
const STEP_SHRINKS_BY: u32 = 4;
/// Between two steps: what reads of the whole collection need to go through, and clients to have the shards to themselves.
const STEP_PAUSE: Duration = Duration::from_millis(50);
/// Steps between two looks at the table.
const STEPS_MAX: usize = 20;

impl Service {
    /// Goes on with the moves of slots from shards that are led here, in the background.
    pub fn give_slots(&self) {
        let table = self.0.catalog.table();
        for (id, entry) in &table.shards {
            let replica = self.0.host.find(*id).filter(|replica| replica.is_leader());
            let Some((replica, giving)) = replica.zip(entry.giving) else { continue };
            // A new shard, which has no slots yet, takes the last ones.
            let is_before = table.shards.get(&giving.to).is_some_and(|to| lies_before(to.slots, giving.slots));
            if self.0.givers.begin(*id) {
                let (service, id, epoch) = (self.clone(), *id, entry.epoch);
                drop(rt::spawn("give-slots", async move {
                    if let Err(error) = service.give(id, &replica, (giving, epoch), is_before).await {
                        tracing::info!(shard = id, to = giving.to, %error, "slots of a shard do not move on yet");
                    }
                    service.0.givers.end(&id);
                }));
            }
        }
    }

    /// Does the next steps of what the table of `epoch` says.
    async fn give(
        &self,
        id: ShardId,
        replica: &Replica,
        (giving, epoch): (EntryGiving, u64),
        is_before: bool,
    ) -> Result<()> {
        if replica.border().leaving.is_some() {
            rt::mark("slots on their way were found and sent on");
        }
        for _ in 0..STEPS_MAX {
            match next(&replica.border(), giving) {
                Next::Nothing => return self.end_giving(id, replica, giving).await,
                Next::Send => {
                    let Some(sending) = replica.sending(id).await? else { continue };
                    self.write_shard(sending.to, sending.command, Ack::Quorum).await?;
                    replica.forget(sending.number).await?;
                    rt::mark("slots of a shard moved to its neighbour");
                    rt::time::sleep(STEP_PAUSE).await;
                }
                Next::TellRequests => replica.release(SlotRange::NONE, giving.to, epoch).await?,
                Next::Release(left) => self::release(replica, left, (giving.to, epoch), is_before).await?,
            }
        }
        Ok(())
    }
}

/// Releases the next slots of those that are `left`: fewer, if the points are so large that they do not fit one command.
async fn release(replica: &Replica, left: SlotRange, (to, epoch): (ShardId, u64), is_before: bool) -> Result<()> {
    let points = replica.points_by_slot().await;
    let mut most = points.iter().fold(0, |sum: u32, count| sum.saturating_add(*count)) / STEPS_PER_SHARD;
    most = most.max(STEP_POINTS_MAX);
    loop {
        let step = step(left, is_before, &points, most);
        match replica.release(step, to, epoch).await {
            Err(error) if error.code() == "slots_too_large" && step.end - step.first > 1 && most > 0 => {
                most /= STEP_SHRINKS_BY;
            }
            done => return done,
        }
    }
}

impl Service {
    /// Tells the table that all slots are where they were to go.
    async fn end_giving(&self, id: ShardId, replica: &Replica, giving: EntryGiving) -> Result<()> {
        // A leader that is new may not have applied yet what was committed before it: it could have more slots than it knows of.
        replica.read_barrier(0).await?;
        let border = replica.border();
        if next(&border, giving) != Next::Nothing {
            return Ok(());
        }
        let end = self.0.catalog.alter_table(|table| {
            let entry = table.shards.get(&id).filter(|entry| entry.giving == Some(giving));
            // Else somebody was faster, or the collection is gone.
            let Some(entry) = entry else { return Ok(()) };
            if entry.slots.without(giving.slots) != Some(border.owned) {
                return Err(Error::internal(format!("shard {id} owns other slots than the table says")));
            }
            table.end_giving(id);
            Ok(())
        });
        end.await?;
        rt::mark("all slots that a shard was to give are with its neighbour");
        tracing::info!(shard = id, to = giving.to, "the slots of a shard are where they were to go");
        self.refresh().await
    }
}

/// What is to be done next for slots that move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// They are all there.
    Nothing,
    /// A cargo is on its way.
    Send,
    /// The other shard knows none of the requests.
    TellRequests,
    /// These are left to be given, some at one edge of the shard.
    Release(SlotRange),
}

fn next(border: &Border, EntryGiving { to, slots }: EntryGiving) -> Next {
    let left = SlotRange { first: slots.first.max(border.owned.first), end: slots.end.min(border.owned.end) };
    match () {
        () if border.leaving.is_some() => Next::Send,
        () if left.is_empty() => Next::Nothing,
        () if !border.told.contains_key(&to) => Next::TellRequests,
        () => Next::Release(left),
    }
}

fn lies_before(to: SlotRange, slots: SlotRange) -> bool {
    !to.is_empty() && to.end <= slots.first
}

/// The slots of the next step, of those that are `left`, with at most so many points or else one: its first ones if the shard that
/// takes them lies before, else its last.
fn step(left: SlotRange, from_start: bool, points: &[u32], most: u32) -> SlotRange {
    assert_eq!(points.len(), usize::from(SLOTS), "a number for every slot");
    let mut slots: Vec<u16> = (left.first..left.end).collect();
    if !from_start {
        slots.reverse();
    }
    let mut sum = 0_u32;
    let fits = |slot: &&u16| {
        sum = sum.saturating_add(points[usize::from(**slot)]);
        sum <= most
    };
    let count = slots.iter().take_while(fits).count().max(1) as u16;
    match from_start {
        true => SlotRange { end: left.first + count, ..left },
        false => SlotRange { first: left.end - count, ..left },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u16, end: u16) -> SlotRange {
        SlotRange { first, end }
    }

    #[test]
    fn steps_are_few_points_and_at_the_edge() {
        let mut points = vec![0_u32; SLOTS.into()];
        points[100..200].fill(STEP_POINTS_MAX / 10);
        assert_eq!(step(range(100, 200), false, &points, STEP_POINTS_MAX), range(190, 200));
        assert_eq!(step(range(100, 200), true, &points, STEP_POINTS_MAX), range(100, 110));
        assert_eq!(step(range(150, 300), false, &points, STEP_POINTS_MAX), range(190, 300));
        assert_eq!(step(range(197, 200), false, &points, STEP_POINTS_MAX), range(197, 200));
        assert_eq!(step(range(100, 200), false, &points, 0), range(199, 200), "the least that can be moved");
        points[199] = STEP_POINTS_MAX + 1;
        assert_eq!(
            step(range(100, 200), false, &points, STEP_POINTS_MAX),
            range(199, 200),
            "one slot goes whatever is in it"
        );
    }

    #[test]
    fn what_is_next_follows_from_the_log() {
        let giving = EntryGiving { to: 2, slots: range(100, 200) };
        let mut border = Border::born(range(0, 200));
        assert_eq!(next(&border, giving), Next::TellRequests);
        border.release(SlotRange::NONE, 2, 1, (5, 9)).unwrap();
        assert_eq!(next(&border, giving), Next::Send);
        border.forget(5);
        assert_eq!(next(&border, giving), Next::Release(range(100, 200)));
        border.release(range(150, 200), 2, 1, (6, 9)).unwrap();
        border.forget(6);
        assert_eq!(next(&border, giving), Next::Release(range(100, 150)));
        border.release(range(100, 150), 2, 1, (7, 9)).unwrap();
        assert_eq!(next(&border, giving), Next::Send);
        border.forget(7);
        assert_eq!(next(&border, giving), Next::Nothing);
        assert!(lies_before(range(0, 100), giving.slots) && !lies_before(range(200, 300), giving.slots));
        assert!(!lies_before(SlotRange::NONE, giving.slots));
    }
}
