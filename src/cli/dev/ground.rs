//! What a development cluster needs of this machine before anything is started: a directory, free ports, and an etcd program where
//! one shall be used. Called by `cluster dev` once at its start, and for every node that is added.

use super::{
    DevArgs, Wish,
    plan::{self, Coordination, GatewayPorts, NodePorts, Plan},
};
use crate::{
    cli::CliError,
    rt::{self, net::Listener},
};
use std::path::{Path, PathBuf};

/// The directory of everything; a temporary one is removed when this is dropped.
pub struct Root {
    path: PathBuf,
    is_temporary: bool,
}

impl Root {
    /// The directory that is wished for, made if need be, or a temporary one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make(wish: Option<&Path>) -> Result<Root, CliError> {
        let unusable = |path: &Path, error| CliError::failed(format!("cannot use {}: {error}", path.display()));
        match wish {
            Some(path) => {
                std::fs::create_dir_all(path).map_err(|error| unusable(path, error))?;
                let path = path.canonicalize().map_err(|error| unusable(path, error))?;
                Ok(Root { path, is_temporary: false })
            }
            None => {
                let path = std::env::temp_dir().join(format!("vectorsphere-dev-{}", rt::rng::uuid_v4()));
                std::fs::create_dir(&path).map_err(|error| unusable(&path, error))?;
                Ok(Root { path, is_temporary: true })
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if self.is_temporary {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// The etcd program to start, if the nodes shall have it as their coordinator. `found` is the one on `PATH`.
///
/// # Errors
/// It is needed and not there.
pub fn etcd_program(wish: Wish, root: &Path, found: Option<PathBuf>) -> Result<Option<PathBuf>, CliError> {
    // Nodes keep the coordinator they began with.
    let before = root.join(plan::ETCD_DIRECTORY).exists();
    let is_new = !before && !root.join(plan::node_name(1)).exists();
    let needs = match wish {
        Wish::Embedded => return Ok(None),
        Wish::Auto if is_new => return Ok(found),
        Wish::Auto => before,
        Wish::Etcd => true,
    };
    match (needs, found) {
        (false, _) => Ok(None),
        (true, Some(program)) => Ok(Some(program)),
        (true, None) => {
            Err(CliError::failed("the nodes are to have etcd as their coordinator, but there is no etcd on PATH"))
        }
    }
}

/// A program on `PATH`.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let directories = std::env::var_os("PATH")?;
    std::env::split_paths(&directories).map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// The plan of what was asked for.
///
/// # Errors
/// A port is taken.
pub async fn plan(args: &DevArgs, root: &Path, with_etcd: bool) -> Result<Plan, CliError> {
    let mut nodes = Vec::new();
    for number in 1..=args.nodes {
        nodes.push(node_ports(args.port, number).await?);
    }
    let gateway = if args.no_gateway { None } else { Some(gateway_ports(args.port).await?) };
    let coordination = match (with_etcd, args.port) {
        (false, _) => Coordination::Peers,
        (true, 0) => Coordination::Etcd { client: free_port().await?, peer: free_port().await? },
        (true, first) => plan::etcd_ports(first).ok_or_else(|| beyond(first))?,
    };
    Ok(Plan { root: root.to_owned(), coordination, nodes, gateway, settings: args.set.clone() })
}

/// The ports of a node, all free a moment ago.
///
/// # Errors
/// One is taken.
pub async fn node_ports(first: u16, number: usize) -> Result<NodePorts, CliError> {
    if first == 0 {
        let (http, grpc) = (free_port().await?, free_port().await?);
        return Ok(NodePorts { http, grpc, peer: free_port().await?, monitoring: free_port().await? });
    }
    let ports = plan::node_ports(first, number).ok_or_else(|| beyond(first))?;
    for port in [ports.http, ports.grpc, ports.peer, ports.monitoring] {
        require_free(port).await?;
    }
    Ok(ports)
}

async fn gateway_ports(first: u16) -> Result<GatewayPorts, CliError> {
    if first == 0 {
        return Ok(GatewayPorts { public: free_port().await?, monitoring: free_port().await? });
    }
    let ports = plan::gateway_ports(first).ok_or_else(|| beyond(first))?;
    require_free(ports.public).await?;
    require_free(ports.monitoring).await?;
    Ok(ports)
}

fn beyond(first: u16) -> CliError {
    CliError::usage(format!("--port {first}: the cluster's other ports would lie beyond 65535"))
}

async fn require_free(port: u16) -> Result<(), CliError> {
    match Listener::bind(plan::loopback(port)).await {
        Ok(_free) => Ok(()),
        Err(error) => Err(CliError::failed(format!(
            "port {port} cannot be used ({error}); --port 0 takes free ones, --port P begins elsewhere"
        ))),
    }
}

/// A port that was free a moment ago. The system hands out the ports of this range in turn, so that two calls differ.
async fn free_port() -> Result<u16, CliError> {
    let none = |error| CliError::failed(format!("no free port: {error}"));
    let listener = Listener::bind("127.0.0.1:0").await.map_err(none)?;
    Ok(listener.local_addr().map_err(none)?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcd_is_used_where_it_is_wished_for_or_was_used_before() {
        let root = tempfile::tempdir().expect("a directory");
        let there = || Some(PathBuf::from("/bin/etcd"));
        let with = |wish, found| etcd_program(wish, root.path(), found).map_err(|error| error.message);
        assert_eq!(with(Wish::Auto, there()), Ok(there()));
        assert_eq!((with(Wish::Auto, None), with(Wish::Embedded, there())), (Ok(None), Ok(None)));
        assert!(with(Wish::Etcd, None).is_err_and(|message| message.contains("no etcd on PATH")));
        std::fs::create_dir(root.path().join("node-1")).expect("a directory");
        assert_eq!((with(Wish::Auto, there()), with(Wish::Etcd, there())), (Ok(None), Ok(there())));
        std::fs::create_dir(root.path().join("etcd")).expect("a directory");
        assert_eq!(with(Wish::Auto, there()), Ok(there()));
        assert!(with(Wish::Auto, None).is_err());
    }
}
