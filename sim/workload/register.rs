//! The register workload: put, conditional put, get and delete of a few documents, judged for linearizability.
use super::{Client, Failure, Memory, Workload};
use crate::{
    check::{
        history::History,
        register::{self, Answer, Call},
        wgl::STEPS_MAX,
    },
    plan::Action,
};
use std::sync::Mutex;

pub struct Register;

impl Workload for Register {
    type Call = Call;
    type Answer = Answer;

    fn call(&self, action: Action, memory: &mut Memory) -> Option<Call> {
        let (call, value) = match action {
            Action::Get { id } => (Call::Get { key: id }, None),
            Action::Put { id, value } => (Call::Put { key: id, value, if_version: None }, Some(value)),
            Action::PutIf { id, value } => {
                let if_version = Some(memory.versions.get(&id).copied().unwrap_or(0));
                (Call::Put { key: id, value, if_version }, Some(value))
            }
            Action::Delete { id } => (Call::Delete { key: id }, None),
            _ => return None,
        };
        if let Some(value) = value {
            memory.values.insert(call.key(), value);
        }
        Some(call)
    }

    async fn perform(&self, client: &Client, call: &Call, memory: &Mutex<Memory>) -> Result<Answer, Failure> {
        let seen = |key, version| {
            memory.lock().expect("no panic while locked").versions.insert(key, version);
        };
        match call {
            Call::Get { key } => Ok(match client.get(*key).await? {
                Some((value, version)) => {
                    seen(*key, version);
                    Answer::Found { value, version }
                }
                None => Answer::Absent,
            }),
            Call::Put { key, value, if_version } => match client.put(&[(*key, *value)], *if_version).await {
                Ok(version) => {
                    seen(*key, version);
                    Ok(Answer::Written { version })
                }
                Err(Failure::Conflict) if if_version.is_some() => Ok(Answer::Conflict),
                Err(failure) => Err(failure),
            },
            Call::Delete { key } => Ok(Answer::Deleted { existed: client.delete(*key).await? }),
        }
    }

    fn writes(&self, call: &Call) -> bool {
        !matches!(call, Call::Get { .. })
    }

    fn closing(&self, memory: &Memory) -> Vec<Action> {
        memory.values.keys().map(|id| Action::Get { id: *id }).collect()
    }

    fn check(&self, history: &History<Call, Answer>) -> Result<(), String> {
        register::check(history, STEPS_MAX)
    }
}
