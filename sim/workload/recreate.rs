//! The workload of a table that is dropped and made again: batches of new documents, lists of everything, and one client that makes the
//! table anew now and then.
use super::{Client, Failure, Memory, Put, Workload};
use crate::{
    check::{
        history::History,
        recreate::{self, Answer, Call},
    },
    plan::Action,
    world::{log, sometimes},
};
use madsim::time;
use std::{sync::Mutex, time::Duration};

/// Who finds no table waits so long: or a plan would be used up while there is none.
const NO_TABLE_PAUSE: Duration = Duration::from_millis(300);
/// Between two attempts at dropping or making it.
const PAUSE: Duration = Duration::from_millis(100);

pub struct Recreate;

impl Workload for Recreate {
    type Call = Call;
    type Answer = Answer;

    fn call(&self, action: Action, _: u64, _: &mut Memory) -> Option<Call> {
        match action {
            Action::Add { first, count } => Some(Call::Add((first..first + count).collect())),
            Action::List => Some(Call::List),
            Action::Recreate => Some(Call::Recreate),
            _ => None,
        }
    }

    async fn perform(&self, client: &Client, call: &Call, _: &Mutex<Memory>) -> Result<Answer, Failure> {
        let done = match call {
            Call::Add(ids) => {
                let puts: Vec<Put> = ids.iter().map(|id| Put::new(*id, *id)).collect();
                client.put_all(&puts, None).await.map(|_| Answer::Done)
            }
            Call::List => {
                client.list().await.map(|found| Answer::Listed(found.into_iter().map(|one| one.id).collect()))
            }
            Call::Recreate => {
                make_anew(client).await;
                sometimes!(true, "a table was dropped and made again");
                Ok(Answer::Done)
            }
        };
        if done.is_err() {
            time::sleep(NO_TABLE_PAUSE).await;
        }
        done
    }

    fn writes(&self, call: &Call) -> bool {
        *call != Call::List
    }

    fn closing(&self, _: &Memory) -> Vec<Action> {
        vec![Action::List; 3]
    }

    fn check(&self, history: &History<Call, Answer>) -> Result<(), String> {
        recreate::check(history)
    }
}

/// Drops the table, whatever it takes, and then makes it: nobody else does, so "there is none" and "there is one" say that an earlier
/// attempt came through.
async fn make_anew(client: &Client) {
    loop {
        match client.drop_table().await {
            Ok(()) => break,
            Err(failure) => log!("the table is not dropped yet: {failure:?}"),
        }
        client.next();
        client.find_ready().await;
        time::sleep(PAUSE).await;
    }
    log!("the table is dropped");
    while let Err(failure) = client.create().await {
        log!("the table is not made again yet: {failure:?}");
        client.next();
        client.find_ready().await;
        time::sleep(PAUSE).await;
    }
}
