//! Who a node says it is, and whether two nodes belong together. The same checks run on both sides of a handshake.

use super::proto;
use crate::{raft::NodeId, rt};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use xxhash_rust::xxh3::xxh3_64;

/// The protocol versions this program speaks: its own, and those before. 2 knows how slots move between shards, 3 what an alias is.
const PROTOCOL_VERSIONS: RangeInclusive<u32> = 1..=3;

/// The protocol versions this process speaks.
pub fn protocol_versions() -> RangeInclusive<u32> {
    rt::protocol_versions(PROTOCOL_VERSIONS)
}

/// Longest name, version or address in a Hello, in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 255;
/// Most addresses of one kind in a Hello.
const ADDRESSES_MAX: usize = 16;
/// Longest detail of a refusal that is taken from outside, in bytes.
const DETAIL_BYTES_MAX: usize = 1024;

/// Where a node is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    pub peer: String,
    pub http: Vec<String>,
    pub grpc: String,
}

/// What this node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster_name: String,
    /// See [`peer_set_hash`].
    pub peer_set_hash: u64,
    pub node: NodeId,
    /// How often the node has started on its data; must survive a power loss before this is said.
    pub boot: u64,
    pub addresses: Addresses,
}

/// Hash of the peer addresses of a cluster, this node's own among them, in whatever order and however often each is given: nodes
/// with the same configuration found a cluster together. Once one of two nodes has a cluster it says nothing any more.
pub fn peer_set_hash<'a>(addresses: impl IntoIterator<Item = &'a str>) -> u64 {
    let set: BTreeSet<&str> = addresses.into_iter().collect();
    let mut text = String::new();
    for address in set {
        text.push_str(address);
        text.push('\n');
    }
    xxh3_64(text.as_bytes())
}

/// What another node said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    pub cluster_name: String,
    pub peer_set_hash: u64,
    pub cluster_id: Option<u64>,
    pub node: NodeId,
    pub boot: u64,
    /// Random, new in every process.
    pub instance: u64,
    pub versions: RangeInclusive<u32>,
    pub program_version: String,
    pub addresses: Addresses,
}

/// What kind of reason a handshake failed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Another cluster's name, peer set or identity.
    Cluster,
    /// The node has reached itself.
    Itself,
    /// Another process already goes by this node id.
    Node,
    /// No protocol version that both speak.
    Version,
    /// Not a member of the cluster.
    Member,
    /// Not a Hello that could be understood.
    Malformed,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Cause; 6] =
        [Cause::Cluster, Cause::Itself, Cause::Node, Cause::Version, Cause::Member, Cause::Malformed];

    /// A stable word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Cluster => "wrong_cluster",
            Cause::Itself => "itself",
            Cause::Node => "duplicate_node",
            Cause::Version => "no_common_version",
            Cause::Member => "unknown_member",
            Cause::Malformed => "malformed_hello",
        }
    }
}

/// Why two nodes do not talk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", cause.as_str())]
pub struct Refusal {
    pub cause: Cause,
    /// What was expected and what was found.
    pub detail: String,
}

impl Refusal {
    /// A refusal with its reason.
    pub fn new(cause: Cause, detail: impl Into<String>) -> Refusal {
        Refusal { cause, detail: detail.into() }
    }
}

/// An [`Identity`] in a running process.
#[derive(Clone, Debug)]
pub(super) struct Myself {
    pub(super) identity: Identity,
    pub(super) instance: u64,
}

impl Myself {
    pub(super) fn hello(&self, cluster_id: Option<u64>) -> proto::Hello {
        let Identity { cluster_name, peer_set_hash, node, boot, addresses } = self.identity.clone();
        let versions = protocol_versions();
        proto::Hello {
            cluster_name,
            peer_set_hash,
            cluster_id,
            node,
            boot,
            instance: self.instance,
            version_min: *versions.start(),
            version_max: *versions.end(),
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: Some(proto::Addresses { peer: addresses.peer, http: addresses.http, grpc: addresses.grpc }),
        }
    }

    /// Whether that node and this one belong together, as far as both can tell from what they said.
    pub(super) fn check(&self, peer: &PeerInfo, cluster_id: Option<u64>) -> Result<(), Refusal> {
        self.check_versions(&peer.versions)?;
        self.check_cluster(peer, cluster_id)?;
        let own = self.identity.node;
        if peer.node != own {
            return Ok(());
        }
        if peer.instance == self.instance {
            return Err(Refusal::new(Cause::Itself, "the address is this node's own"));
        }
        let whose = format!("{} has the id of {}", peer.addresses.peer, self.identity.addresses.peer);
        Err(Refusal::new(Cause::Node, format!("{whose}, {}: a copied data directory?", Id(own))))
    }

    fn check_versions(&self, theirs: &RangeInclusive<u32>) -> Result<(), Refusal> {
        let ours = protocol_versions();
        if ours.start().max(theirs.start()) <= ours.end().min(theirs.end()) {
            return Ok(());
        }
        let detail = format!(
            "protocol versions {} to {} here, {} to {} there",
            ours.start(),
            ours.end(),
            theirs.start(),
            theirs.end()
        );
        Err(Refusal::new(Cause::Version, detail))
    }

    fn check_cluster(&self, peer: &PeerInfo, cluster_id: Option<u64>) -> Result<(), Refusal> {
        let refuse = |what: &str, ours: &dyn fmt::Display, theirs: &dyn fmt::Display| {
            Err(Refusal::new(Cause::Cluster, format!("{what} {ours} here, {theirs} there")))
        };
        let (name, their_name) = (&self.identity.cluster_name, &peer.cluster_name);
        if name != their_name {
            return refuse("cluster name", name, their_name);
        }
        match (cluster_id, peer.cluster_id) {
            (Some(ours), Some(theirs)) if ours != theirs => refuse("cluster identity", &Id(ours), &Id(theirs)),
            // One of them has a cluster, and the other wants to join it, or belonged to it all the time.
            (Some(_), _) | (_, Some(_)) => Ok(()),
            (None, None) if self.identity.peer_set_hash != peer.peer_set_hash => {
                refuse("configured peer set", &Id(self.identity.peer_set_hash), &Id(peer.peer_set_hash))
            }
            (None, None) => Ok(()),
        }
    }
}

/// An id as people see it.
pub(super) struct Id(pub(super) u64);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl TryFrom<proto::Hello> for PeerInfo {
    type Error = Refusal;

    fn try_from(hello: proto::Hello) -> Result<PeerInfo, Refusal> {
        let malformed = |detail: &str| Refusal::new(Cause::Malformed, detail);
        let addresses = hello.addresses.unwrap_or_default();
        if addresses.http.len() > ADDRESSES_MAX {
            return Err(malformed("too many addresses"));
        }
        let texts = [&hello.cluster_name, &hello.program_version, &addresses.peer, &addresses.grpc];
        if texts.into_iter().chain(&addresses.http).any(|text| text.len() > TEXT_BYTES_MAX) {
            return Err(malformed("too long a text"));
        }
        if hello.version_min == 0 || hello.version_min > hello.version_max {
            return Err(malformed("no range of versions"));
        }
        Ok(PeerInfo {
            cluster_name: hello.cluster_name,
            peer_set_hash: hello.peer_set_hash,
            cluster_id: hello.cluster_id,
            node: hello.node,
            boot: hello.boot,
            instance: hello.instance,
            versions: hello.version_min..=hello.version_max,
            program_version: hello.program_version,
            addresses: Addresses { peer: addresses.peer, http: addresses.http, grpc: addresses.grpc },
        })
    }
}

impl From<Refusal> for proto::Refusal {
    fn from(refusal: Refusal) -> proto::Refusal {
        use proto::refusal::Cause as Wire;
        let cause = match refusal.cause {
            Cause::Cluster => Wire::Cluster,
            Cause::Itself => Wire::Itself,
            Cause::Node => Wire::Node,
            Cause::Version => Wire::Version,
            Cause::Member => Wire::Member,
            Cause::Malformed => Wire::Malformed,
        };
        proto::Refusal { cause: cause as i32, detail: refusal.detail }
    }
}

impl From<proto::Refusal> for Refusal {
    /// A cause this program does not know is a malformed Hello of ours, as far as the other side is concerned.
    fn from(refusal: proto::Refusal) -> Refusal {
        use proto::refusal::Cause as Wire;
        let cause = match refusal.cause() {
            Wire::Cluster => Cause::Cluster,
            Wire::Itself => Cause::Itself,
            Wire::Node => Cause::Node,
            Wire::Version => Cause::Version,
            Wire::Member => Cause::Member,
            Wire::Malformed | Wire::Unspecified => Cause::Malformed,
        };
        let mut detail = refusal.detail;
        detail.truncate(detail.floor_char_boundary(DETAIL_BYTES_MAX));
        Refusal { cause, detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn myself(node: NodeId) -> Myself {
        let addresses = Addresses { peer: format!("node-{node}:7000"), ..Addresses::default() };
        let identity = Identity { cluster_name: "c".to_owned(), peer_set_hash: 5, node, boot: 1, addresses };
        Myself { identity, instance: node * 100 }
    }

    fn info(node: NodeId, cluster_id: Option<u64>, change: impl FnOnce(&mut PeerInfo)) -> PeerInfo {
        let mut info = PeerInfo::try_from(myself(node).hello(cluster_id)).unwrap();
        change(&mut info);
        info
    }

    fn cause(ours: Option<u64>, peer: &PeerInfo) -> Option<Cause> {
        myself(1).check(peer, ours).err().map(|refusal| refusal.cause)
    }

    #[test]
    fn nodes_of_one_cluster_belong_together_before_and_after_it_has_an_identity() {
        for (ours, theirs) in [(None, None), (Some(9), None), (None, Some(9)), (Some(9), Some(9))] {
            assert_eq!(cause(ours, &info(2, theirs, |_| {})), None, "{ours:?} {theirs:?}");
        }
        let moved = |info: &mut PeerInfo| info.peer_set_hash = 6;
        for (ours, theirs) in [(Some(9), Some(9)), (Some(9), None), (None, Some(9))] {
            assert_eq!(cause(ours, &info(2, theirs, moved)), None, "an identity outweighs the configuration");
        }
    }

    #[test]
    fn strangers_copies_and_other_versions_are_told_apart() {
        assert_eq!(cause(None, &info(2, None, |i| i.cluster_name = "d".to_owned())), Some(Cause::Cluster));
        assert_eq!(cause(None, &info(2, None, |i| i.peer_set_hash = 6)), Some(Cause::Cluster));
        assert_eq!(cause(Some(9), &info(2, Some(8), |_| {})), Some(Cause::Cluster));
        assert_eq!(cause(None, &info(1, None, |_| {})), Some(Cause::Itself));
        assert_eq!(cause(None, &info(1, None, |i| i.instance = 7)), Some(Cause::Node));
        let newest = *PROTOCOL_VERSIONS.end();
        assert_eq!(cause(None, &info(2, None, |i| i.versions = newest + 1..=newest + 2)), Some(Cause::Version));
        assert_eq!(cause(None, &info(2, None, |i| i.versions = newest..=newest + 1)), None);
        assert_eq!(cause(None, &info(2, None, |i| i.versions = 1..=1)), None);
    }

    #[test]
    fn a_hello_out_of_bounds_is_refused() {
        let hello = || myself(2).hello(None);
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        let many = proto::Addresses { http: vec![String::new(); ADDRESSES_MAX + 1], ..proto::Addresses::default() };
        for bad in [
            proto::Hello { cluster_name: long.clone(), ..hello() },
            proto::Hello { program_version: long, ..hello() },
            proto::Hello { addresses: Some(many), ..hello() },
            proto::Hello { version_min: 0, ..hello() },
            proto::Hello { version_min: 2, version_max: 1, ..hello() },
        ] {
            assert_eq!(PeerInfo::try_from(bad).unwrap_err().cause, Cause::Malformed);
        }
    }

    #[test]
    fn refusals_cross_the_wire() {
        for cause in Cause::ALL {
            let refusal = Refusal::new(cause, "é".repeat(2_000));
            let back = Refusal::from(proto::Refusal::from(refusal));
            assert_eq!((back.cause, back.detail.len()), (cause, DETAIL_BYTES_MAX));
        }
        assert_eq!(Refusal::from(proto::Refusal { cause: 99, detail: String::new() }).cause, Cause::Malformed);
    }

    #[test]
    fn a_peer_set_has_no_order() {
        assert_eq!(peer_set_hash(["b:1", "a:1", "b:1"]), peer_set_hash(["a:1", "b:1"]));
        assert_ne!(peer_set_hash(["a:1", "b:1"]), peer_set_hash(["a:1", "b:2"]));
        assert_ne!(peer_set_hash(["a:1b:1"]), peer_set_hash(["a:1", "b:1"]));
    }
}
