//! The bank: accounts in one shard, transfers that write both accounts in one batch on the condition of both versions, and
//! lists of all accounts.
//!
//! Every list shows every account once; the balances add up to what there was at the beginning; a transfer shows at both
//! accounts or at neither; what a list shows is not older than any transfer acknowledged before it began; and one version
//! of an account has one balance.
use super::{
    export::{Describe, Described},
    history::{History, Operation},
};
use serde_json::json;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Transfer { from: u64, to: u64, amount: u64 },
    List,
}

/// An account as a list shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    pub id: u64,
    pub balance: u64,
    pub version: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Both accounts were written, with this version.
    Moved {
        version: u64,
    },
    /// There was too little money, or somebody else was faster.
    Declined,
    Listed(Vec<Account>),
}

impl Describe for Call {
    type Answer = Answer;

    fn describe(&self, answer: Option<&Answer>) -> Described {
        let (name, asked) = match self {
            Call::Transfer { from, to, amount } => ("transfer", json!({ "from": from, "to": to, "amount": amount })),
            Call::List => ("read", json!(null)),
        };
        let value = match answer {
            Some(Answer::Listed(accounts)) => accounts.iter().map(|one| json!([one.id, one.balance])).collect(),
            Some(Answer::Declined) => json!("declined"),
            _ => asked,
        };
        Described { name, key: None, value }
    }
}

/// A transfer that is known to have happened.
struct Moved {
    accounts: [u64; 2],
    version: u64,
    end: u64,
}

/// Judges every list: `accounts` accounts that hold `total` together. `Err` is text for people.
pub fn check(history: &History<Call, Answer>, accounts: usize, total: u64) -> Result<(), String> {
    let moved: Vec<Moved> = history.operations.iter().filter_map(moved).collect();
    let mut balances = BTreeMap::new();
    for list in &history.operations {
        let Some(Answer::Listed(shown)) = list.answer() else { continue };
        let judged = check_list(list, shown, accounts, total, &moved).and_then(|()| {
            shown.iter().try_for_each(|one| match balances.insert((one.id, one.version), one.balance) {
                Some(other) if other != one.balance => {
                    Err(format!("version {} of account {} is {other} and {}", one.version, one.id, one.balance))
                }
                _ => Ok(()),
            })
        });
        judged.map_err(|wrong| format!("list of process {} at {}: {wrong}", list.process, list.start.index))?;
    }
    Ok(())
}

fn moved(operation: &Operation<Call, Answer>) -> Option<Moved> {
    match (&operation.call, operation.answer()?) {
        (Call::Transfer { from, to, .. }, Answer::Moved { version }) => {
            Some(Moved { accounts: [*from, *to], version: *version, end: operation.end_index() })
        }
        _ => None,
    }
}

fn check_list(
    list: &Operation<Call, Answer>,
    shown: &[Account],
    accounts: usize,
    total: u64,
    moved: &[Moved],
) -> Result<(), String> {
    let versions: BTreeMap<u64, u64> = shown.iter().map(|one| (one.id, one.version)).collect();
    if shown.len() != accounts || versions.len() != accounts {
        return Err(format!("{} accounts, {} different ones, of {accounts}", shown.len(), versions.len()));
    }
    let sum: u64 = shown.iter().map(|one| one.balance).sum();
    if sum != total {
        return Err(format!("the balances add up to {sum}, not {total}: {shown:?}"));
    }
    for transfer in moved {
        let seen = transfer.accounts.map(|account| versions.get(&account).copied().unwrap_or(0));
        let [one, other] = seen.map(|version| version >= transfer.version);
        if one != other {
            return Err(format!("half of the transfer with version {}: {shown:?}", transfer.version));
        }
        if !one && transfer.end < list.start.index {
            return Err(format!("the acknowledged transfer with version {} is missing: {shown:?}", transfer.version));
        }
    }
    Ok(())
}
