//! The native REST face, spoken the way curl would: JSON over the product's own keep-alive HTTP client.
use super::{
    client::{Failure, Reply, TIMEOUT},
    vectors,
};
use crate::check::search::Hit;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use vectorsphere::rt::http::client::{Client, ClientOptions};

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

    pub async fn create(&self, index_type: &str, metric: &str) -> Reply<()> {
        let body = json!({ "table_name": self.table, "dimension": self.dimension, "index_type": index_type,
            "metric": metric });
        match self.call(Method::POST, "/api/v1/tables".to_string(), Some(body)).await {
            Ok(_) | Err(Failure::Conflict) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    pub async fn describe(&self) -> Reply<Value> {
        self.call(Method::GET, format!("/api/v1/tables/{}", self.table), None).await
    }

    pub async fn ready(&self) -> bool {
        self.send(Method::GET, "/readyz".to_string(), None).await.is_ok_and(|(status, _)| status == StatusCode::OK)
    }

    pub async fn put(&self, points: &[(u64, u64)], if_version: Option<u64>) -> Reply<u64> {
        let document = |(id, value): &(u64, u64)| {
            let mut document = json!({ "document_id": id, "vector": vectors::of(*value, self.dimension),
                "metadata": { "value": value } });
            if let Some(version) = if_version {
                document["if_version"] = version.into();
            }
            document
        };
        let body = match points {
            [point] => document(point),
            points => json!({ "documents": points.iter().map(document).collect::<Vec<_>>() }),
        };
        let answer = self.call(Method::POST, self.path(""), Some(body)).await?;
        number(&answer, "version")
    }

    pub async fn get(&self, id: u64) -> Reply<Option<(u64, u64)>> {
        match self.send(Method::GET, self.path(&format!("/{id}")), None).await? {
            (StatusCode::NOT_FOUND, answer) if answer["code"] == "document_not_found" => Ok(None),
            (status, answer) => {
                let answer = judge(status, answer)?;
                Ok(Some((number(&answer["metadata"], "value")?, number(&answer, "version")?)))
            }
        }
    }

    pub async fn delete(&self, id: u64) -> Reply<bool> {
        let answer = self.call(Method::POST, self.path("/delete"), Some(json!({ "ids": [id] }))).await?;
        Ok(number(&answer, "deleted")? == 1)
    }

    pub async fn search(&self, value: u64, top_k: usize, exact: bool) -> Reply<Vec<Hit>> {
        let body = json!({ "vector": vectors::of(value, self.dimension), "top_k": top_k, "with_vector": true,
            "exact": exact });
        let path = format!("/api/v1/tables/{}/search", self.table);
        let answer = self.call(Method::POST, path, Some(body)).await?;
        array(&answer, "results")?.iter().map(hit).collect()
    }

    /// A page of ids and the cursor of the next one.
    pub async fn list_page(&self, limit: usize, cursor: Option<String>) -> Reply<(Vec<u64>, Option<String>)> {
        let mut body = json!({ "limit": limit });
        if let Some(cursor) = cursor {
            body["cursor"] = cursor.into();
        }
        let answer = self.call(Method::POST, self.path("/list"), Some(body)).await?;
        let ids = array(&answer, "documents")?.iter().map(|document| number(document, "document_id"));
        Ok((ids.collect::<Reply<_>>()?, answer["cursor"].as_str().map(str::to_string)))
    }

    fn path(&self, below: &str) -> String {
        format!("/api/v1/tables/{}/documents{below}", self.table)
    }

    async fn call(&self, method: Method, path: String, body: Option<Value>) -> Reply<Value> {
        let (status, answer) = self.send(method, path, body).await?;
        judge(status, answer)
    }

    async fn send(&self, method: Method, path: String, body: Option<Value>) -> Reply<(StatusCode, Value)> {
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.body(Full::new(body)).expect("a well-formed request");
        match self.client.request(request).await {
            Ok(answer) => {
                let status = answer.status();
                Ok((status, serde_json::from_slice(answer.body()).unwrap_or(Value::Null)))
            }
            Err(error) if error.may_have_happened() => Err(Failure::Unknown(error.to_string())),
            Err(error) => Err(Failure::Refused(error.to_string())),
        }
    }
}

/// What a status means for a write: the native face says "nothing happened" by 4xx and 503.
fn judge(status: StatusCode, answer: Value) -> Reply<Value> {
    let why = || format!("{status} {}: {}", answer["code"], answer["title"]);
    // Whatever the disk does: the server itself must never find that it has a bug.
    assert!(answer["code"] != "internal", "the node reports a bug: {answer}");
    match status {
        _ if status.is_success() => Ok(answer),
        StatusCode::CONFLICT => Err(Failure::Conflict),
        _ if status.is_client_error() => Err(Failure::Refused(why())),
        StatusCode::SERVICE_UNAVAILABLE if answer["code"].is_string() && answer["code"] != "indeterminate" => {
            Err(Failure::Refused(why()))
        }
        _ => Err(Failure::Unknown(why())),
    }
}

fn hit(result: &Value) -> Reply<Hit> {
    let value = number(&result["metadata"], "value")?;
    let vector: Vec<f32> = array(result, "vector")?.iter().filter_map(Value::as_f64).map(|x| x as f32).collect();
    Ok(Hit { id: number(result, "document_id")?, value, vector_matches: vectors::matches(&vector, value) })
}

/// A number, also where the server spells it as text.
fn number(object: &Value, field: &str) -> Reply<u64> {
    let value = &object[field];
    let parsed = value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    parsed.ok_or_else(|| panic!("an answer without {field}: {object}"))
}

fn array<'a>(object: &'a Value, field: &str) -> Reply<&'a Vec<Value>> {
    object[field].as_array().ok_or_else(|| panic!("an answer without {field}: {object}"))
}
