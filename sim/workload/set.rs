//! The set workload: batches of new documents, deletes, and lists of everything, page by page.
use super::{Client, Failure, Memory, Put, Workload};
use crate::{
    check::{
        history::History,
        set::{self, Answer, Call},
    },
    plan::Action,
};
use std::sync::Mutex;

pub struct Set;

impl Workload for Set {
    type Call = Call;
    type Answer = Answer;

    fn call(&self, action: Action, _: u64, _: &mut Memory) -> Option<Call> {
        match action {
            Action::Add { first, count } => Some(Call::Add((first..first + count).collect())),
            Action::Delete { id } => Some(Call::Delete(id)),
            Action::List => Some(Call::List),
            _ => None,
        }
    }

    async fn perform(&self, client: &Client, call: &Call, _: &Mutex<Memory>) -> Result<Answer, Failure> {
        match call {
            Call::Add(ids) => {
                let puts: Vec<Put> = ids.iter().map(|id| Put::new(*id, *id)).collect();
                client.put_all(&puts, None).await.map(|_| Answer::Done)
            }
            Call::Delete(id) => client.delete(*id, None).await.map(|_| Answer::Done),
            Call::List => {
                client.list().await.map(|found| Answer::Listed(found.into_iter().map(|one| one.id).collect()))
            }
        }
    }

    fn writes(&self, call: &Call) -> bool {
        *call != Call::List
    }

    fn closing(&self, _: &Memory) -> Vec<Action> {
        vec![Action::List]
    }

    fn check(&self, history: &History<Call, Answer>) -> Result<(), String> {
        set::check(history)
    }
}
