//! A real etcd, of one member and of three, held to the contract.

use crate::{
    contract::{self, Hooks},
    members::{Members, has, has_etcd},
};
use futures_util::future::BoxFuture;
use std::{path::Path, process::Command, sync::Arc, time::Duration};
use vectorsphere::{
    coordination::{
        Coordinator, Etcd, Event, WatchError,
        etcd::{EtcdOptions, EtcdUser, proto},
    },
    rt::{rpc, time},
};

impl Members {
    fn options(&self, cluster: &str) -> EtcdOptions {
        EtcdOptions::new(self.clients.clone(), cluster)
    }

    async fn coordinator(&self, cluster: &str, file: &Path) -> Etcd {
        up(&self.options(cluster), file).await
    }
}

/// A coordinator, once etcd answers.
async fn up(options: &EtcdOptions, file: &Path) -> Etcd {
    let etcd = Etcd::open(options, file.to_owned()).unwrap();
    let began = time::now();
    while let Err(error) = etcd.list("").await {
        assert!(began.elapsed() < Duration::from_secs(30), "etcd does not come up: {error}");
    }
    etcd
}

impl Hooks for Members {
    fn compact(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let channel = rpc::connect(&self.clients[0], &self.options("x").rpc).unwrap();
            let mut kv = proto::kv_client::KvClient::new(channel);
            let now = kv.range(proto::RangeRequest { key: b"x".to_vec(), ..Default::default() }).await.unwrap();
            let revision = now.into_inner().header.unwrap().revision;
            kv.compact(proto::CompactionRequest { revision, physical: true }).await.unwrap();
        })
    }

    fn second_lasts_max(&self) -> Duration {
        // Two seconds, which is etcd's least; it looks twice a second, and counts from the last word of its leader.
        Duration::from_secs(4)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_etcd_keeps_the_contract() {
    if !has_etcd("a_real_etcd_keeps_the_contract") {
        return;
    }
    let members = Members::start(1);
    let file = members.directory.path().join("known");
    let coordinator: Arc<dyn Coordinator> = Arc::new(members.coordinator("c", &file).await);
    contract::check(&coordinator, &members, 1).await;
    // Another cluster in the same etcd sees nothing of it.
    let other = members.coordinator("c2", &members.directory.path().join("known2")).await;
    assert!(other.list("").await.unwrap().entries.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_goes_away_is_remembered_and_found_again() {
    if !has_etcd("an_etcd_that_goes_away_is_remembered_and_found_again") {
        return;
    }
    let mut members = Members::start(1);
    let file = members.directory.path().join("known");
    let etcd = members.coordinator("c", &file).await;
    let after = contract::write(&etcd, vec![contract::put("table", "1"), contract::put("other", "1")]).await;
    let began = time::now();
    while etcd.remembered("").unwrap().len() < 2 || !file.exists() {
        assert!(began.elapsed() < Duration::from_secs(5), "what was written is not remembered");
        time::sleep(Duration::from_millis(50)).await;
    }
    let mut watch = etcd.watch("", after);
    members.kill(0);
    assert!(matches!(watch.next().await, Err(WatchError::Unavailable(_))));
    assert!(etcd.get("table").await.is_err());
    assert_eq!(etcd.remembered("table").unwrap()[0].value, b"1");
    drop(etcd);
    // A node that starts meanwhile lives on what its file says.
    let started = Etcd::open(&members.options("c"), file).unwrap();
    assert_eq!(started.remembered("").unwrap().len(), 2);
    members.run(0);
    let began = time::now();
    let next = loop {
        match started.commit(vectorsphere::coordination::Transaction {
            compares: vec![],
            changes: vec![contract::put("table", "2")],
        }) {
            call if began.elapsed() < Duration::from_secs(30) => {
                if let Ok(vectorsphere::coordination::Committed::At(revision)) = call.await {
                    break revision;
                }
            }
            _ => panic!("etcd was not found again"),
        }
    };
    let event = loop {
        match time::timeout(Duration::from_secs(10), watch.next()).await.expect("the watch goes on") {
            Err(WatchError::Unavailable(_)) => {}
            events => break events.unwrap().pop().unwrap(),
        }
    };
    let Event::Put(kv) = event else { panic!("{event:?}") };
    assert_eq!((&kv.key[..], &kv.value[..], kv.revision), ("table", &b"2"[..], next));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_dies_is_left_for_another() {
    if !has_etcd("a_member_that_dies_is_left_for_another") {
        return;
    }
    let mut members = Members::start(3);
    let file = members.directory.path().join("known");
    let etcd: Arc<dyn Coordinator> = Arc::new(members.coordinator("c", &file).await);
    let first = contract::write(&*etcd, vec![contract::put("k", "0")]).await;
    let mut watch = etcd.watch("", first);
    let mut told = Vec::new();
    for round in 0..3usize {
        // The one that is asked first, then the next: whoever leads among them is lost too, once.
        members.kill(round);
        let killed = time::now();
        let value = format!("{round}");
        loop {
            let changes = vec![contract::put("k", &value)];
            let transaction = vectorsphere::coordination::Transaction { compares: vec![], changes };
            if etcd.commit(transaction).await.is_ok() {
                break;
            }
            assert!(killed.elapsed() < Duration::from_secs(30), "no other member was found");
        }
        eprintln!("member {round} killed: written again after {:?}", killed.elapsed());
        assert_eq!(etcd.get("k").await.unwrap().unwrap().value, value.as_bytes());
        members.run(round);
        // All three are back before the next one dies.
        time::sleep(Duration::from_secs(3)).await;
        while told.last() != Some(&value) {
            match time::timeout(Duration::from_secs(10), watch.next()).await.expect("the watch goes on") {
                Err(WatchError::Unavailable(_)) => {}
                events => told.extend(events.unwrap().into_iter().map(|event| match event {
                    Event::Put(kv) => String::from_utf8(kv.value).unwrap(),
                    other => panic!("{other:?}"),
                })),
            }
        }
    }
    told.dedup();
    assert_eq!(told, ["0", "1", "2"], "in order; a write whose end was not known may have happened twice");
    contract::check(&etcd, &members, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_asked_for_their_password() {
    if !has(&["etcd", "etcdctl"], "users_are_asked_for_their_password") {
        return;
    }
    let members = Members::start(1);
    let dir = members.directory.path();
    drop(members.coordinator("c", &dir.join("open")).await);
    let control = |arguments: &[&str]| {
        let run = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg("--endpoints")
            .arg(&members.clients[0])
            .args(arguments)
            .output();
        let run = run.unwrap();
        assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    };
    control(&["user", "add", "root:secret"]);
    control(&["user", "grant-role", "root", "root"]);
    control(&["auth", "enable"]);
    let with = |password: &str| {
        let user = Some(EtcdUser { name: "root".to_owned(), password: password.to_owned() });
        let options = EtcdOptions { user, ..members.options("c") };
        Etcd::open(&options, dir.join(password)).unwrap()
    };
    let etcd = with("secret");
    let after = contract::write(&etcd, vec![contract::put("k", "1")]).await;
    let mut watch = etcd.watch("", after - 1);
    assert_eq!(watch.next().await.unwrap().len(), 1);
    assert_eq!(etcd.list("").await.unwrap().entries.len(), 1);
    let refused = with("wrong").get("k").await.unwrap_err();
    assert!(refused.to_string().contains("authentication failed"), "{refused}");
    let stranger = Etcd::open(&members.options("c"), dir.join("stranger")).unwrap();
    assert!(stranger.get("k").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elections_over_a_real_etcd() {
    if !has_etcd("elections_over_a_real_etcd") {
        return;
    }
    let members = Members::start(1);
    let mut coordinators: Vec<Arc<dyn Coordinator>> = Vec::new();
    for node in 0..3 {
        coordinators
            .push(Arc::new(members.coordinator("c", &members.directory.path().join(format!("known{node}"))).await));
    }
    // etcd makes two seconds of every shorter lease.
    crate::election::hands_over_and_inherits(coordinators, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_encrypted_and_both_sides_known() {
    if !has(&["etcd", "openssl"], "connections_are_encrypted_and_both_sides_known") {
        return;
    }
    let members = Members::start_encrypted();
    let dir = members.directory.path();
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let with = |tls| {
        let mut options = members.options("c");
        options.endpoints = options.endpoints.iter().map(|endpoint| format!("https://{endpoint}")).collect();
        options.rpc.tls = Some(tls);
        options
    };
    let (certificates, key) = (read("client.pem"), read("client.key"));
    let identity = rpc::TlsIdentity { certificates: &certificates, key: &key };
    let etcd = up(&with(rpc::Tls::new(&read("ca.pem"), Some(identity)).unwrap()), &dir.join("known")).await;
    contract::write(&etcd, vec![contract::put("k", "1")]).await;
    assert_eq!(etcd.get("k").await.unwrap().unwrap().value, b"1");
    // Without a certificate of its own, or believing somebody else, nobody gets through.
    let anonymous = rpc::Tls::new(&read("ca.pem"), None).unwrap();
    let credulous = rpc::Tls::new(&read("client.pem"), Some(identity)).unwrap();
    for (name, tls) in [("anonymous", anonymous), ("credulous", credulous)] {
        let stranger = Etcd::open(&with(tls), dir.join(name)).unwrap();
        assert!(stranger.get("k").await.is_err(), "{name}");
    }
}
