//! What clients ask, by workload.
use rand::{Rng, rngs::StdRng};
use serde::{Deserialize, Serialize};

/// Which histories are made and how they are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    Register,
    /// The register again, by clients that send a write again, under the same request id, until they know its outcome.
    Once,
    Set,
    Search,
    Bank,
    Append,
    Session,
    /// A table that is dropped and made again.
    Recreate,
    /// Aliases that are switched from table to table.
    Alias,
}

/// Values of a plan are below this; those of retries are not ([`Action::anew`]).
pub const VALUES_MAX: u64 = 1_000_000;

/// What a client does next; each workload uses those it has a meaning for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Get {
        id: u64,
    },
    Put {
        id: u64,
        value: u64,
    },
    /// A put on the condition that the version is the last one this run has seen.
    PutIf {
        id: u64,
        value: u64,
    },
    /// Changes one key of the metadata to `value`; the rest stays.
    Patch {
        id: u64,
        value: u64,
    },
    /// A patch on the condition that the version is the last one this run has seen.
    PatchIf {
        id: u64,
        value: u64,
    },
    /// A batch of new points with the ids `first..first + count`.
    Add {
        first: u64,
        count: u64,
    },
    /// The same, acknowledged when the leader alone has it: it may be lost.
    AddAsync {
        first: u64,
        count: u64,
    },
    Delete {
        id: u64,
    },
    /// Deletes by filter: the ids `first..first + count`, but for those that end in the digit `spared`.
    DeleteWhere {
        first: u64,
        count: u64,
        spared: u64,
    },
    List,
    /// Without the shards that do not answer.
    ListPartly,
    /// How many documents the table has, by its description.
    Count,
    Search {
        id: u64,
        exact: bool,
    },
    /// Among the documents whose value is at most `below` less and `above` more than that of `id`, but for those whose value ends in the
    /// digit `spared`.
    SearchWhere {
        id: u64,
        exact: bool,
        below: u64,
        above: u64,
        spared: u64,
    },
    /// Without the shards that do not answer.
    SearchPartly {
        id: u64,
        exact: bool,
    },
    /// Moves money between two accounts, in one batch, if neither has changed meanwhile.
    Transfer {
        from: u64,
        to: u64,
        amount: u64,
    },
    /// Adds `value` at the end of the list of `id`, if nobody else has meanwhile.
    Append {
        id: u64,
        value: u64,
    },
    /// A read that need not be newer than what this client has seen.
    SessionGet {
        id: u64,
    },
    /// A read that may be as old as it likes.
    EventualGet {
        id: u64,
    },
    /// Goes to another node.
    Move,
    /// Drops the table and makes it again.
    Recreate,
    /// Lets two aliases name the tables that the other named.
    Switch,
}

impl Action {
    /// The same, with a value nobody has written: for an attempt after one whose outcome is unknown.
    pub fn anew(self, attempt: u64) -> Action {
        let fresh = |value: u64| value + attempt * VALUES_MAX;
        match self {
            Action::Put { id, value } => Action::Put { id, value: fresh(value) },
            Action::PutIf { id, value } => Action::PutIf { id, value: fresh(value) },
            Action::Patch { id, value } => Action::Patch { id, value: fresh(value) },
            Action::PatchIf { id, value } => Action::PatchIf { id, value: fresh(value) },
            Action::Append { id, value } => Action::Append { id, value: fresh(value) },
            Action::Add { first, count } => Action::Add { first: fresh(first), count },
            Action::AddAsync { first, count } => Action::AddAsync { first: fresh(first), count },
            other => other,
        }
    }
}

/// Points of the search workload that are written again and again, for each client.
const IDS: u64 = 60;
/// Documents of the register workloads. Their slots are, but for the last, the first or the last one of a shard of some number of
/// shards: where who owns what can be off by one.
pub const REGISTERS: [u64; 6] = [12_723, 2_206, 3_252, 3_740, 19_162, 5];
/// Accounts of the bank.
pub const ACCOUNTS: u64 = 5;

/// What `client` does next; `values` counts what was given out, so that every write has a value of its own.
pub fn draw(workload: Workload, client: u64, values: &mut u64, rng: &mut StdRng) -> Action {
    *values += 1;
    let (value, dice) = (*values, rng.random_range(0..100));
    match workload {
        Workload::Register | Workload::Once => {
            let id = REGISTERS[rng.random_range(0..REGISTERS.len())];
            match dice {
                0..40 => Action::Get { id },
                40..61 => Action::Put { id, value },
                61..74 => Action::PutIf { id, value },
                74..84 => Action::Patch { id, value },
                84..90 => Action::PatchIf { id, value },
                _ => Action::Delete { id },
            }
        }
        Workload::Set => match dice {
            // Every add has ids of its own, so that a list can tell them apart.
            0..52 => Action::Add { first: value * 10, count: rng.random_range(1..=5) },
            52..55 => Action::AddAsync { first: value * 10, count: rng.random_range(1..=5) },
            55..66 => Action::Delete { id: rng.random_range(1..=value) * 10 },
            66..71 => Action::DeleteWhere {
                first: rng.random_range(1..=value) * 10,
                // A few batches; now and then so many that slots may move meanwhile.
                count: if rng.random_bool(0.2) { rng.random_range(10..=40) } else { rng.random_range(1..=6) } * 10,
                spared: rng.random_range(0..10),
            },
            71..90 => Action::List,
            90..95 => Action::ListPartly,
            _ => Action::Count,
        },
        Workload::Recreate => match dice {
            // By one client, so that what is there is known.
            0..8 if client == 0 => Action::Recreate,
            0..60 => Action::Add { first: value * 10, count: rng.random_range(1..=5) },
            _ => Action::List,
        },
        Workload::Alias => match dice {
            // By one client, one after the other.
            0..25 if client == 0 => Action::Switch,
            0..35 => Action::Add { first: value * 10, count: rng.random_range(1..=5) },
            35..70 => Action::List,
            _ => Action::Search { id: rng.random_range(0..8), exact: rng.random_bool(0.5) },
        },
        Workload::Search => {
            // Each client mostly writes points of its own, or nothing would ever be certain.
            let id =
                if rng.random_bool(0.8) { client * IDS + rng.random_range(0..IDS) } else { rng.random_range(0..IDS) };
            match dice {
                0..50 => Action::Put { id, value },
                50..60 => Action::Delete { id },
                60..70 => Action::SearchPartly { id, exact: rng.random_bool(0.5) },
                70..85 => Action::SearchWhere {
                    id,
                    exact: rng.random_bool(0.5),
                    // A few values; now and then about all that there are.
                    below: if rng.random_bool(0.3) { 200 } else { rng.random_range(0..30) },
                    above: rng.random_range(0..30),
                    spared: rng.random_range(0..10),
                },
                _ => Action::Search { id, exact: dice >= 92 },
            }
        }
        Workload::Bank => match dice {
            0..60 => transfer(rng),
            _ => Action::List,
        },
        Workload::Append => {
            let id = rng.random_range(0..4);
            if dice < 60 { Action::Append { id, value } } else { Action::Get { id } }
        }
        Workload::Session => {
            let id = rng.random_range(0..6);
            match dice {
                0..35 => Action::Put { id, value },
                35..75 => Action::SessionGet { id },
                75..85 => Action::EventualGet { id },
                _ => Action::Move,
            }
        }
    }
}

fn transfer(rng: &mut StdRng) -> Action {
    let from = rng.random_range(0..ACCOUNTS);
    let to = (from + rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
    Action::Transfer { from, to, amount: rng.random_range(1..=10) }
}
