//! The append workload: lists in documents, each append a read and a conditional write.
use super::{Client, Failure, Memory, Put, Workload};
use crate::{
    check::{
        append::{self, Answer, Call},
        history::History,
    },
    plan::Action,
};
use std::sync::Mutex;

pub struct Append;

impl Workload for Append {
    type Call = Call;
    type Answer = Answer;

    fn call(&self, action: Action, _: u64, memory: &mut Memory) -> Option<Call> {
        match action {
            Action::Append { id, value } => {
                memory.values.insert(id, value);
                Some(Call::Append { key: id, value })
            }
            Action::Get { id } => Some(Call::Read { key: id }),
            _ => None,
        }
    }

    async fn perform(&self, client: &Client, call: &Call, _: &Mutex<Memory>) -> Result<Answer, Failure> {
        let found = client.get(call.key()).await.map_err(Failure::of_a_read)?;
        let (mut list, version) = found.map_or_else(|| (Vec::new(), 0), |found| (found.list, found.version));
        let Call::Append { key, value } = call else { return Ok(Answer::Read(list)) };
        list.push(*value);
        let put = Put { if_version: Some(version), list: Some(list), ..Put::new(*key, *value) };
        client.put_all(&[put], None).await.map(|_| Answer::Done)
    }

    fn writes(&self, call: &Call) -> bool {
        matches!(call, Call::Append { .. })
    }

    fn closing(&self, memory: &Memory) -> Vec<Action> {
        memory.values.keys().map(|id| Action::Get { id: *id }).collect()
    }

    fn check(&self, history: &History<Call, Answer>) -> Result<(), String> {
        append::check(history)
    }
}
