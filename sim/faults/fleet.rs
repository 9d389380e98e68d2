//! The machines of a run: the nodes, one for all the clients, which never fails, and one that only looks on and that no
//! partition reaches.
use super::{
    network::Network,
    victim::{Phase, Victim},
};
use crate::{disk::Disk, etcd::SimEtcd, plan::Plan};
use madsim::{
    runtime::{Handle, NodeHandle},
    time,
};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    rc::Rc,
    time::Duration,
};
use vectorsphere::rt::{self, Shutdown};

/// How often something that is waited for is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

pub struct Fleet {
    pub victims: Vec<Victim>,
    pub clients: NodeHandle,
    pub observer: NodeHandle,
    pub network: Network,
    /// What holds the cluster together, if the nodes do not do that themselves.
    pub etcd: Option<SimEtcd>,
    /// Nodes that have not come yet, or have left for ever: nothing befalls them, and nothing is expected of them.
    absent: RefCell<BTreeSet<usize>>,
    /// Who leads and is cut off from the other nodes, but not from clients.
    hunted: Cell<Option<usize>>,
    /// Nobody is left to suffer: faults end early.
    over: Shutdown,
}

impl Fleet {
    /// Starts every node; the first one's first start may be cut short.
    pub fn start(disk: Disk, plan: &Plan) -> Fleet {
        let has_etcd = plan.moves.as_ref().is_some_and(|moves| moves.etcd);
        let etcd = has_etcd.then(|| SimEtcd::start(disk.root().join("etcd")));
        let disk = Rc::new(disk);
        let victims = (0..plan.nodes).map(|number| {
            let crash = plan.first_start.filter(|_| number == 0).map(|(operations, _)| operations);
            Victim::start(disk.clone(), number, plan, crash)
        });
        let victims = victims.collect();
        let (clients, observer) = (machine("clients", 1), machine("observer", 2));
        let absent = RefCell::new((plan.founders()..plan.nodes).collect());
        let (hunted, over) = (Cell::new(None), Shutdown::new());
        Fleet { victims, clients, observer, network: Network::default(), etcd, absent, hunted, over }
    }

    /// The nodes that are there, whatever has befallen them.
    pub fn present(&self) -> impl Iterator<Item = &Victim> {
        self.victims.iter().filter(|victim| self.is_present(victim.number))
    }

    /// Their numbers.
    pub fn present_numbers(&self) -> Vec<usize> {
        self.present().map(|victim| victim.number).collect()
    }

    pub fn is_present(&self, number: usize) -> bool {
        !self.absent.borrow().contains(&number)
    }

    /// A node starts for the first time.
    pub fn join(&self, number: usize) {
        self.absent.borrow_mut().remove(&number);
        self.victims[number].buy();
    }

    /// A node has left for ever.
    pub fn leave(&self, number: usize) {
        self.absent.borrow_mut().insert(number);
    }

    /// The number of the node that most nodes take for the master.
    pub fn master(&self) -> Option<usize> {
        let named: Vec<u64> = self.present().filter_map(|victim| (victim.inside()?.identity().leader)()).collect();
        let most = named.iter().max_by_key(|node| (named.iter().filter(|other| other == node).count(), **node))?;
        self.present().find(|victim| victim.node_id() == Some(*most)).map(|victim| victim.number)
    }

    /// Whether one node is all there is: it must be up whenever nothing is wrong with it.
    pub fn is_one(&self) -> bool {
        self.victims.len() == 1
    }

    /// Ends every fault under way as soon as that is fair, and lets no further one begin.
    pub fn hurry(&self) {
        self.over.trigger();
    }

    pub fn is_over(&self) -> bool {
        self.over.is_triggered()
    }

    /// A leader is cut off, or no longer.
    pub fn hunt(&self, leader: Option<usize>) {
        self.hunted.set(leader);
    }

    /// A leader that is cut off from the other nodes, but not from clients.
    pub fn hunted(&self) -> Option<usize> {
        self.hunted.get()
    }

    /// Waits until the run is over.
    pub async fn over(&self) {
        self.over.wait().await;
    }

    /// Lets time pass, less of it if the run is over.
    pub async fn pass(&self, for_ms: u64) {
        tokio::select! {
            biased;
            () = self.over.wait() => {}
            () = time::sleep(Duration::from_millis(for_ms)) => {}
        }
    }

    /// Waits for all of `numbers` to be up and to say that they are ready.
    ///
    /// # Panics
    /// If that takes longer than `limit`.
    pub async fn wait_until_ready(&self, numbers: &[usize], limit: Duration) {
        let deadline = time::Instant::now() + limit;
        loop {
            let waiting = self.not_ready(numbers).await;
            if waiting.is_empty() {
                return;
            }
            assert!(time::Instant::now() < deadline, "not ready after {limit:?}: {}", waiting.join(", "));
            time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Those of `numbers` that are not up, or do not say that they are ready, in words.
    ///
    /// # Panics
    /// If one refused to start.
    pub async fn not_ready(&self, numbers: &[usize]) -> Vec<String> {
        let mut waiting = Vec::new();
        for victim in numbers.iter().map(|number| &self.victims[*number]) {
            let phase = victim.phase();
            if let Phase::Refused(why) = &phase {
                panic!("{} refused to start, with nothing wrong: {why}", victim.name());
            }
            let address = victim.http();
            let ready = phase == Phase::Up && self.observe(async move { super::network::ready(&address).await }).await;
            if !ready {
                let checks = victim.inside().map(|inside| inside.health().checks).unwrap_or_default();
                let bad: Vec<String> = checks.into_iter().filter(|check| !check.ok).map(|check| check.detail).collect();
                waiting.push(format!("{} ({phase:?}: {})", victim.name(), bad.join("; ")));
            }
        }
        waiting
    }

    /// Runs `future` on the observer's machine.
    pub async fn observe<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        self.observer.spawn(future).await.expect("the observer never fails")
    }

    /// The number of a node that leads a shard, as it believes itself.
    pub fn leader(&self) -> Option<usize> {
        self.victims.iter().find(|victim| victim.leads()).map(|victim| victim.number)
    }
}

fn machine(name: &str, number: u8) -> NodeHandle {
    let address = IpAddr::V4(Ipv4Addr::new(10, 0, 1, number));
    let machine = Handle::current().create_node().name(name).ip(address).build();
    rt::sim::register(machine.id(), name, address);
    machine
}
