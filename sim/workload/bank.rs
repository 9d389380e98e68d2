//! The bank workload: transfers between a few accounts, each one batch of two conditional writes, and lists of all accounts.
use super::{Client, Failure, Memory, Put, Workload, client::Wait};
use crate::{
    check::{
        bank::{self, Account, Answer, Call},
        history::History,
    },
    plan::{Action, action::ACCOUNTS},
};
use std::sync::Mutex;

/// What each account holds at the beginning.
const BALANCE: u64 = 100;

pub struct Bank;

impl Workload for Bank {
    type Call = Call;
    type Answer = Answer;

    fn preparation(&self) -> Vec<Put> {
        (0..ACCOUNTS).map(|id| Put::new(id, BALANCE)).collect()
    }

    fn call(&self, action: Action, _: u64, _: &mut Memory) -> Option<Call> {
        match action {
            Action::Transfer { from, to, amount } => Some(Call::Transfer { from, to, amount }),
            Action::List => Some(Call::List),
            _ => None,
        }
    }

    async fn perform(&self, client: &Client, call: &Call, _: &Mutex<Memory>) -> Result<Answer, Failure> {
        match call {
            Call::Transfer { from, to, amount } => transfer(client, *from, *to, *amount).await,
            Call::List => {
                let found = client.list().await?;
                let account = |one: super::Found| Account { id: one.id, balance: one.value, version: one.version };
                Ok(Answer::Listed(found.into_iter().map(account).collect()))
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
        bank::check(history, ACCOUNTS as usize, ACCOUNTS * BALANCE)
    }
}

async fn transfer(client: &Client, from: u64, to: u64, amount: u64) -> Result<Answer, Failure> {
    let (payer, payee) = match (read(client, from).await?, read(client, to).await?) {
        (Some(payer), Some(payee)) => (payer, payee),
        missing => panic!("an account is missing: {missing:?}"),
    };
    let Some(left) = payer.value.checked_sub(amount) else { return Ok(Answer::Declined) };
    let puts = [
        Put { if_version: Some(payer.version), ..Put::new(from, left) },
        Put { if_version: Some(payee.version), ..Put::new(to, payee.value + amount) },
    ];
    // Balances are not fresh values: by one, every attempt could wait for all voters, of which one may be away for good.
    match client.put_all_until(Wait::Majority, &puts, None).await {
        Ok(version) => Ok(Answer::Moved { version }),
        Err(Failure::Conflict) => Ok(Answer::Declined),
        Err(failure) => Err(failure),
    }
}

/// A read before the write: that its answer is lost does not mean that the transfer may have happened.
async fn read(client: &Client, id: u64) -> Result<Option<super::Found>, Failure> {
    client.get(id).await.map_err(Failure::of_a_read)
}
