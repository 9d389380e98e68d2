//! The search workload: every put has a vector of its own; searches, exact and by the index, with a filter and without, look for the last one.
use super::{Client, Failure, Memory, Workload, client::Look, cut::Cut, filter};
use crate::{
    check::{
        filter::Where,
        history::History,
        search::{self, Answer, Call, TOP_K},
    },
    plan::{Action, Plan},
    world::sometimes,
};
use std::sync::Mutex;

pub const MARKS: &[&str] = &[
    "a partial search told which shards it lacks",
    "a filter let fewer pass than were looked for",
    "a filter let as many pass as were looked for",
];

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
                let value = *memory.values.get(&id)?;
                Some(Call::Search { id, value, exact, within: None, partly: false })
            }
            Action::SearchPartly { id, exact } => {
                let value = *memory.values.get(&id)?;
                Some(Call::Search { id, value, exact, within: None, partly: true })
            }
            Action::SearchWhere { id, exact, below, above, spared } => {
                let value = *memory.values.get(&id)?;
                let within = Some(Where { first: value.saturating_sub(below), end: value + above + 1, spared });
                Some(Call::Search { id, value, exact, within, partly: false })
            }
            _ => None,
        }
    }

    async fn perform(&self, client: &Client, call: &Call, _: &Mutex<Memory>) -> Result<Answer, Failure> {
        match call {
            Call::Put { id, value } => client.put(*id, *value, None).await.map(|_| Answer::Done),
            Call::Delete { id } => client.delete(*id, None).await.map(|_| Answer::Done),
            Call::Search { value, exact, within, partly, .. } => {
                let filter = within.as_ref().map(filter::json);
                let look = Look { value: *value, top_k: TOP_K, exact: *exact, filter, partly: *partly };
                let (hits, failed) = client.look(&look).await?;
                sometimes!(within.is_some() && hits.len() < TOP_K, "a filter let fewer pass than were looked for");
                sometimes!(within.is_some() && hits.len() == TOP_K, "a filter let as many pass as were looked for");
                if failed.is_empty() {
                    return Ok(Answer::Hits(hits));
                }
                sometimes!(true, "a partial search told which shards it lacks");
                Ok(Answer::Partial(hits, self.cut.gap(&failed)))
            }
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
