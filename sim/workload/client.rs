//! A client of the nodes, over whichever face the plan gave it. It asks one node until that one refuses or does not answer,
//! then the next that says it is ready; now and then it goes back to the one it prefers.
use super::{answer::Reply, grpc::Grpc, rest::Rest};
use crate::{
    check::search::Hit,
    plan::{Face, IndexPlan},
    world::sometimes,
};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use vectorsphere::types::Session;

/// A document to write.
#[derive(Clone, Debug)]
pub struct Put {
    pub id: u64,
    /// Names the put; also decides its vector.
    pub value: u64,
    pub if_version: Option<u64>,
    pub list: Option<Vec<u64>>,
}

impl Put {
    pub fn new(id: u64, value: u64) -> Put {
        Put { id, value, if_version: None, list: None }
    }

    pub fn metadata(&self) -> serde_json::Value {
        let mut metadata = serde_json::json!({ "value": self.value });
        if let Some(list) = &self.list {
            metadata["list"] = list.clone().into();
        }
        metadata
    }
}

/// A document that was read.
#[derive(Clone, Debug)]
pub struct Found {
    pub id: u64,
    pub value: u64,
    /// What the last patch since the put has set; 0 if there was none.
    pub patch: u64,
    pub version: u64,
    pub list: Vec<u64>,
}

/// A page of a list.
#[derive(Debug)]
pub struct Page {
    pub points: Vec<Found>,
    /// Where the next one begins.
    pub next: Option<String>,
    /// Shards whose documents are missing.
    pub failed: Vec<u64>,
}

/// What a write waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// A majority, or now and then every voter.
    Usual,
    /// A majority: a voter may be down for good.
    Majority,
    /// The leader's own disk.
    Leader,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    Linearizable,
    /// As fresh as what this client was told before.
    Session,
    Eventual,
}

/// How long a client waits for an answer, in simulated time.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// And for an answer that may be partial: by then every holder of a shard has had its time to say that it cannot read it.
pub const PARTLY_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a client waits for a node to become ready: these many rounds, so long apart.
const READY_ROUNDS: usize = 100;
const READY_INTERVAL: Duration = Duration::from_millis(100);
/// After so many answers a client goes back to the node it prefers.
const HOMESICK_AFTER: usize = 32;

/// Documents a list call asks for at once: few, so that lists have pages.
const PAGE: usize = 37;

/// The most that a list in one page may have.
const PAGE_MAX: usize = 5_000;

struct Server {
    rest: Rest,
    grpc: Option<Grpc>,
}

/// A search for the points nearest to the vector of `value`.
pub struct Look {
    pub value: u64,
    pub top_k: usize,
    pub exact: bool,
    /// As the node takes it.
    pub filter: Option<serde_json::Value>,
    /// Without the shards that do not answer.
    pub partly: bool,
}

pub struct Client {
    servers: Vec<Server>,
    /// Which client of the run this is.
    pub number: u64,
    at: AtomicUsize,
    home: usize,
    answers: AtomicUsize,
    /// What the session tokens it was given say together.
    seen: Mutex<Session>,
    service: Service,
}

/// Where the nodes are and what a client asks them about.
#[derive(Clone, Debug)]
pub struct Service {
    /// HTTP and gRPC addresses.
    pub addresses: Vec<(String, String)>,
    pub table: &'static str,
    /// What the table is made with.
    pub index: IndexPlan,
    pub shards: usize,
    pub copies: usize,
}

impl Client {
    /// A client that asks the service's node `home` first.
    pub fn new(service: &Service, face: Face, number: u64, home: usize) -> Client {
        let servers = service.addresses.iter().map(|(http, grpc)| Server {
            rest: Rest::new(http, service.table, service.index.dimension),
            grpc: (face == Face::Grpc).then(|| Grpc::new(grpc, service.table, service.index.dimension)),
        });
        let servers: Vec<_> = servers.collect();
        let at = AtomicUsize::new(home);
        let (answers, seen) = (AtomicUsize::new(0), Mutex::default());
        Client { servers, number, at, home, answers, seen, service: service.clone() }
    }

    fn server(&self) -> &Server {
        let answers = self.answers.fetch_add(1, Ordering::Relaxed);
        if answers % HOMESICK_AFTER == HOMESICK_AFTER - 1 {
            self.at.store(self.home, Ordering::Relaxed);
        }
        &self.servers[self.at.load(Ordering::Relaxed)]
    }

    /// A client of a table of another name, who asks the node that this one asks now, and no other.
    pub fn named(&self, table: &'static str) -> Client {
        let server = self.server();
        let named = Server { rest: server.rest.named(table), grpc: server.grpc.as_ref().map(|grpc| grpc.named(table)) };
        Client {
            servers: vec![named],
            number: self.number,
            at: AtomicUsize::new(0),
            home: 0,
            answers: AtomicUsize::new(0),
            seen: Mutex::default(),
            service: self.service.clone(),
        }
    }

    /// Changes aliases; how many nodes may not have heard of it.
    pub async fn change_aliases(&self, changes: serde_json::Value) -> Reply<u64> {
        self.server().rest.change_aliases(changes).await
    }

    /// All points, if they are few, in one page.
    pub async fn list_whole(&self) -> Reply<Vec<Found>> {
        let page = self.server().rest.list_page(PAGE_MAX, None, false).await?;
        assert!(page.next.is_none(), "more than {PAGE_MAX} points");
        Ok(page.points)
    }

    /// Goes to the next node.
    pub fn next(&self) {
        self.at.store((self.at.load(Ordering::Relaxed) + 1) % self.servers.len(), Ordering::Relaxed);
    }

    /// After a failure a client looks before it leaps, for a while: it looks for a node that is ready, the next one first.
    /// Or a plan would be used up against a node that is down.
    pub async fn find_ready(&self) {
        let (from, count) = (self.at.load(Ordering::Relaxed), self.servers.len());
        for _ in 0..READY_ROUNDS {
            for place in (1..=count).map(|step| (from + step) % count) {
                if self.servers[place].rest.ready().await {
                    sometimes!(place != from, "a client went to another node");
                    self.at.store(place, Ordering::Relaxed);
                    return;
                }
            }
            madsim::time::sleep(READY_INTERVAL).await;
        }
    }

    /// Creates the table; one that is there is as good.
    pub async fn create(&self) -> Reply<()> {
        let Service { index, shards, copies, .. } = &self.service;
        self.server().rest.create(index, *shards, *copies).await
    }

    /// Drops the table; none is as good.
    pub async fn drop_table(&self) -> Reply<()> {
        self.server().rest.drop_table().await
    }

    /// What the node says about the table.
    pub async fn describe(&self) -> Reply<serde_json::Value> {
        self.server().rest.describe().await
    }

    /// Writes one point; its version.
    pub async fn put(&self, id: u64, value: u64, if_version: Option<u64>) -> Reply<u64> {
        self.put_all(&[Put { if_version, ..Put::new(id, value) }], None).await
    }

    /// Writes points, all or none if they are of one shard; their version. A request id makes retries take effect once.
    pub async fn put_all(&self, puts: &[Put], request_id: Option<&str>) -> Reply<u64> {
        self.put_all_until(Wait::Usual, puts, request_id).await
    }

    /// The same, acknowledged as `wait` says.
    pub async fn put_all_until(&self, wait: Wait, puts: &[Put], request_id: Option<&str>) -> Reply<u64> {
        let server = self.server();
        let (version, token) = match &server.grpc {
            Some(grpc) => grpc.put(puts, wait, request_id).await?,
            None => server.rest.put(puts, wait, request_id).await?,
        };
        // What the leader alone has may not come about, and then nobody can have seen it.
        if wait != Wait::Leader {
            self.saw(&token);
        }
        Ok(version)
    }

    /// Changes one key of a point's metadata; its version, if there is such a point.
    pub async fn patch(
        &self,
        id: u64,
        patch: u64,
        if_version: Option<u64>,
        request_id: Option<&str>,
    ) -> Reply<Option<u64>> {
        let Some((version, token)) = self.server().rest.patch(id, patch, if_version, request_id).await? else {
            return Ok(None);
        };
        self.saw(&token);
        Ok(Some(version))
    }

    pub async fn get(&self, id: u64) -> Reply<Option<Found>> {
        self.read(id, Freshness::Linearizable).await
    }

    pub async fn read(&self, id: u64, freshness: Freshness) -> Reply<Option<Found>> {
        let query = match freshness {
            Freshness::Linearizable => String::new(),
            Freshness::Session => format!("?consistency=session&session={}", self.token()),
            Freshness::Eventual => "?consistency=eventual".to_string(),
        };
        let Some((found, token)) = self.server().rest.get(id, &query).await? else { return Ok(None) };
        self.saw(&token);
        Ok(Some(found))
    }

    /// Whether there was such a point.
    pub async fn delete(&self, id: u64, request_id: Option<&str>) -> Reply<bool> {
        let server = self.server();
        match &server.grpc {
            Some(grpc) => grpc.delete(id, request_id).await,
            None => server.rest.delete(id, request_id).await,
        }
    }

    /// Removes what passes a filter; how many there were.
    pub async fn delete_where(&self, filter: &serde_json::Value) -> Reply<u64> {
        let server = self.server();
        match &server.grpc {
            Some(grpc) => grpc.delete_where(filter).await,
            None => server.rest.delete_where(filter).await,
        }
    }

    /// The points nearest to the vector of `value`.
    pub async fn search(&self, value: u64, top_k: usize, exact: bool) -> Reply<Vec<Hit>> {
        Ok(self.look(&Look { value, top_k, exact, filter: None, partly: false }).await?.0)
    }

    /// What a search finds, and the shards that did not answer: none unless that was asked for.
    pub async fn look(&self, look: &Look) -> Reply<(Vec<Hit>, Vec<u64>)> {
        let server = self.server();
        let (hits, failed) = match &server.grpc {
            Some(grpc) => grpc.search(look).await,
            None => server.rest.search(look).await,
        }?;
        assert!(look.partly || failed.is_empty(), "nobody asked for a partial answer: {failed:?}");
        Ok((hits, failed))
    }

    /// All points, page by page.
    pub async fn list(&self) -> Reply<Vec<Found>> {
        let (mut points, mut cursor) = (Vec::new(), None);
        let server = self.server();
        loop {
            let page = server.rest.list_page(PAGE, cursor, false).await?;
            points.extend(page.points);
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(points),
            }
        }
    }

    /// All points but those of shards that do not answer, as pages.
    pub async fn list_partly(&self) -> Reply<Vec<Page>> {
        let (mut pages, mut cursor) = (Vec::new(), None);
        let server = self.server();
        loop {
            let page = server.rest.list_page(PAGE, cursor, true).await?;
            cursor = page.next.clone();
            pages.push(page);
            if cursor.is_none() {
                return Ok(pages);
            }
        }
    }

    /// How many points there are, and the shards that were not counted.
    pub async fn count(&self) -> Reply<(u64, Vec<u64>)> {
        self.server().rest.count().await
    }

    /// The table's shards and the slots of each, first and the one after the last.
    pub async fn shards(&self) -> Reply<BTreeMap<u64, (u16, u16)>> {
        self.server().rest.shards().await
    }

    /// Keeps what a token says besides what earlier ones said.
    fn saw(&self, token: &str) {
        let mut seen = self.seen.lock().expect("no panic while locked");
        let both = format!("{seen}{}", token.strip_prefix("s1").unwrap_or(token));
        *seen = Session::from_text(&both).unwrap_or_else(|wrong| panic!("token {token:?}: {wrong}"));
    }

    /// All that this client has seen, as one token.
    fn token(&self) -> String {
        self.seen.lock().expect("no panic while locked").to_string()
    }
}
