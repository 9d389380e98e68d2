//! One client at work: step by step through its plan, each operation into the shared history and the log.
use super::{Client, Failure, Memory, Shared, Workload};
use crate::{
    check::history::{History, Outcome},
    plan::{Action, Step},
    world::{self, log, sometimes},
};
use madsim::time::{self, Instant};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

/// What the clients of a run share.
pub struct Run<W: Workload> {
    pub workload: W,
    pub history: Mutex<History<W::Call, W::Answer>>,
    pub memory: Mutex<Memory>,
}

impl<W: Workload> Run<W> {
    /// A run of `processes` clients.
    pub fn new(workload: W, processes: u64) -> Shared<W> {
        Arc::new(Run { workload, history: Mutex::new(History::new(processes)), memory: Mutex::default() })
    }

    /// A process number nobody has had.
    fn new_process(&self) -> u64 {
        self.history.lock().expect("no panic while locked").retire()
    }
}

/// Carries out `steps` as process `process`.
pub async fn run<W: Workload>(run: Shared<W>, client: Client, mut process: u64, steps: Vec<Step>) {
    for step in steps {
        time::sleep(Duration::from_millis(step.after_ms)).await;
        if step.action == Action::Move {
            client.next();
            continue;
        }
        match operate(&run, &client, process, step.action).await {
            Ended::Known => {}
            Ended::Refused => client.find_ready().await,
            Ended::Unknown => {
                process = run.new_process();
                client.find_ready().await;
            }
        }
    }
}

/// Carries out `steps`, each of which must succeed within `limit`; what fails before is tried again. `is_healed`: after everything broke.
///
/// # Panics
/// If one does not.
pub async fn insist<W: Workload>(run: Shared<W>, client: Client, steps: Vec<Step>, limit: Duration, is_healed: bool) {
    let mut process = run.new_process();
    for step in steps {
        let begun = Instant::now();
        for attempt in 0.. {
            match operate(&run, &client, process, step.action.anew(attempt)).await {
                Ended::Known => break,
                Ended::Refused => {}
                Ended::Unknown => process = run.new_process(),
            }
            sometimes!(is_healed, "a healed core refused at first");
            assert!(begun.elapsed() < limit, "not live: {:?} has not succeeded for {limit:?}", step.action);
            client.next();
            time::sleep(Duration::from_millis(50)).await;
        }
        let took = begun.elapsed();
        assert!(took <= limit, "not live: {:?} took {took:?}, more than {limit:?}", step.action);
        time::sleep(Duration::from_millis(step.after_ms)).await;
    }
}

enum Ended {
    Known,
    Refused,
    Unknown,
}

/// One operation.
async fn operate<W: Workload>(run: &Run<W>, client: &Client, process: u64, action: Action) -> Ended {
    let call = run.workload.call(action, client.number, &mut run.memory.lock().expect("no panic while locked"));
    let Some(call) = call else { return Ended::Known };
    log!("{process:>3} {call:?}");
    let open = run.history.lock().expect("no panic while locked").start(process, world::now_ns(), call.clone());
    let outcome = match run.workload.perform(client, &call, &run.memory).await {
        Ok(answer) => Outcome::Ok(answer),
        Err(Failure::Unknown(why)) if run.workload.writes(&call) => Outcome::Unknown(why),
        Err(Failure::Unknown(why) | Failure::Refused(why)) => Outcome::Failed(why),
        Err(Failure::Conflict) => Outcome::Failed(CONFLICT.to_string()),
    };
    log!("{process:>3} {outcome:?}");
    let (ended, count) = match &outcome {
        Outcome::Ok(_) => (Ended::Known, "ops.ok"),
        Outcome::Failed(why) if why == CONFLICT => (Ended::Known, "ops.conflict"),
        Outcome::Failed(_) => (Ended::Refused, "ops.failed"),
        Outcome::Unknown(_) => (Ended::Unknown, "ops.unknown"),
    };
    world::count(count, 1);
    run.history.lock().expect("no panic while locked").end(open, world::now_ns(), outcome);
    ended
}

/// Why a conditional write that found another version failed.
const CONFLICT: &str = "conflict";
