//! A client of the node, over whichever face the plan gave it.
use super::{grpc::Grpc, rest::Rest};
use crate::{check::search::Hit, plan::Face};
use std::time::Duration;

/// Why a call did not succeed.
#[derive(Clone, Debug)]
pub enum Failure {
    /// A conditional write found another version.
    Conflict,
    /// It certainly had no effect.
    Refused(String),
    /// It may have had its effect.
    Unknown(String),
}

pub type Reply<T> = Result<T, Failure>;

/// How long a client waits for an answer, in simulated time.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Documents a list call asks for at once: few, so that lists have pages.
const PAGE: usize = 37;

pub struct Client {
    rest: Rest,
    grpc: Option<Grpc>,
}

impl Client {
    pub fn new(face: Face, http: &str, grpc: &str, table: &str, dimension: usize) -> Client {
        let rest = Rest::new(http, table, dimension);
        let grpc = (face == Face::Grpc).then(|| Grpc::new(grpc, table, dimension));
        Client { rest, grpc }
    }

    /// Creates the table.
    pub async fn create(&self, index_type: &str, metric: &str) -> Reply<()> {
        self.rest.create(index_type, metric).await
    }

    /// What the node says about the table.
    pub async fn describe(&self) -> Reply<serde_json::Value> {
        self.rest.describe().await
    }

    /// Whether the node says it is ready.
    pub async fn ready(&self) -> bool {
        self.rest.ready().await
    }

    /// Writes points (id, value), all or none; their version.
    pub async fn put(&self, points: &[(u64, u64)], if_version: Option<u64>) -> Reply<u64> {
        match &self.grpc {
            Some(grpc) => grpc.put(points, if_version).await,
            None => self.rest.put(points, if_version).await,
        }
    }

    /// The point's value and version.
    pub async fn get(&self, id: u64) -> Reply<Option<(u64, u64)>> {
        self.rest.get(id).await
    }

    /// Whether there was such a point.
    pub async fn delete(&self, id: u64) -> Reply<bool> {
        match &self.grpc {
            Some(grpc) => grpc.delete(id).await,
            None => self.rest.delete(id).await,
        }
    }

    /// The points nearest to the vector of `value`.
    pub async fn search(&self, value: u64, top_k: usize, exact: bool) -> Reply<Vec<Hit>> {
        match &self.grpc {
            Some(grpc) => grpc.search(value, top_k, exact).await,
            None => self.rest.search(value, top_k, exact).await,
        }
    }

    /// The ids of all points, page by page.
    pub async fn list(&self) -> Reply<Vec<u64>> {
        let (mut ids, mut cursor) = (Vec::new(), None);
        loop {
            let (page, next) = self.rest.list_page(PAGE, cursor).await?;
            ids.extend(page);
            match next {
                Some(next) => cursor = Some(next),
                None => return Ok(ids),
            }
        }
    }
}
