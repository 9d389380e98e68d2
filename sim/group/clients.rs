//! The clients of a group: they propose where they believe the leader to be, and read anywhere. Every attempt is an operation of
//! the history, judged as a register.
use super::{
    Cluster,
    machine::Command,
    member::{Inside, Member},
    plan::{Asked, Step},
};
use crate::{
    check::{
        history::{History, Outcome},
        register::{Answer, Call},
    },
    world::{self, log, sometimes},
};
use madsim::time;
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::Duration,
};
use vectorsphere::raft::ProposeError;

/// How long a client waits for an answer.
const TIMEOUT: Duration = Duration::from_millis(800);

/// What the clients write down, and what they know together.
pub struct Notes {
    pub history: RefCell<History<Call, Answer>>,
    /// The last version seen of each key.
    versions: RefCell<BTreeMap<u64, u64>>,
    /// Where the leader was last seen.
    leader: Cell<usize>,
}

impl Notes {
    pub fn new(clients: usize) -> Notes {
        let (versions, leader) = Default::default();
        Notes { history: RefCell::new(History::new(clients as u64)), versions, leader }
    }

    /// The leader is on this machine, clients are told.
    pub fn believe(&self, machine: usize) {
        self.leader.set(machine);
    }

    fn call(&self, asked: Asked) -> Call {
        match asked {
            Asked::Get { key } => Call::Get { key },
            Asked::Put { key, value } => Call::Put { key, value, if_version: None },
            Asked::PutIf { key, value } => {
                let if_version = Some(self.versions.borrow().get(&key).copied().unwrap_or(0));
                Call::Put { key, value, if_version }
            }
            Asked::Delete { key } => Call::Delete { key },
        }
    }

    fn learn(&self, key: u64, answer: &Answer) {
        let (Answer::Found { version, .. } | Answer::Written { version }) = answer else { return };
        self.versions.borrow_mut().insert(key, *version);
    }
}

/// Carries out `steps` as process `process`.
pub async fn run(cluster: &Cluster, notes: &Notes, mut process: u64, steps: &[Step]) {
    for step in steps {
        time::sleep(Duration::from_millis(step.after_ms)).await;
        let call = notes.call(step.asked);
        match attempt(cluster, notes, process, call, step.machine, step.padding).await {
            Outcome::Unknown(_) => process = notes.history.borrow_mut().retire(),
            Outcome::Failed(_) | Outcome::Ok(_) => {}
        }
    }
}

/// One operation: a read at the machine, a write where the leader is believed to be.
pub async fn attempt(
    cluster: &Cluster,
    notes: &Notes,
    process: u64,
    call: Call,
    machine: usize,
    padding: usize,
) -> Outcome<Answer> {
    log!("{process:>3} {call:?}");
    let open = notes.history.borrow_mut().start(process, world::now_ns(), call.clone());
    let outcome = match Command::of(&call, padding) {
        None => read(&cluster.members[machine], call.key()).await,
        Some(command) => write(cluster, notes, &command).await,
    };
    log!("{process:>3} {outcome:?}");
    let count = match &outcome {
        Outcome::Ok(answer) => {
            notes.learn(call.key(), answer);
            "ops.ok"
        }
        Outcome::Failed(_) => "ops.failed",
        Outcome::Unknown(_) => "ops.unknown",
    };
    world::count(count, 1);
    notes.history.borrow_mut().end(open, world::now_ns(), outcome.clone());
    outcome
}

/// Runs `work` on the member's own machine. `None`: no answer, or its process ended.
async fn ask<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    member: &Rc<Member>,
    work: impl FnOnce(Inside) -> F,
) -> Result<Option<T>, String> {
    let Some(inside) = member.inside() else { return Err("nobody is there".to_string()) };
    let answer = time::timeout(TIMEOUT, member.spawn(work(inside))).await;
    Ok(answer.ok().and_then(Result::ok))
}

async fn read(member: &Rc<Member>, key: u64) -> Outcome<Answer> {
    let read = |inside: Inside| async move {
        let index = inside.group.read_index().await?;
        let leads = inside.group.is_leader();
        Ok::<_, ProposeError>((inside.registers.get(key), index, leads))
    };
    match ask(member, read).await {
        Err(why) => Outcome::Failed(why),
        Ok(None) => Outcome::Failed("no answer".to_string()),
        Ok(Some(Err(why))) => Outcome::Failed(why.to_string()),
        Ok(Some(Ok((answer, _, leads)))) => {
            sometimes!(!leads, "a member that does not lead answered a linearizable read");
            Outcome::Ok(answer)
        }
    }
}

/// After a "no" the client asks where it was sent, or the next machine, each once: those that are members no more know leaders
/// of old. After an unknown outcome it asks nobody.
async fn write(cluster: &Cluster, notes: &Notes, command: &Command) -> Outcome<Answer> {
    let count = cluster.members.len();
    let mut asked = vec![false; count];
    let mut at = notes.leader.get();
    loop {
        asked[at] = true;
        notes.leader.set(at);
        let data = command.encode();
        let mut hint = None;
        let why = match ask(&cluster.members[at], |inside| async move { inside.group.propose(data).await }).await {
            Ok(Some(Ok((_, answer)))) => return Outcome::Ok(answer),
            // The answer may have been lost on its way.
            Ok(None | Some(Err(ProposeError::Indeterminate))) => {
                notes.leader.set((at + 1) % count);
                return Outcome::Unknown("no answer".to_string());
            }
            Ok(Some(Err(refused))) => {
                if let ProposeError::NotLeader { leader: Some(leader) } = &refused {
                    hint = cluster.members.iter().position(|member| member.identity() == *leader);
                }
                refused.to_string()
            }
            Err(nobody) => nobody,
        };
        let next = (1..count).map(|step| (at + step) % count).find(|other| !asked[*other]);
        match hint.filter(|hint| !asked[*hint]).or(next) {
            Some(next) => at = next,
            None => return Outcome::Failed(why),
        }
    }
}
