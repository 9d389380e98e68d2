//! The workload of aliases that are switched: two tables of different contents and an alias of each, one client that lets the two
//! aliases name each other's table now and then, and others who read and write by them.
use super::{Client, Failure, Memory, Put, TABLE, Workload};
use crate::{
    check::{
        alias::{self, Answer, Call, MARKERS, Name, marker},
        history::History,
    },
    plan::Action,
    world::{log, sometimes},
};
use madsim::time;
use serde_json::{Value, json};
use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

/// The second table.
const OTHER: &str = "others";
/// Between two attempts at a switch.
const PAUSE: Duration = Duration::from_millis(100);
const SEARCHED: usize = 10;

pub struct Alias;

/// Whether a switch is under way. For marks only.
static SWITCHING: AtomicBool = AtomicBool::new(false);

impl Workload for Alias {
    type Call = Call;
    type Answer = Answer;

    fn preparation(&self) -> Vec<Put> {
        markers(0)
    }

    async fn prepare(&self, client: &Client) -> Result<(), Failure> {
        let other = client.named(OTHER);
        other.create().await?;
        other.put_all(&markers(1), None).await?;
        client.change_aliases(switch(0)).await.map(drop)
    }

    fn call(&self, action: Action, _: u64, memory: &mut Memory) -> Option<Call> {
        memory.requests += 1;
        let name = if memory.requests.is_multiple_of(3) { Name::Spare } else { Name::Live };
        match action {
            Action::Add { first, count } => Some(Call::Add(name, (first..first + count).collect())),
            Action::List => Some(Call::List(name)),
            Action::Search { id, .. } => Some(Call::Search(name, id % MARKERS)),
            // The closing reads.
            Action::Get { id } => Some(Call::ListTable(id)),
            Action::Switch => {
                memory.switches += 1;
                Some(Call::Switch(memory.switches))
            }
            _ => None,
        }
    }

    async fn perform(&self, client: &Client, call: &Call, _: &Mutex<Memory>) -> Result<Answer, Failure> {
        let done = match call {
            Call::Add(name, ids) => {
                let puts: Vec<Put> = ids.iter().map(|id| Put::new(*id, *id)).collect();
                client.named(alias_of(*name)).put_all(&puts, None).await.map(|_| Answer::Done)
            }
            Call::List(name) => listed(&client.named(alias_of(*name))).await,
            Call::ListTable(table) => listed(&client.named(table_of(*table))).await,
            Call::Search(name, id) => {
                let during = SWITCHING.load(Relaxed);
                let hits = client.named(alias_of(*name)).search(marker(*id, 0), SEARCHED, true).await;
                sometimes!(during && hits.is_ok(), "a search by an alias was answered while it was switched");
                hits.map(|hits| Answer::Shown(hits.into_iter().map(|hit| (hit.id, hit.value)).collect()))
            }
            Call::Switch(number) => Ok(Answer::Switched { behind: switched(client, *number).await }),
        };
        match done {
            Err(Failure::Refused(why)) if why.contains("table_not_found") || why.contains("there is no such table") => {
                Ok(Answer::Missing)
            }
            other => other,
        }
    }

    fn writes(&self, call: &Call) -> bool {
        matches!(call, Call::Add(..) | Call::Switch(_))
    }

    fn closing(&self, _: &Memory) -> Vec<Action> {
        vec![Action::Get { id: 0 }, Action::Get { id: 1 }, Action::List, Action::List, Action::List, Action::List]
    }

    fn check(&self, history: &History<Call, Answer>) -> Result<(), String> {
        alias::check(history)
    }
}

fn markers(table: u64) -> Vec<Put> {
    (0..MARKERS).map(|id| Put::new(id, marker(id, table))).collect()
}

fn alias_of(name: Name) -> &'static str {
    match name {
        Name::Live => "live",
        Name::Spare => "spare",
    }
}

fn table_of(table: u64) -> &'static str {
    if table == 0 { TABLE } else { OTHER }
}

/// What the switch of a number asks for: what it leaves is the same however often it is tried.
fn switch(number: u64) -> Value {
    let change = |name, table| {
        let alias = alias_of(name);
        let create = json!({ "create": { "alias_name": alias, "table_name": table_of(table) } });
        [json!({ "delete": { "alias_name": alias } }), create]
    };
    json!([change(Name::Live, number % 2), change(Name::Spare, (number + 1) % 2)].concat())
}

async fn listed(client: &Client) -> Result<Answer, Failure> {
    let found = client.list_whole().await?;
    Ok(Answer::Shown(found.into_iter().map(|one| (one.id, one.value)).collect()))
}

/// Switches, whatever it takes; how many nodes may not have heard of it.
async fn switched(client: &Client, number: u64) -> u64 {
    SWITCHING.store(true, Relaxed);
    let behind = loop {
        match client.change_aliases(switch(number)).await {
            Ok(behind) => break behind,
            Err(failure) => log!("the aliases are not switched yet: {failure:?}"),
        }
        client.next();
        client.find_ready().await;
        time::sleep(PAUSE).await;
    };
    SWITCHING.store(false, Relaxed);
    sometimes!(behind == 0, "aliases were switched, and every node had heard of it");
    sometimes!(behind > 0, "aliases were switched while a node was away");
    behind
}
