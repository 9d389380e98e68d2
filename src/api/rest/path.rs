//! What stands in a request's path and query: the table, the document, the options of a read. Called by handlers as
//! extractors.

use super::{App, dto, problem::ApiError};
use crate::{
    api::errors::did_you_mean,
    service::NodeFilter,
    types::{CollectionName, DocumentId, Error, WriteOptions, operation::ReadOptions, path::Path as FieldPath},
};
use axum::extract::{FromRequestParts, Path, Query};
use http::request::Parts;
use serde::Deserialize;
use serde::de::{IntoDeserializer, value};
use std::collections::BTreeMap;

/// The table that the path names.
#[derive(Debug)]
pub struct Table(pub CollectionName);

impl FromRequestParts<App> for Table {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Table, ApiError> {
        let name = parameter(parts, app, "table").await?;
        Ok(Table(CollectionName::new(name).map_err(|error| error.at("table_name"))?))
    }
}

/// The document that the path names. A canonical decimal number is that number, anything else is text.
#[derive(Debug)]
pub struct Document(pub DocumentId);

impl FromRequestParts<App> for Document {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Document, ApiError> {
        let text = parameter(parts, app, "document_id").await?;
        let number = text.parse::<u64>().ok().filter(|number| number.to_string() == text);
        Ok(Document(match number {
            Some(number) => DocumentId::Num(number),
            None => DocumentId::from_text(text).map_err(|error| error.at("document_id"))?,
        }))
    }
}

/// The field of the metadata that the path names.
#[derive(Debug)]
pub struct Field(pub FieldPath);

impl FromRequestParts<App> for Field {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Field, ApiError> {
        let text = parameter(parts, app, "field").await?;
        Ok(Field(FieldPath::parse(&text).map_err(|error| error.at("field"))?))
    }
}

/// The node that the path names.
#[derive(Debug)]
pub struct Node(pub u64);

impl FromRequestParts<App> for Node {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Node, ApiError> {
        let text = parameter(parts, app, "node").await?;
        Ok(Node(dto::node_id(&text).map_err(|error| error.at("node"))?))
    }
}

async fn parameter(parts: &mut Parts, app: &App, name: &'static str) -> Result<String, Error> {
    let bad = || Error::invalid("bad_path", "the path is not UTF-8 once decoded").at(name).expected("UTF-8");
    let Path(mut parameters) =
        Path::<BTreeMap<String, String>>::from_request_parts(parts, app).await.map_err(|_| bad())?;
    parameters.remove(name).ok_or_else(bad)
}

/// The parameters of the query, each at most once, none unknown.
#[derive(Debug)]
pub struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Reads the query of a call that knows `names`.
    ///
    /// # Errors
    /// `bad_query`, `unknown_parameter`, `duplicate_parameter`.
    pub fn of(parts: &Parts, names: &[&str]) -> Result<Parameters, Error> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|_| Error::invalid("bad_query", "the query cannot be read").expected("name=value&name=value"))?;
        let mut parameters = BTreeMap::new();
        for (name, value) in pairs {
            if !names.contains(&name.as_str()) {
                let shown: String = name.chars().take(64).collect();
                let message = match did_you_mean(&shown, names.iter().copied()) {
                    Some(meant) => format!("there is no such parameter; did you mean `{meant}`?"),
                    None => "there is no such parameter".to_owned(),
                };
                let expected = if names.is_empty() { "no parameters".to_owned() } else { names.join(", ") };
                return Err(Error::invalid("unknown_parameter", message).expected(expected).got(shown));
            }
            if parameters.insert(name.clone(), value).is_some() {
                return Err(Error::invalid("duplicate_parameter", "a parameter is given twice").at(name));
            }
        }
        Ok(Parameters(parameters))
    }

    /// `true`, `false`, or present without a value, which is true.
    ///
    /// # Errors
    /// `wrong_type`.
    pub fn flag(&self, name: &'static str, default: bool) -> Result<bool, Error> {
        match self.0.get(name).map(String::as_str) {
            None => Ok(default),
            Some("" | "true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => {
                let shown: String = other.chars().take(64).collect();
                Err(Error::invalid("wrong_type", "this parameter is a flag")
                    .at(name)
                    .expected("true or false")
                    .got(shown))
            }
        }
    }

    fn word<'s, T: Deserialize<'s>>(&'s self, name: &'static str, expected: &str) -> Result<Option<T>, Error> {
        let Some(text) = self.0.get(name) else { return Ok(None) };
        let deserializer: value::StrDeserializer<'s, value::Error> = text.as_str().into_deserializer();
        T::deserialize(deserializer).map(Some).map_err(|_| unknown_value(name, expected, text))
    }
}

fn unknown_value(name: &'static str, expected: &str, got: &str) -> Error {
    let shown: String = got.chars().take(64).collect();
    Error::invalid("unknown_value", "there is no such value").at(name).expected(expected).got(shown)
}

/// Of a deletion: whether it is done although shards cannot be closed.
#[derive(Debug)]
pub struct Force(pub bool);

impl FromRequestParts<App> for Force {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Force, ApiError> {
        Ok(Force(Parameters::of(parts, &["force"])?.flag("force", false)?))
    }
}

/// For calls without parameters: a guard put there by mistake must not be passed over.
#[derive(Debug)]
pub struct NoQuery;

impl FromRequestParts<App> for NoQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<NoQuery, ApiError> {
        Parameters::of(parts, &[])?;
        Ok(NoQuery)
    }
}

/// How to write: `?ack=` and the header `Idempotency-Key`.
#[derive(Debug)]
pub struct WriteQuery(pub WriteOptions);

impl FromRequestParts<App> for WriteQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<WriteQuery, ApiError> {
        let parameters = Parameters::of(parts, &["ack"])?;
        // What is not text is refused as an empty key is.
        let key = parts.headers.get("idempotency-key").map(|value| value.to_str().unwrap_or(""));
        Ok(WriteQuery(WriteOptions::from_texts(parameters.0.get("ack").map(String::as_str), key)?))
    }
}

/// How to read one document: `?with_vector=&consistency=&session=&on_unavailable=`.
#[derive(Debug)]
pub struct ReadQuery {
    pub with_vector: bool,
    pub options: ReadOptions,
}

impl FromRequestParts<App> for ReadQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<ReadQuery, ApiError> {
        let parameters = Parameters::of(parts, &["with_vector", "consistency", "session", "on_unavailable"])?;
        let fields = dto::ReadFields {
            consistency: parameters.word("consistency", "linearizable, session or eventual")?,
            session: parameters.0.get("session").cloned(),
            on_unavailable: parameters.word("on_unavailable", "fail or partial")?,
        };
        Ok(ReadQuery { with_vector: parameters.flag("with_vector", true)?, options: fields.into_options()? })
    }
}

/// Which nodes to list: `?tags=&group=&zone=&version=&status=`.
#[derive(Debug)]
pub struct NodesQuery(pub NodeFilter);

/// What a node may be, in a query's words.
const STATUSES: [&str; 4] = ["up", "starting", "stopping", "unreachable"];

impl FromRequestParts<App> for NodesQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<NodesQuery, ApiError> {
        let parameters = Parameters::of(parts, &["tags", "group", "zone", "version", "status"])?;
        let text = |name| parameters.0.get(name).filter(|text| !text.is_empty()).cloned();
        let tags = text("tags").unwrap_or_default();
        let tags = tags.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
        let status = text("status");
        if let Some(other) = status.as_ref().filter(|status| !STATUSES.contains(&status.as_str())) {
            return Err(unknown_value("status", &STATUSES.join(", "), other).into());
        }
        let (group, zone, version) = (text("group"), text("zone"), text("version"));
        Ok(NodesQuery(NodeFilter { tags, group, zone, version, status }))
    }
}

/// Whether `?verbose` was given.
#[derive(Debug)]
pub struct Verbose(pub bool);

impl FromRequestParts<App> for Verbose {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Verbose, ApiError> {
        Ok(Verbose(Parameters::of(parts, &["verbose"])?.flag("verbose", false)?))
    }
}
