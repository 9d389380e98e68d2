//! A real etcd, of one member and of three: started on free loopback ports in a temporary directory, and gone with the test. Where
//! there is no etcd on the machine, the tests say so and count as skipped, not as passed.

use crate::contract::{self, Hooks};
use futures_util::future::BoxFuture;
use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use vectorsphere::{
    coordination::{
        Coordinator, Etcd, Event, WatchError,
        etcd::{EtcdOptions, EtcdUser, proto},
    },
    rt::{rpc, time},
};

/// Members of an etcd, by their position.
struct Members {
    running: Vec<Option<Child>>,
    commands: Vec<Vec<String>>,
    clients: Vec<String>,
    directory: TempDir,
}

impl Drop for Members {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether there is an etcd to test with. `VECTORSPHERE_ETCD=required` (as in the continuous integration) makes its absence a failure.
fn has_etcd(test: &str) -> bool {
    let found = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        assert!(std::env::var("VECTORSPHERE_ETCD").as_deref() != Ok("required"), "{test}: etcd is not installed");
        eprintln!("SKIPPED {test}: etcd is not installed (Debian: etcd-server)");
    }
    found
}

fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

impl Members {
    fn start(count: usize) -> Members {
        let directory = tempfile::tempdir().unwrap();
        let ports = free_ports(count * 2);
        let peer = |i: usize| format!("http://127.0.0.1:{}", ports[count + i]);
        let clients: Vec<String> = (0..count).map(|i| format!("127.0.0.1:{}", ports[i])).collect();
        let initial = (0..count).map(|i| format!("m{i}={}", peer(i))).collect::<Vec<_>>().join(",");
        let commands = (0..count).map(|i| {
            let client = format!("http://{}", clients[i]);
            let data = directory.path().join(format!("m{i}")).to_string_lossy().into_owned();
            let arguments = [
                ("--name", format!("m{i}")),
                ("--data-dir", data),
                ("--listen-client-urls", client.clone()),
                ("--advertise-client-urls", client),
                ("--listen-peer-urls", peer(i)),
                ("--initial-advertise-peer-urls", peer(i)),
                ("--initial-cluster", initial.clone()),
                ("--initial-cluster-state", "new".to_owned()),
                ("--log-level", "error".to_owned()),
            ];
            arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
        });
        let mut members =
            Members { running: (0..count).map(|_| None).collect(), commands: commands.collect(), clients, directory };
        (0..count).for_each(|i| members.run(i));
        members
    }

    fn run(&mut self, i: usize) {
        let log = std::fs::File::create(self.directory.path().join(format!("m{i}.log"))).unwrap();
        let child = Command::new("etcd")
            .args(&self.commands[i])
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.running[i] = Some(child.unwrap());
    }

    fn kill(&mut self, i: usize) {
        let mut child = self.running[i].take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn options(&self, cluster: &str) -> EtcdOptions {
        EtcdOptions::new(self.clients.clone(), cluster)
    }

    async fn coordinator(&self, cluster: &str, file: &Path) -> Etcd {
        let etcd = Etcd::open(&self.options(cluster), file.to_owned()).unwrap();
        let began = time::now();
        while let Err(error) = etcd.list("").await {
            assert!(began.elapsed() < Duration::from_secs(30), "etcd does not come up: {error}");
        }
        etcd
    }
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
    if !has_etcd("users_are_asked_for_their_password") || Command::new("etcdctl").arg("version").output().is_err() {
        eprintln!("SKIPPED users_are_asked_for_their_password: etcd or etcdctl is not installed");
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
