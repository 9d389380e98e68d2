//! A client of one node over REST, with answers told apart as the checkers need it: happened, did not, may have. Called by the
//! tests of `cluster`.

use crate::answer::{self, judge, number};
pub use crate::answer::{Failure, Reply};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use vectorsphere::rt::http::client::{Client, ClientOptions};

/// See the module.
#[derive(Clone)]
pub struct Rest {
    client: Client,
    table: String,
}

impl Rest {
    pub fn new(address: &str, table: &str) -> Rest {
        let options = ClientOptions { timeout: Duration::from_secs(8), ..ClientOptions::default() };
        Rest { client: Client::with_options(address, options), table: table.to_owned() }
    }

    pub async fn ready(&self) -> bool {
        self.send(Method::GET, "/readyz", None).await.is_ok_and(|(status, _)| status == StatusCode::OK)
    }

    pub async fn create(&self, dimension: usize, shards: u32) -> Reply<Value> {
        let body = json!({"table_name": self.table, "dimension": dimension, "metric": "euclidean", "shards": shards});
        self.call(Method::POST, "/api/v1/tables", Some(body)).await
    }

    /// Writes points (id, value), the value being both vector and metadata; their version.
    pub async fn put(&self, points: &[(u64, u64)], if_version: Option<u64>) -> Reply<u64> {
        let document = |(id, value): &(u64, u64)| {
            let mut document = json!({"document_id": id, "vector": [*value as f32, 1.0], "metadata": {"value": value}});
            if let Some(version) = if_version {
                document["if_version"] = version.into();
            }
            document
        };
        let body = json!({"documents": points.iter().map(document).collect::<Vec<_>>()});
        let answer = self.call(Method::POST, &self.documents(""), Some(body)).await?;
        Ok(number(&answer, "version"))
    }

    /// Changes a key of a point's metadata; its version, if there is such a point.
    pub async fn patch(&self, id: u64, patch: u64, if_version: Option<u64>) -> Reply<Option<u64>> {
        let mut body = json!({"metadata": {"patch": patch}});
        if let Some(version) = if_version {
            body["if_version"] = version.into();
        }
        match self.send(Method::PATCH, &self.documents(&format!("/{id}")), Some(body)).await? {
            (StatusCode::NOT_FOUND, answer) if answer["code"] == "document_not_found" => Ok(None),
            (status, answer) => judge(status, answer).map(|answer| Some(number(&answer, "version"))),
        }
    }

    /// A point's value and version.
    pub async fn get(&self, id: u64) -> Reply<Option<(u64, u64)>> {
        Ok(self.get_parts(id).await?.map(|(value, _, version)| (value, version)))
    }

    /// A point's value, what the last patch has set (0 if none has), and version.
    pub async fn get_parts(&self, id: u64) -> Reply<Option<(u64, u64, u64)>> {
        match self.send(Method::GET, &self.documents(&format!("/{id}")), None).await? {
            (StatusCode::NOT_FOUND, answer) if answer["code"] == "document_not_found" => Ok(None),
            (status, answer) => {
                let answer = judge(status, answer)?;
                let (value, patch) = (number(&answer["metadata"], "value"), answer["metadata"]["patch"].as_u64());
                Ok(Some((value, patch.unwrap_or(0), number(&answer, "version"))))
            }
        }
    }

    /// Whether there was such a point.
    pub async fn delete(&self, id: u64) -> Reply<bool> {
        let body = json!({"ids": [id]});
        let answer = self.call(Method::POST, &self.documents("/delete"), Some(body)).await?;
        Ok(number(&answer, "deleted") == 1)
    }

    /// The ids nearest to the vector of `value`.
    pub async fn search(&self, value: u64, top_k: usize) -> Reply<Vec<u64>> {
        let body = json!({"vector": [value as f32, 1.0], "top_k": top_k});
        let path = format!("/api/v1/tables/{}/search", self.table);
        let answer = self.call(Method::POST, &path, Some(body)).await?;
        let results = answer["results"].as_array().expect("a search answers results");
        Ok(results.iter().map(|result| number(result, "document_id")).collect())
    }

    /// Any other call.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Reply<Value> {
        let (status, answer) = self.send(method, path, body).await?;
        judge(status, answer)
    }

    fn documents(&self, below: &str) -> String {
        format!("/api/v1/tables/{}/documents{below}", self.table)
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Reply<(StatusCode, Value)> {
        answer::send(&self.client, answer::request(method, path, body, None)).await
    }
}
