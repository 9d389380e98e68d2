//! The links between simulated nodes. The simulator refuses a new connection across a cut (and across a lost packet) at
//! once; a real network answers nothing, and the dialler's kernel keeps retransmitting. So cuts are made here, where
//! dialling can tell them from a port that nobody listens on. It also tells a peer at once that a connection ended, cut or
//! not; here such news waits until it can travel, and of a machine without power there is none at all ([`set_dark`]).

use madsim::{net::NetSim, task::NodeId};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    task::{Context, Waker},
    time::Duration,
};
use tokio::net::TcpStream;

/// The wait before the first retransmission of a SYN; it doubles each time (Linux: RFC 6298, one second).
const SYN_RETRY_FIRST: Duration = Duration::from_secs(1);

/// The longest wait between two retransmissions. Linux doubles up to 64 s; capped, so that a healed link is noticed
/// within a simulated run.
const SYN_RETRY_MAX: Duration = Duration::from_secs(16);

#[derive(Debug, Default)]
struct Links {
    node_by_ip: BTreeMap<IpAddr, NodeId>,
    /// Cut directions, from and to.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Nodes without power.
    dark: BTreeSet<NodeId>,
    /// Who waits to hear that a connection ended.
    deaf: Vec<Waker>,
    /// How many listeners a node has on a port: a killed node's old one may go after its successor came.
    listening: BTreeMap<(NodeId, u16), u32>,
}

thread_local! {
    static LINKS: RefCell<Links> = RefCell::default();
}

impl Links {
    /// Whether a packet of `from` reaches `to` now.
    fn carries(&self, from: NodeId, to: NodeId) -> bool {
        !self.cut.contains(&(from, to)) && !self.dark.contains(&from) && !self.dark.contains(&to)
    }

    /// To be woken outside the borrow: a waker may run anything.
    fn news(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.deaf)
    }
}

fn change(change: impl FnOnce(&mut Links)) {
    let woken = LINKS.with_borrow_mut(|links| {
        change(links);
        links.news()
    });
    woken.into_iter().for_each(Waker::wake);
}

pub(super) fn register(node: NodeId, ip: IpAddr) {
    LINKS.with_borrow_mut(|links| links.node_by_ip.insert(ip, node));
}

pub(super) fn reset() {
    LINKS.with_borrow_mut(|links| *links = Links::default());
}

/// Cuts the way from `from` to `to`: what is sent is held back until it heals. One direction only; call it twice for both.
pub fn cut(from: NodeId, to: NodeId) {
    if LINKS.with_borrow_mut(|links| links.cut.insert((from, to))) {
        NetSim::current().clog_link(from, to);
    }
}

/// Undoes [`cut`] of the same direction.
pub fn heal(from: NodeId, to: NodeId) {
    if LINKS.with_borrow_mut(|links| links.cut.remove(&(from, to))) {
        NetSim::current().unclog_link(from, to);
        change(|_| {});
    }
}

/// Undoes every [`cut`].
pub fn heal_all() {
    let cut = LINKS.with_borrow_mut(|links| std::mem::take(&mut links.cut));
    for (from, to) in cut {
        NetSim::current().unclog_link(from, to);
    }
    change(|_| {});
}

/// Takes the power of `node`'s machine away, or gives it back. The process must be killed besides: this is what others see
/// of it. A dark machine answers nobody, not even by refusing; its peers learn that their connections are gone only when it
/// has power again, as its kernel knows none of them then.
pub fn set_dark(node: NodeId, dark: bool) {
    change(|links| {
        if dark {
            links.dark.insert(node);
        } else {
            links.dark.remove(&node);
        }
    });
}

/// Whether the way from `from` to `to` is cut.
pub fn is_cut(from: NodeId, to: NodeId) -> bool {
    LINKS.with_borrow(|links| links.cut.contains(&(from, to)))
}

/// What a SYN sent now would meet.
enum Way {
    /// No answer: the handshake needs both directions.
    Cut,
    /// A port with a listener: if the simulator refuses, the packet was lost.
    Listening,
    /// Anything else: the simulator's answer stands.
    Unknown,
}

fn way(from: NodeId, to: SocketAddr) -> Way {
    LINKS.with_borrow(|links| {
        let Some(&node) = links.node_by_ip.get(&to.ip()) else { return Way::Unknown };
        if !links.carries(from, node) || !links.carries(node, from) {
            Way::Cut
        } else if links.listening.contains_key(&(node, to.port())) {
            Way::Listening
        } else {
            Way::Unknown
        }
    })
}

/// The node of a connection's other end, for [`hears_end`].
pub(in crate::rt) fn node_at(addr: SocketAddr) -> Option<NodeId> {
    LINKS.with_borrow(|links| links.node_by_ip.get(&addr.ip()).copied())
}

/// Whether the news that `there` has closed a connection reaches the current node now. If not, the caller is woken when
/// that may have changed.
pub(in crate::rt) fn hears_end(there: NodeId, cx: &Context<'_>) -> bool {
    let here = madsim::plugin::node();
    LINKS.with_borrow_mut(|links| {
        let hears = links.carries(there, here);
        if !hears && !links.deaf.iter().any(|waiting| waiting.will_wake(cx.waker())) {
            links.deaf.push(cx.waker().clone());
        }
        hears
    })
}

/// Connects as a kernel does: across a cut or a lost packet it tries again, waiting twice as long each time.
pub(in crate::rt) async fn connect(addr: &str) -> io::Result<TcpStream> {
    let to: SocketAddr = addr.parse().map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("a simulated address is ip:port, got {addr:?}: {error}"))
    })?;
    let from = madsim::plugin::node();
    let mut retry = SYN_RETRY_FIRST;
    loop {
        match way(from, to) {
            Way::Cut => {}
            Way::Unknown => return TcpStream::connect(to).await,
            Way::Listening => match TcpStream::connect(to).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                answer => return answer,
            },
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(SYN_RETRY_MAX);
    }
}

/// Notes that the current node listens on a port, for as long as it lives.
#[derive(Debug)]
pub(in crate::rt) struct Listening {
    node: NodeId,
    port: u16,
}

impl Listening {
    pub(in crate::rt) fn new(port: u16) -> Listening {
        let node = madsim::plugin::node();
        LINKS.with_borrow_mut(|links| *links.listening.entry((node, port)).or_default() += 1);
        Listening { node, port }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let key = (self.node, self.port);
        // The thread may be ending, and its state with it.
        let _ = LINKS.try_with(|links| {
            let mut links = links.borrow_mut();
            if let Some(count) = links.listening.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    links.listening.remove(&key);
                }
            }
        });
    }
}
