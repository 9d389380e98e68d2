//! The plan of a development cluster: which processes, on which ports, in which directories, with which arguments. Plain data;
//! starting them is `fleet`'s.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// How the nodes find each other and agree on who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordination {
    /// They are told each other's addresses and keep the coordinator among themselves.
    Peers,
    /// A real etcd, on these ports.
    Etcd { client: u16, peer: u16 },
}

/// The ports of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePorts {
    pub http: u16,
    pub grpc: u16,
    pub peer: u16,
    pub monitoring: u16,
}

/// The ports of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayPorts {
    pub public: u16,
    pub monitoring: u16,
}

/// See the module. Nodes are numbered from 1; one that is added gets the next number.
#[derive(Clone, Debug)]
pub struct Plan {
    pub root: PathBuf,
    pub coordination: Coordination,
    pub nodes: Vec<NodePorts>,
    pub gateway: Option<GatewayPorts>,
    /// Settings that every node gets, as `key=value`.
    pub settings: Vec<String>,
}

/// The offsets of a node's other ports from its HTTP port: with the default 8080 the first node has HTTP on 8080, gRPC on
/// 8180, peers on 8280 and monitoring on 8380.
const GRPC: u16 = 100;
const PEER: u16 = 200;
const MONITORING: u16 = 300;
/// The offset of the gateway's port from the first node's: 9000 with the default 8080, as the seeds have it.
const GATEWAY: u16 = 920;
/// The offset of etcd's ports.
const ETCD: u16 = 400;
/// etcd's directory below the root.
pub const ETCD_DIRECTORY: &str = "etcd";
/// Nodes of one plan: ports of one kind must not run into the next kind.
pub const NODES_MAX: usize = 32;

/// The ports that node `number` has when the first node's HTTP port is `first`; `None` beyond the last port.
pub fn node_ports(first: u16, number: usize) -> Option<NodePorts> {
    let http = first.checked_add(u16::try_from(number.checked_sub(1)?).ok()?)?;
    Some(NodePorts {
        http,
        grpc: http.checked_add(GRPC)?,
        peer: http.checked_add(PEER)?,
        monitoring: http.checked_add(MONITORING)?,
    })
}

/// The gateway's ports beside such nodes.
pub fn gateway_ports(first: u16) -> Option<GatewayPorts> {
    let public = first.checked_add(GATEWAY)?;
    Some(GatewayPorts { public, monitoring: public.checked_add(1)? })
}

/// etcd's ports beside such nodes.
pub fn etcd_ports(first: u16) -> Option<Coordination> {
    let client = first.checked_add(ETCD)?;
    Some(Coordination::Etcd { client, peer: client.checked_add(1)? })
}

/// What a node's directory and files are called.
pub fn node_name(number: usize) -> String {
    format!("node-{number}")
}

/// `127.0.0.1:port`.
pub fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

impl Plan {
    /// The file or directory of one process, below the root.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A node's ports.
    pub fn node(&self, number: usize) -> Option<&NodePorts> {
        self.nodes.get(number.checked_sub(1)?)
    }

    /// What `vectorsphere` is started with for a node.
    pub fn node_arguments(&self, number: usize, ports: &NodePorts) -> Vec<OsString> {
        let mut arguments = words(&["serve", "--mode", "auto", "--log", "info", "--data-dir"]);
        arguments.push(self.path(&node_name(number)).into());
        for (flag, port) in
            [("--http", ports.http), ("--grpc", ports.grpc), ("--peer", ports.peer), ("--monitoring", ports.monitoring)]
        {
            arguments.extend(words(&[flag, &loopback(port)]));
        }
        arguments.extend(self.coordination_arguments(number));
        arguments.extend(words(&["--service", "dev", "--set", "dev.partitions=true", "--ready-file"]));
        arguments.push(self.ready_file(&node_name(number)).into());
        for setting in &self.settings {
            arguments.extend(words(&["--set", setting]));
        }
        arguments
    }

    /// How a node finds the others.
    fn coordination_arguments(&self, number: usize) -> Vec<OsString> {
        match self.coordination {
            Coordination::Etcd { client, .. } => words(&["--etcd", &loopback(client)]),
            Coordination::Peers => {
                let others = self.nodes.iter().enumerate().filter(|(at, _)| at + 1 != number);
                let others: Vec<String> = others.map(|(_, other)| loopback(other.peer)).collect();
                words(&["--set", &format!("cluster.peers={}", others.join(","))])
            }
        }
    }

    /// What `vectorsphere` is started with for the gateway.
    pub fn gateway_arguments(&self, ports: &GatewayPorts) -> Vec<OsString> {
        let mut arguments = words(&["serve", "--mode", "gateway", "--log", "info"]);
        arguments.extend(words(&["--set", &format!("listen.gateway={}", loopback(ports.public))]));
        arguments.extend(words(&["--monitoring", &loopback(ports.monitoring), "--service", "dev"]));
        let nodes: Vec<String> = self.nodes.iter().map(|node| loopback(node.http)).collect();
        arguments.extend(words(&["--set", &format!("gateway.nodes={}", nodes.join(",")), "--ready-file"]));
        arguments.push(self.ready_file("gateway").into());
        arguments
    }

    /// What `etcd` is started with. Its data go to disk unsynced: the cluster is for trying things out, and ends with it.
    pub fn etcd_arguments(&self, client: u16, peer: u16) -> Vec<OsString> {
        let (client, peer) = (format!("http://{}", loopback(client)), format!("http://{}", loopback(peer)));
        let mut arguments = words(&["--name", "dev", "--unsafe-no-fsync", "--log-level", "warn", "--data-dir"]);
        arguments.push(self.path(ETCD_DIRECTORY).into());
        arguments.extend(words(&["--listen-client-urls", &client, "--advertise-client-urls", &client]));
        arguments.extend(words(&["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]));
        arguments.extend(words(&["--initial-cluster", &format!("dev={peer}")]));
        arguments
    }

    /// The file that a process writes once it serves.
    pub fn ready_file(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.ready"))
    }

    /// The file of a process's log.
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.log"))
    }

    /// The directory of everything.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_ports_are_those_of_the_guides_and_never_meet() {
        let gateway = gateway_ports(8080).expect("in range");
        assert_eq!(gateway.public, 9000);
        let mut all = vec![gateway.public, gateway.monitoring];
        for number in 1..=NODES_MAX {
            let ports = node_ports(8080, number).expect("in range");
            all.extend([ports.http, ports.grpc, ports.peer, ports.monitoring]);
        }
        match etcd_ports(8080).expect("in range") {
            Coordination::Etcd { client, peer } => all.extend([client, peer]),
            Coordination::Peers => unreachable!("ports of etcd"),
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert_eq!((node_ports(65_500, 1), node_ports(8080, 0), gateway_ports(65_000)), (None, None, None));
    }

    #[test]
    fn nodes_name_each_other_or_etcd() {
        let nodes: Vec<NodePorts> = (1..=3).filter_map(|number| node_ports(8080, number)).collect();
        let plan = Plan {
            root: "/r".into(),
            coordination: Coordination::Peers,
            nodes,
            gateway: None,
            settings: vec!["index.list_points=8".into()],
        };
        let line = |plan: &Plan| {
            let arguments = plan.node_arguments(2, plan.node(2).expect("there are three"));
            arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        let text = line(&plan);
        assert!(text.contains("--data-dir /r/node-2 --http 127.0.0.1:8081 "), "{text}");
        assert!(text.contains("cluster.peers=127.0.0.1:8280,127.0.0.1:8282 "), "{text}");
        assert!(text.ends_with("--set index.list_points=8"), "{text}");
        let plan = Plan { coordination: Coordination::Etcd { client: 2379, peer: 2380 }, ..plan };
        let text = line(&plan);
        assert!(text.contains("--etcd 127.0.0.1:2379 ") && !text.contains("cluster.peers"), "{text}");
    }
}
