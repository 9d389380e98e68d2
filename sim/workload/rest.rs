//! The native REST face, spoken the way curl would: JSON over the product's own keep-alive HTTP client.
use super::{
    answer::{self, Failure, Reply, judge, number},
    client::{Found, Look, PARTLY_TIMEOUT, Page, Put, TIMEOUT, Wait},
    vectors,
};
use crate::{
    check::search::Hit,
    plan::{IndexPlan, action::VALUES_MAX},
    world::sometimes,
};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use vectorsphere::rt::http::client::{Client, ClientOptions};

/// How long a node may take to say whether it is ready.
const READY_LIMIT: Duration = Duration::from_secs(1);

pub struct Rest {
    client: Client,
    table: String,
    dimension: usize,
}

impl Rest {
    pub fn new(address: &str, table: &str, dimension: usize) -> Rest {
        let options = ClientOptions { timeout: TIMEOUT, ..ClientOptions::default() };
        Rest { client: Client::with_options(address, options), table: table.to_string(), dimension }
    }

    pub async fn create(&self, index: &IndexPlan, shards: usize, copies: usize) -> Reply<()> {
        let indexed: &[Value] = if index.indexed { &[json!({ "field": "value" })] } else { &[] };
        let body = json!({ "table_name": self.table, "dimension": self.dimension, "index_type": index.index_type,
            "metric": index.metric, "shards": shards, "replicas": copies, "indexed_fields": indexed });
        match self.call(Method::POST, "/api/v1/tables".to_string(), Some(body)).await {
            Ok(_) | Err(Failure::Conflict) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// The same node's table of another name.
    pub fn named(&self, table: &str) -> Rest {
        Rest { client: self.client.clone(), table: table.to_string(), dimension: self.dimension }
    }

    /// Changes aliases; how many nodes may not have heard of it.
    pub async fn change_aliases(&self, changes: Value) -> Reply<u64> {
        let body = json!({ "changes": changes });
        let answer = self.call(Method::POST, "/api/v1/aliases".to_string(), Some(body)).await?;
        Ok(array(&answer, "behind")?.len() as u64)
    }

    pub async fn drop_table(&self) -> Reply<()> {
        match self.send(Method::DELETE, format!("/api/v1/tables/{}", self.table), None, None).await? {
            (StatusCode::NOT_FOUND, answer) if answer["code"] == "table_not_found" => Ok(()),
            (status, answer) => judge(status, answer).map(drop),
        }
    }

    pub async fn describe(&self) -> Reply<Value> {
        self.call(Method::GET, format!("/api/v1/tables/{}", self.table), None).await
    }

    pub async fn ready(&self) -> bool {
        let request = answer::request(Method::GET, "/readyz", None, None);
        self.client.request_within(READY_LIMIT, request).await.is_ok_and(|answer| answer.status() == StatusCode::OK)
    }

    /// The version and the session token. Now and then a write waits for every voter's disk, which promises no less; its retries do not, since a
    /// voter may be down.
    pub async fn put(&self, puts: &[Put], wait: Wait, request_id: Option<&str>) -> Reply<(u64, String)> {
        let document = |put: &Put| {
            let mut document = json!({ "document_id": put.id, "vector": vectors::of(put.value, self.dimension),
                "metadata": put.metadata() });
            if let Some(version) = put.if_version {
                document["if_version"] = version.into();
            }
            document
        };
        let body = match puts {
            [put] => document(put),
            puts => json!({ "documents": puts.iter().map(document).collect::<Vec<_>>() }),
        };
        let for_all = wait == Wait::Usual && puts.iter().any(|put| put.value % 50 == 7 && put.value < VALUES_MAX);
        let path = self.path(match wait {
            Wait::Leader => "?ack=async",
            Wait::Usual if for_all => "?ack=all",
            Wait::Usual | Wait::Majority => "",
        });
        let answer = self.call_once(Method::POST, path, Some(body), request_id).await?;
        sometimes!(for_all, "a write was on every voter's disk");
        Ok((number(&answer, "version"), token(&answer)))
    }

    /// The version and the session token, if there was something to change.
    pub async fn patch(
        &self,
        id: u64,
        patch: u64,
        if_version: Option<u64>,
        request_id: Option<&str>,
    ) -> Reply<Option<(u64, String)>> {
        let mut body = json!({ "metadata": { "patch": patch } });
        if let Some(version) = if_version {
            body["if_version"] = version.into();
        }
        match self.send(Method::PATCH, self.path(&format!("/{id}")), Some(body), request_id).await? {
            (StatusCode::NOT_FOUND, answer) if answer["code"] == "document_not_found" => Ok(None),
            (status, answer) => {
                let answer = judge(status, answer)?;
                Ok(Some((number(&answer, "version"), token(&answer))))
            }
        }
    }

    /// What is there, with the session token. `query` says how fresh the read must be.
    pub async fn get(&self, id: u64, query: &str) -> Reply<Option<(Found, String)>> {
        match self.send(Method::GET, self.path(&format!("/{id}{query}")), None, None).await? {
            (StatusCode::NOT_FOUND, answer) if answer["code"] == "document_not_found" => Ok(None),
            (status, answer) => {
                let answer = judge(status, answer)?;
                Ok(Some((found(&answer)?, token(&answer))))
            }
        }
    }

    pub async fn delete(&self, id: u64, request_id: Option<&str>) -> Reply<bool> {
        let body = Some(json!({ "ids": [id] }));
        let answer = self.call_once(Method::POST, self.path("/delete"), body, request_id).await?;
        Ok(number(&answer, "deleted") == 1)
    }

    pub async fn delete_where(&self, filter: &Value) -> Reply<u64> {
        let body = Some(json!({ "filter": filter }));
        let answer = self.call(Method::POST, self.path("/delete"), body).await?;
        Ok(number(&answer, "deleted"))
    }

    /// Hits, and the shards that did not answer.
    pub async fn search(&self, look: &Look) -> Reply<(Vec<Hit>, Vec<u64>)> {
        let mut body = json!({ "vector": vectors::of(look.value, self.dimension), "top_k": look.top_k, "with_vector": true,
            "exact": look.exact, "on_unavailable": on_unavailable(look.partly) });
        if let Some(filter) = &look.filter {
            body["filter"] = filter.clone();
        }
        let path = format!("/api/v1/tables/{}/search", self.table);
        let answer = self.ask(path, body, look.partly).await?;
        let hits = array(&answer, "results")?.iter().map(hit).collect::<Reply<_>>()?;
        Ok((hits, failed(&answer, look.partly)?))
    }

    pub async fn list_page(&self, limit: usize, cursor: Option<String>, partly: bool) -> Reply<Page> {
        let mut body = json!({ "limit": limit, "on_unavailable": on_unavailable(partly) });
        if let Some(cursor) = cursor {
            body["cursor"] = cursor.into();
        }
        let answer = self.ask(self.path("/list"), body, partly).await?;
        let points = array(&answer, "documents")?.iter().map(found).collect::<Reply<_>>()?;
        Ok(Page { points, next: answer["cursor"].as_str().map(str::to_string), failed: failed(&answer, partly)? })
    }

    /// How many documents there are, and the shards that the answer says were not counted.
    pub async fn count(&self) -> Reply<(u64, Vec<u64>)> {
        let answer = self.describe().await?;
        let notices = answer["notices"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let silent = notices.filter(|notice| notice.contains("is not counted"));
        let shard = |notice: &str| {
            let number = notice.strip_prefix("shard ").and_then(|rest| rest.split(' ').next()?.parse().ok());
            number.unwrap_or_else(|| panic!("a notice without the shard's number: {notice}"))
        };
        Ok((number(&answer, "documents_count"), silent.map(shard).collect()))
    }

    /// The shards and their slots.
    pub async fn shards(&self) -> Reply<BTreeMap<u64, (u16, u16)>> {
        let answer = self.call(Method::GET, format!("/api/v1/tables/{}/stats", self.table), None).await?;
        let slot = |shard: &Value, place: usize| {
            let slot = shard["slots"][place].as_u64().and_then(|slot| u16::try_from(slot).ok());
            slot.unwrap_or_else(|| panic!("a shard without slots: {shard}"))
        };
        let shards = array(&answer, "shards")?.iter();
        Ok(shards.map(|shard| (number(shard, "id"), (slot(shard, 0), slot(shard, 1)))).collect())
    }

    fn path(&self, below: &str) -> String {
        format!("/api/v1/tables/{}/documents{below}", self.table)
    }

    /// A question that may be answered in part if `partly`.
    async fn ask(&self, path: String, body: Value, partly: bool) -> Reply<Value> {
        let request = answer::request(Method::POST, &path, Some(body), None);
        let limit = if partly { PARTLY_TIMEOUT } else { TIMEOUT };
        let (status, answer) = answer::send_within(&self.client, limit, request).await?;
        judge(status, answer)
    }

    async fn call(&self, method: Method, path: String, body: Option<Value>) -> Reply<Value> {
        self.call_once(method, path, body, None).await
    }

    async fn call_once(&self, method: Method, path: String, body: Option<Value>, id: Option<&str>) -> Reply<Value> {
        let (status, answer) = self.send(method, path, body, id).await?;
        judge(status, answer)
    }

    async fn send(
        &self,
        method: Method,
        path: String,
        body: Option<Value>,
        id: Option<&str>,
    ) -> Reply<(StatusCode, Value)> {
        answer::send(&self.client, answer::request(method, &path, body, id)).await
    }
}

fn token(answer: &Value) -> String {
    answer["session"].as_str().unwrap_or_else(|| panic!("an answer without session: {answer}")).to_string()
}

fn found(document: &Value) -> Reply<Found> {
    let metadata = &document["metadata"];
    let list = metadata["list"].as_array().map(|list| list.iter().filter_map(Value::as_u64).collect());
    Ok(Found {
        id: number(document, "document_id"),
        value: number(metadata, "value"),
        patch: metadata["patch"].as_u64().unwrap_or(0),
        version: number(document, "version"),
        list: list.unwrap_or_default(),
    })
}

fn hit(result: &Value) -> Reply<Hit> {
    let value = number(&result["metadata"], "value");
    let vector: Vec<f32> = array(result, "vector")?.iter().filter_map(Value::as_f64).map(|x| x as f32).collect();
    Ok(Hit { id: number(result, "document_id"), value, vector_matches: vectors::matches(&vector, value) })
}

fn array<'a>(object: &'a Value, field: &str) -> Reply<&'a Vec<Value>> {
    object[field].as_array().ok_or_else(|| panic!("an answer without {field}: {object}"))
}

fn on_unavailable(partly: bool) -> &'static str {
    if partly { "partial" } else { "fail" }
}

/// The shards whose part is missing.
///
/// # Panics
/// If there are such though no partial answer was asked for, or their number is not what the others leave.
fn failed(answer: &Value, partly: bool) -> Reply<Vec<u64>> {
    let shards = &answer["shards"];
    let failed: Vec<u64> = array(shards, "failed")?.iter().filter_map(Value::as_u64).collect();
    let ok = number(shards, "ok");
    assert!(number(shards, "total") == ok + failed.len() as u64 && (partly || ok > 0), "{shards}");
    assert!(partly || failed.is_empty(), "nobody asked for a partial answer: {shards}");
    Ok(failed)
}
