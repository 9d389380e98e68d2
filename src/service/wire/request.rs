//! What a node asks another one to read. Called through `wire`.

use super::{bad, from_bytes, point::Id, to_bytes};
use crate::{
    service::{
        gather::SHARDS_PER_ASK_MAX,
        read::{Operation, ShardsRead},
    },
    types::{
        Filter, PointId, Result, Vector, VectorName, limits,
        operation::{self, Consistency, Cursor, ListRequest, in_range},
    },
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Read {
    consistency: Freshness,
    /// Shard, and how far the session has seen it.
    shards: Vec<(u64, u64)>,
    operation: Asked,
}

/// The variants keep their order for ever.
#[derive(Serialize, Deserialize)]
enum Freshness {
    Linearizable,
    Session,
    Eventual,
}

/// The variants keep their order for ever.
#[derive(Serialize, Deserialize)]
enum Asked {
    Get(Id),
    List(Page),
    Search(Vec<Search>),
    Figures,
}

#[derive(Serialize, Deserialize)]
struct Page {
    limit: u64,
    after: Option<PointId>,
    filter: Option<String>,
    with_vector: bool,
    with_payload: bool,
}

#[derive(Serialize, Deserialize)]
struct Search {
    vector_name: String,
    vector: Vec<f32>,
    top_k: u64,
    threshold: Option<f32>,
    filter: Option<String>,
    with_payload: bool,
    with_vector: bool,
    exact: bool,
    nprobe: Option<u64>,
    recall_target: Option<f32>,
    explain: bool,
}

/// A read for the wire.
pub fn encode_read(read: &ShardsRead) -> Vec<u8> {
    let operation = match &read.operation {
        Operation::Get(id) => Asked::Get(Id::from(id)),
        Operation::List(request) => Asked::List(Page::from(request)),
        Operation::Search(searches) => Asked::Search(searches.iter().map(Search::from).collect()),
        Operation::Figures => Asked::Figures,
    };
    let consistency = match read.consistency {
        Consistency::Linearizable => Freshness::Linearizable,
        Consistency::Session => Freshness::Session,
        Consistency::Eventual => Freshness::Eventual,
    };
    to_bytes(&Read { consistency, shards: read.shards.clone(), operation })
}

/// The inverse of [`encode_read`].
///
/// # Errors
/// `bad_peer_message`; those that a client's request of this kind would meet.
pub fn decode_read(bytes: &[u8]) -> Result<ShardsRead> {
    let Read { consistency, shards, operation } = from_bytes(bytes)?;
    if shards.len() > SHARDS_PER_ASK_MAX {
        return Err(bad("it is about too many shards"));
    }
    let operation = match operation {
        Asked::Get(id) => Operation::Get(id.into_id()?),
        Asked::List(page) => Operation::List(page.into_request()?),
        Asked::Search(searches) => {
            if searches.len() > limits::SEARCHES_PER_REQUEST_MAX {
                return Err(bad("it has too many searches"));
            }
            Operation::Search(searches.into_iter().map(Search::into_search).collect::<Result<_>>()?)
        }
        Asked::Figures => Operation::Figures,
    };
    let consistency = match consistency {
        Freshness::Linearizable => Consistency::Linearizable,
        Freshness::Session => Consistency::Session,
        Freshness::Eventual => Consistency::Eventual,
    };
    Ok(ShardsRead { operation, consistency, shards })
}

impl From<&ListRequest> for Page {
    fn from(request: &ListRequest) -> Page {
        Page {
            limit: request.limit as u64,
            after: request.cursor.map(|cursor| cursor.after),
            filter: request.filter.as_ref().map(json),
            with_vector: request.with_vector,
            with_payload: request.with_payload,
        }
    }
}

impl Page {
    fn into_request(self) -> Result<ListRequest> {
        let limit = usize::try_from(self.limit).map_err(bad)?;
        in_range("bad_limit", "limit", limit, limits::LIST_LIMIT_MAX)?;
        Ok(ListRequest {
            limit,
            cursor: self.after.map(|after| Cursor { after }),
            filter: filter(self.filter)?,
            with_vector: self.with_vector,
            with_payload: self.with_payload,
        })
    }
}

impl From<&operation::Search> for Search {
    fn from(search: &operation::Search) -> Search {
        Search {
            vector_name: search.vector_name.as_str().to_owned(),
            vector: search.vector.as_slice().to_vec(),
            top_k: search.top_k as u64,
            threshold: search.threshold,
            filter: search.filter.as_ref().map(json),
            with_payload: search.with_payload,
            with_vector: search.with_vector,
            exact: search.exact,
            nprobe: search.nprobe.map(|nprobe| nprobe as u64),
            recall_target: search.recall_target,
            explain: search.explain,
        }
    }
}

impl Search {
    fn into_search(self) -> Result<operation::Search> {
        let number = |number: u64| usize::try_from(number).map_err(bad);
        let search = operation::Search {
            vector_name: VectorName::new(self.vector_name)?,
            vector: Vector::new(self.vector)?,
            top_k: number(self.top_k)?,
            threshold: self.threshold,
            filter: filter(self.filter)?,
            with_payload: self.with_payload,
            with_vector: self.with_vector,
            exact: self.exact,
            nprobe: self.nprobe.map(number).transpose()?,
            recall_target: self.recall_target,
            explain: self.explain,
        };
        search.check().map(|()| search)
    }
}

fn json(filter: &Filter) -> String {
    filter.source().to_string()
}

fn filter(json: Option<String>) -> Result<Option<Filter>> {
    let read = |json: String| Filter::from_json(&serde_json::from_str(&json).map_err(bad)?);
    json.map(read).transpose()
}
