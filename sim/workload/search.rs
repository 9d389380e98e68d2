//! The search workload: every put has a vector of its own; searches, exact and by the index, look for the last one.
use super::{Client, Failure, Memory, Workload, cut::Cut};
use crate::{
    check::{
        history::History,
        search::{self, Answer, Call},
    },
    plan::{Action, Plan},
    world::sometimes,
};
use std::sync::Mutex;

/// Hits a search asks for.
const TOP_K: usize = 5;

pub const MARKS: &[&str] = &["a partial search told which shards it lacks"];

#[derive(Default)]
pub struct Search {
    cut: Cut,
}

impl Workload for Search {
    type Call = Call;
    type Answer = Answer;

    fn learn(&mut self, plan: &Plan) {
        self.cut = Cut::of(plan);
    }

    async fn prepare(&self, client: &Client) -> Result<(), Failure> {
        self.cut.ask(client).await
    }

    fn call(&self, action: Action, _: u64, memory: &mut Memory) -> Option<Call> {
        match action {
            Action::Put { id, value } => {
                memory.values.insert(id, value);
                Some(Call::Put { id, value })
            }
            Action::Delete { id } => Some(Call::Delete { id }),
            Action::Search { id, exact } => {
                memory.values.get(&id).map(|value| Call::Search { id, value: *value, exact, partly: false })
            }
            Action::SearchPartly { id, exact } => {
                memory.values.get(&id).map(|value| Call::Search { id, value: *value, exact, partly: true })
            }
            _ => None,
        }
    }

    async fn perform(&self, client: &Client, call: &Call, _: &Mutex<Memory>) -> Result<Answer, Failure> {
        match call {
            Call::Put { id, value } => client.put(*id, *value, None).await.map(|_| Answer::Done),
            Call::Delete { id } => client.delete(*id, None).await.map(|_| Answer::Done),
            Call::Search { value, exact, partly: true, .. } => {
                let (hits, failed) = client.search_partly(*value, TOP_K, *exact).await?;
                if failed.is_empty() {
                    return Ok(Answer::Hits(hits));
                }
                sometimes!(true, "a partial search told which shards it lacks");
                Ok(Answer::Partial(hits, self.cut.gap(&failed)))
            }
            Call::Search { value, exact, .. } => client.search(*value, TOP_K, *exact).await.map(Answer::Hits),
        }
    }

    fn writes(&self, call: &Call) -> bool {
        !matches!(call, Call::Search { .. })
    }

    fn closing(&self, memory: &Memory) -> Vec<Action> {
        let each = |exact| memory.values.keys().map(move |id| Action::Search { id: *id, exact });
        each(false).chain(each(true)).collect()
    }

    fn check(&self, history: &History<Call, Answer>) -> Result<(), String> {
        search::check(history)
    }
}
