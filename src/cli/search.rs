//! `vectorsphere search`: one query against a table; the vector comes from the command line, a file, or a stored document. Called
//! by `cli::run`.

use super::{
    CliError, Context, ExitCode,
    client::{ApiClient, Found, Hit, Patience, SearchQuery, plain},
    context::columns,
};
use crate::rt;
use clap::Args;
use serde_json::Value;
use std::{fs::File, io::Read, path::PathBuf};

/// The most a vector file may have: the largest dimension, generously written.
const VECTOR_FILE_BYTES_MAX: u64 = 4 << 20;

/// Metadata is cut to this in a table; `-o json` has all of it.
const METADATA_CHARS_SHOWN: usize = 80;

/// Arguments of `search`.
#[derive(Args, Clone, Debug)]
#[command(group = clap::ArgGroup::new("query").required(true))]
pub struct SearchArgs {
    /// The table.
    pub table: String,
    /// The query as a JSON list, e.g. '[0.1, 0.2]'.
    #[arg(group = "query", value_name = "VECTOR")]
    pub vector: Option<String>,
    /// The query from a file that holds a JSON list; - is standard input.
    #[arg(long, group = "query", value_name = "FILE")]
    pub vector_file: Option<PathBuf>,
    /// The query is the vector of this document, which itself is left out of the answer.
    #[arg(long, group = "query", value_name = "DOCUMENT")]
    pub id: Option<String>,
    /// Documents to find.
    #[arg(long, short = 'k', default_value_t = 10, value_name = "N")]
    pub top_k: usize,
    /// Only these documents, e.g. '{"must":[{"key":"lang","match":{"value":"en"}}]}'.
    #[arg(long, value_name = "JSON")]
    pub filter: Option<String>,
    /// The worst score to accept.
    #[arg(long, value_name = "SCORE")]
    pub threshold: Option<f32>,
    /// Compare with every document instead of asking the index.
    #[arg(long)]
    pub exact: bool,
    /// Lists of the index to look through [default: calibrated by the server].
    #[arg(long, value_name = "N")]
    pub nprobe: Option<u32>,
    /// Show what the search did.
    #[arg(long)]
    pub explain: bool,
    /// Leave out the metadata.
    #[arg(long)]
    pub no_metadata: bool,
}

/// Runs the command.
///
/// # Errors
/// A vector or filter that is not JSON; what the server refuses, or that there is none.
pub async fn run(args: SearchArgs, context: &Context) -> Result<ExitCode, CliError> {
    let client = ApiClient::new(&context.endpoint, Patience::SHORT)?;
    let found = search(&args, &client).await?;
    context.print(&found, || shown(&found, !args.no_metadata))?;
    Ok(ExitCode::Ok)
}

async fn search(args: &SearchArgs, client: &ApiClient) -> Result<Found, CliError> {
    let vector = vector(args, client).await?;
    let filter = args.filter.as_deref().map(serde_json::from_str).transpose();
    let query = SearchQuery {
        vector,
        // One more, because the document itself is among its neighbours.
        top_k: args.top_k + usize::from(args.id.is_some()),
        threshold: args.threshold,
        filter: filter.map_err(|error| CliError::usage(format!("--filter is not JSON: {error}")))?,
        with_metadata: !args.no_metadata,
        exact: args.exact.then_some(true),
        nprobe: args.nprobe,
        explain: args.explain.then_some(true),
    };
    let mut found = client.search(&args.table, &query).await?;
    if let Some(own) = &args.id {
        found.results.retain(|hit| plain(&hit.document_id) != *own);
        found.results.truncate(args.top_k);
    }
    Ok(found)
}

async fn vector(args: &SearchArgs, client: &ApiClient) -> Result<Vec<f32>, CliError> {
    if let Some(id) = &args.id {
        let document = client.document(&args.table, id).await?;
        return document
            .vector
            .ok_or_else(|| CliError::failed(format!("the server did not send the vector of {id:?}")));
    }
    let text = match (&args.vector, &args.vector_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => {
            let (path, shown) = (path.clone(), path.display().to_string());
            let read = rt::compute::io(move || read(&path)).await;
            read.map_err(|error| CliError::failed(format!("cannot read {shown}: {error}")))?
        }
        (None, None) => return Err(CliError::usage("no query: give a vector, --vector-file or --id")),
    };
    serde_json::from_str(&text)
        .map_err(|error| CliError::usage(format!("the vector is not a JSON list of numbers: {error}")))
}

fn read(path: &std::path::Path) -> std::io::Result<String> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().lock().take(VECTOR_FILE_BYTES_MAX).read_to_string(&mut text)?;
    } else {
        File::open(path)?.take(VECTOR_FILE_BYTES_MAX).read_to_string(&mut text)?;
    }
    Ok(text)
}

fn shown(found: &Found, with_metadata: bool) -> String {
    let metadata = |hit: &Hit| {
        let text = hit
            .metadata
            .as_ref()
            .filter(|members| !members.is_empty())
            .map(|members| Value::from(members.clone()).to_string());
        let text = text.unwrap_or_default();
        match text.char_indices().nth(METADATA_CHARS_SHOWN) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    };
    let row = |hit: &Hit| {
        let score = format!("{:.4}", hit.score);
        let mut row = vec![score, plain(&hit.document_id)];
        row.extend(with_metadata.then(|| metadata(hit)));
        row
    };
    let header: &[&str] = if with_metadata { &["SCORE", "DOCUMENT", "METADATA"] } else { &["SCORE", "DOCUMENT"] };
    let mut text = columns(header, &found.results.iter().map(row).collect::<Vec<_>>());
    if let Some(explain) = found.more.get("explain") {
        text += &format!("\n{}\n", serde_json::to_string_pretty(explain).unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fake::{Fake, FakeTable, World};
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        search: SearchArgs,
    }

    fn args(flags: &[&str]) -> SearchArgs {
        Line::parse_from(["search", "t"].iter().chain(flags)).search
    }

    #[tokio::test]
    async fn every_source_of_the_query_finds_the_same() {
        let mut table = FakeTable::default();
        for (id, vector) in [("x", [1.0, 0.0]), ("near", [0.9, 0.1]), ("far", [-1.0, 0.1])] {
            table.documents.insert(id.to_owned(), (vector.to_vec(), Default::default()));
        }
        let fake = Fake::start(World { tables: [("t".to_owned(), table)].into(), ..World::default() }).await;
        let client = ApiClient::new(&fake.endpoint, Patience::NONE).unwrap();
        let ids = async |flags: &[&str]| {
            let found = search(&args(flags), &client).await?;
            Ok::<_, CliError>(found.results.iter().map(|hit| plain(&hit.document_id)).collect::<Vec<_>>())
        };
        assert_eq!(ids(&["[1, 0]", "-k", "2"]).await.unwrap(), ["x", "near"]);
        assert_eq!(ids(&["--id", "x", "-k", "1"]).await.unwrap(), ["near"]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[-1,0]").unwrap();
        assert_eq!(ids(&["--vector-file", file.path().to_str().unwrap(), "-k", "1"]).await.unwrap(), ["far"]);
        assert_eq!(ids(&["[1, x]"]).await.unwrap_err().exit_code, 2);
        assert_eq!(ids(&["--id", "absent"]).await.unwrap_err().exit_code, 1);
    }

    #[test]
    fn one_query_is_required() {
        assert!(Line::try_parse_from(["search", "t"]).is_err());
        assert!(Line::try_parse_from(["search", "t", "[1]", "--id", "x"]).is_err());
    }
}
