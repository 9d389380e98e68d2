//! The session workload: clients that write, wander from node to node and read with the tokens they were given.
use super::{Client, Failure, Freshness, Memory, Workload};
use crate::{
    check::{
        history::History,
        session::{self, Answer, Call},
    },
    plan::Action,
};
use std::sync::Mutex;

pub struct Session;

impl Workload for Session {
    type Call = Call;
    type Answer = Answer;

    fn call(&self, action: Action, client: u64, memory: &mut Memory) -> Option<Call> {
        match action {
            Action::Put { id, value } => {
                memory.values.insert(id, value);
                Some(Call::Put { session: client, key: id, value })
            }
            Action::SessionGet { id } => Some(Call::Get { session: client, key: id, eventual: false }),
            Action::EventualGet { id } => Some(Call::Get { session: client, key: id, eventual: true }),
            _ => None,
        }
    }

    async fn perform(&self, client: &Client, call: &Call, _: &Mutex<Memory>) -> Result<Answer, Failure> {
        match call {
            Call::Put { key, value, .. } => {
                client.put(*key, *value, None).await.map(|version| Answer::Written { version })
            }
            Call::Get { key, eventual, .. } => {
                let freshness = if *eventual { Freshness::Eventual } else { Freshness::Session };
                Ok(client.read(*key, freshness).await?.map_or(Answer::Absent, |found| Answer::Found {
                    value: found.value,
                    version: found.version,
                    token: true,
                }))
            }
        }
    }

    fn writes(&self, call: &Call) -> bool {
        matches!(call, Call::Put { .. })
    }

    fn closing(&self, memory: &Memory) -> Vec<Action> {
        memory.values.keys().map(|id| Action::SessionGet { id: *id }).collect()
    }

    fn check(&self, history: &History<Call, Answer>) -> Result<(), String> {
        session::check(history)
    }
}
