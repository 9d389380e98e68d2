//! The register workload: put, patch, both also conditional, get and delete of a few documents, judged for linearizability.
use super::{Client, Failure, Memory, Put, Workload, client::Wait};
use crate::{
    check::{
        history::History,
        register::{self, Answer, Call},
        wgl::STEPS_MAX,
    },
    plan::Action,
    world::{log, sometimes},
};
use std::sync::Mutex;

pub const MARKS: &[&str] = &["a document was patched", "a patch found nothing to change"];

/// Every so many writes an old one is repeated.
const REPEAT_EVERY: u64 = 4;
/// Attempts at one operation under one request id.
const ATTEMPTS: usize = 6;

/// `once`: a client sends a write again, under the same request id and to other nodes too, until it knows what became of
/// it. All attempts are one operation of the history, so a write that takes effect twice breaks linearizability.
pub struct Register {
    pub once: bool,
}

impl Workload for Register {
    type Call = Call;
    type Answer = Answer;

    fn call(&self, action: Action, _: u64, memory: &mut Memory) -> Option<Call> {
        let seen = |id| Some(memory.versions.get(&id).copied().unwrap_or(0));
        let (call, value) = match action {
            Action::Get { id } => (Call::Get { key: id }, None),
            Action::Put { id, value } => (Call::Put { key: id, value, if_version: None }, Some(value)),
            Action::PutIf { id, value } => (Call::Put { key: id, value, if_version: seen(id) }, Some(value)),
            Action::Patch { id, value } => (Call::Patch { key: id, patch: value, if_version: None }, None),
            Action::PatchIf { id, value } => (Call::Patch { key: id, patch: value, if_version: seen(id) }, None),
            Action::Delete { id } => (Call::Delete { key: id }, None),
            _ => return None,
        };
        if let Some(value) = value {
            memory.values.insert(call.key(), value);
        }
        Some(call)
    }

    async fn perform(&self, client: &Client, call: &Call, memory: &Mutex<Memory>) -> Result<Answer, Failure> {
        if !self.once || !self.writes(call) {
            return attempt(client, call, memory, Wait::Usual, None).await;
        }
        let id = {
            let mut memory = memory.lock().expect("no panic while locked");
            memory.requests += 1;
            format!("request {}", memory.requests)
        };
        repeat(client, memory).await;
        let mut unknown = None;
        for wait in [Wait::Usual].into_iter().chain([Wait::Majority; ATTEMPTS - 1]) {
            match attempt(client, call, memory, wait, Some(&id)).await {
                Err(Failure::Unknown(why)) => unknown = Some(why),
                // If an earlier attempt may have had an effect, "not this time" does not settle it.
                Err(Failure::Refused(_)) if unknown.is_some() => {}
                settled => {
                    sometimes!(unknown.is_some() && settled.is_ok(), "a retry learnt what became of a lost write");
                    if let Ok(answer) = &settled {
                        let mut memory = memory.lock().expect("no panic while locked");
                        memory.settled.push((id, call.clone(), answer.clone()));
                    }
                    return settled;
                }
            }
            client.next();
            client.find_ready().await;
        }
        Err(Failure::Unknown(unknown.unwrap_or_default()))
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

/// Now and then a request that was answered long ago comes once more, as if a network had kept it: it must have no effect
/// and be given the same answer.
async fn repeat(client: &Client, memory: &Mutex<Memory>) {
    let old = {
        let memory = memory.lock().expect("no panic while locked");
        let place = memory.requests as usize * 7 % memory.settled.len().max(1);
        memory.settled.get(place).filter(|_| memory.requests.is_multiple_of(REPEAT_EVERY)).cloned()
    };
    let Some((id, call, first)) = old else { return };
    // What it teaches of versions is old.
    match attempt(client, &call, &Mutex::default(), Wait::Majority, Some(&id)).await {
        Ok(answer) => {
            sometimes!(true, "an old request came once more");
            assert!(answer == first, "{id} was answered {first:?}, and when it came once more {answer:?}: {call:?}");
        }
        Err(failure) => log!("{id} came once more: {failure:?}"),
    }
}

async fn attempt(
    client: &Client,
    call: &Call,
    memory: &Mutex<Memory>,
    wait: Wait,
    id: Option<&str>,
) -> Result<Answer, Failure> {
    let seen = |key, version| {
        memory.lock().expect("no panic while locked").versions.insert(key, version);
    };
    match call {
        Call::Get { key } => Ok(match client.get(*key).await? {
            Some(found) => {
                seen(*key, found.version);
                Answer::Found { value: register::patched(found.value, found.patch), version: found.version }
            }
            None => Answer::Absent,
        }),
        Call::Put { key, value, if_version } => {
            let put = Put { if_version: *if_version, ..Put::new(*key, *value) };
            match client.put_all_until(wait, &[put], id).await {
                Ok(version) => {
                    seen(*key, version);
                    Ok(Answer::Written { version })
                }
                Err(Failure::Conflict) if if_version.is_some() => Ok(Answer::Conflict),
                Err(failure) => Err(failure),
            }
        }
        Call::Patch { key, patch, if_version } => match client.patch(*key, *patch, *if_version, id).await {
            Ok(Some(version)) => {
                sometimes!(true, "a document was patched");
                seen(*key, version);
                Ok(Answer::Written { version })
            }
            Ok(None) => {
                sometimes!(true, "a patch found nothing to change");
                Ok(Answer::Absent)
            }
            Err(Failure::Conflict) if if_version.is_some() => Ok(Answer::Conflict),
            Err(failure) => Err(failure),
        },
        Call::Delete { key } => Ok(Answer::Deleted { existed: client.delete(*key, id).await? }),
    }
}
