//! One client at work: step by step through its plan, each operation into the shared history and the log.
use super::{Client, Failure, Memory, Shared, Workload};
use crate::{
    check::history::Outcome,
    plan::{Action, Step},
    world::{self, log},
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

/// How long a client waits for a node to become ready again: these many times this long.
const READY_TRIES: usize = 100;
const READY_INTERVAL: Duration = Duration::from_millis(100);

/// Carries out `steps` as process `process`.
pub async fn run<W: Workload>(
    workload: Arc<W>,
    history: Shared<W>,
    memory: Arc<Mutex<Memory>>,
    client: Client,
    mut process: u64,
    steps: Vec<Step>,
) {
    for step in steps {
        madsim::time::sleep(Duration::from_millis(step.after_ms)).await;
        match operate(&*workload, &history, &memory, &client, process, step.action).await {
            Ended::Known => {}
            Ended::Refused => wait_until_ready(&client).await,
            Ended::Unknown => {
                process = history.lock().expect("no panic while locked").retire();
                wait_until_ready(&client).await;
            }
        }
    }
}

/// After a failure a client looks before it leaps, for a while; or a plan would be used up against a node that is down.
async fn wait_until_ready(client: &Client) {
    for _ in 0..READY_TRIES {
        if client.ready().await {
            return;
        }
        madsim::time::sleep(READY_INTERVAL).await;
    }
}

enum Ended {
    Known,
    Refused,
    Unknown,
}

/// One operation.
async fn operate<W: Workload>(
    workload: &W,
    history: &Shared<W>,
    memory: &Mutex<Memory>,
    client: &Client,
    process: u64,
    action: Action,
) -> Ended {
    let call = workload.call(action, &mut memory.lock().expect("no panic while locked"));
    let Some(call) = call else { return Ended::Known };
    log!("{process:>3} {call:?}");
    let open = history.lock().expect("no panic while locked").start(process, world::now_ns(), call.clone());
    let outcome = match workload.perform(client, &call, memory).await {
        Ok(answer) => Outcome::Ok(answer),
        Err(Failure::Unknown(why)) if workload.writes(&call) => Outcome::Unknown(why),
        Err(Failure::Unknown(why) | Failure::Refused(why)) => Outcome::Failed(why),
        Err(Failure::Conflict) => Outcome::Failed("conflict".to_string()),
    };
    log!("{process:>3} {outcome:?}");
    let (ended, count) = match &outcome {
        Outcome::Ok(_) => (Ended::Known, "ops.ok"),
        Outcome::Failed(_) => (Ended::Refused, "ops.failed"),
        Outcome::Unknown(_) => (Ended::Unknown, "ops.unknown"),
    };
    world::count(count, 1);
    history.lock().expect("no panic while locked").end(open, world::now_ns(), outcome);
    ended
}
