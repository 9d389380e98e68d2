//! The set workload: batches of new documents, deletes by id and by filter, and lists of everything, page by page.
use super::{
    Client, Failure, Memory, Put, Workload,
    client::{Page, Wait},
    cut::Cut,
    filter,
};
use crate::{
    check::{
        filter::Where,
        gap::Gap,
        history::History,
        set::{self, Answer, Call, Table},
    },
    plan::{Action, Plan},
    world::sometimes,
};
use std::sync::Mutex;

pub const MARKS: &[&str] = &[
    "a delete by filter removed several documents",
    "what became of a delete by filter was not known",
    "an acknowledged asynchronous write was lost",
    "a partial list told which shards it lacks",
    "a count told which shards it lacks",
];
/// What is added at leaders that are cut off has ids from here on: no plan names them.
const HUNTED_IDS: u64 = 1 << 40;

#[derive(Default)]
pub struct Set {
    table: Table,
    cut: Cut,
}

impl Workload for Set {
    type Call = Call;
    type Answer = Answer;

    fn learn(&mut self, plan: &Plan) {
        self.cut = Cut::of(plan);
        self.table = Table { one_shard: plan.shards == 1 && !plan.splits(), one_copy: plan.nodes == 1 };
    }

    async fn prepare(&self, client: &Client) -> Result<(), Failure> {
        self.cut.ask(client).await
    }

    fn call(&self, action: Action, _: u64, _: &mut Memory) -> Option<Call> {
        match action {
            Action::Add { first, count } => Some(Call::Add((first..first + count).collect())),
            Action::AddAsync { first, count } => Some(Call::AddAsync((first..first + count).collect())),
            Action::Delete { id } => Some(Call::Delete(id)),
            Action::DeleteWhere { first, count, spared } => {
                Some(Call::DeleteWhere(Where { first, end: first + count, spared }))
            }
            Action::List => Some(Call::List),
            Action::ListPartly => Some(Call::ListPartly),
            Action::Count => Some(Call::Count),
            _ => None,
        }
    }

    async fn perform(&self, client: &Client, call: &Call, _: &Mutex<Memory>) -> Result<Answer, Failure> {
        match call {
            Call::Add(ids) => client.put_all(&puts(ids), None).await.map(|_| Answer::Done),
            Call::AddAsync(ids) => client.put_all_until(Wait::Leader, &puts(ids), None).await.map(|_| Answer::Done),
            Call::Delete(id) => client.delete(*id, None).await.map(|existed| Answer::Deleted(existed.into())),
            Call::DeleteWhere(asked) => {
                let deleted = client.delete_where(&filter::json(asked)).await;
                sometimes!(matches!(deleted, Ok(2..)), "a delete by filter removed several documents");
                let unknown = matches!(deleted, Err(Failure::Unknown(_)));
                sometimes!(unknown, "what became of a delete by filter was not known");
                deleted.map(Answer::Deleted)
            }
            Call::List => {
                client.list().await.map(|found| Answer::Listed(found.into_iter().map(|one| one.id).collect()))
            }
            Call::ListPartly => client.list_partly().await.map(|pages| self.listed(&pages)),
            Call::Count => {
                let (count, failed) = client.count().await?;
                sometimes!(!failed.is_empty(), "a count told which shards it lacks");
                let gaps = if failed.is_empty() { Vec::new() } else { vec![self.cut.gap(&failed)] };
                Ok(Answer::Counted { count, gaps })
            }
        }
    }

    /// Nothing else is acknowledged there: this is what is lost with it.
    fn of_the_hunted(&self, number: u64) -> Option<Action> {
        Some(Action::AddAsync { first: HUNTED_IDS + number * 10, count: 1 + number % 5 })
    }

    fn writes(&self, call: &Call) -> bool {
        !matches!(call, Call::List | Call::ListPartly | Call::Count)
    }

    fn closing(&self, _: &Memory) -> Vec<Action> {
        vec![Action::List, Action::Count]
    }

    fn check(&self, history: &History<Call, Answer>) -> Result<(), String> {
        sometimes!(!set::lost(history).is_empty(), "an acknowledged asynchronous write was lost");
        set::check(history, self.table)
    }
}

impl Set {
    /// What pages show; a page without a shard's part has a gap from the end of the one before it to its own.
    fn listed(&self, pages: &[Page]) -> Answer {
        let (mut ids, mut gaps, mut first) = (Vec::new(), Vec::new(), 0);
        for page in pages {
            let last = page.points.last().filter(|_| page.next.is_some()).map_or(u64::MAX, |point| point.id);
            if !page.failed.is_empty() {
                gaps.push(Gap { first, last, ..self.cut.gap(&page.failed) });
            }
            ids.extend(page.points.iter().map(|point| point.id));
            first = last.saturating_add(1);
        }
        sometimes!(!gaps.is_empty() && !ids.is_empty(), "a partial list told which shards it lacks");
        Answer::Partial { ids, gaps }
    }
}

fn puts(ids: &[u64]) -> Vec<Put> {
    ids.iter().map(|id| Put::new(*id, *id)).collect()
}
