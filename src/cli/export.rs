//! `vectorsphere export`: a table into a file, page by page: jsonl (documents with vectors and metadata, what `import` reads
//! back) or npy with the ids in a file beside it. The output appears under its name only when it is complete. Called by `cli::run`.

use super::{
    CliError, Context, ExitCode,
    client::{ApiClient, Document, Patience, plain},
    context::{facts, grouped},
    import::{npy::NpyWriter, progress::per_second},
};
use crate::rt::{self, time};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// About what a page's vectors may have together.
const PAGE_BYTES: usize = 4 << 20;

/// Form of the exported file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportFormat {
    /// One document a line.
    Jsonl,
    /// NumPy array of the vectors, and FILE.ids.jsonl with the ids.
    Npy,
}

/// Arguments of `export`.
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// The table.
    pub table: String,
    /// The file to write; what was there is replaced at the end.
    pub file: PathBuf,
    /// Form of the file [default: told by its name].
    #[arg(long, value_enum)]
    pub format: Option<ExportFormat>,
    /// Only these documents.
    #[arg(long, value_name = "JSON")]
    pub filter: Option<String>,
}

/// What was exported.
#[derive(Debug, Serialize)]
pub struct Exported {
    pub table: String,
    pub file: PathBuf,
    pub format: ExportFormat,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids_file: Option<PathBuf>,
    pub documents: u64,
    pub seconds: f64,
    pub documents_per_second: u64,
}

/// Runs the command.
///
/// # Errors
/// What the server refuses or the file system does.
pub async fn run(args: ExportArgs, context: &Context) -> Result<ExitCode, CliError> {
    let exported = export(&args, &ApiClient::new(&context.endpoint, Patience::LONG)?).await?;
    context.print(&exported, || {
        let mut told = vec![
            ("table", exported.table.clone()),
            ("documents", grouped(exported.documents)),
            ("file", exported.file.display().to_string()),
        ];
        told.extend(exported.ids_file.as_ref().map(|path| ("ids", path.display().to_string())));
        told.push(("time", format!("{:.1} s, {}/s", exported.seconds, grouped(exported.documents_per_second))));
        facts(&told)
    })?;
    Ok(ExitCode::Ok)
}

async fn export(args: &ExportArgs, client: &ApiClient) -> Result<Exported, CliError> {
    let started = time::now();
    let format = format(args)?;
    let filter: Option<Value> = args
        .filter
        .as_deref()
        .map(serde_json::from_str)
        .transpose()
        .map_err(|error| CliError::usage(format!("--filter is not JSON: {error}")))?;
    let table = client.table(&args.table).await?;
    let dimension = table.only_dimension()?;
    let limit = (PAGE_BYTES / (dimension.max(1) * 12)).clamp(1, 1_000);
    let failed = |error: io::Error| CliError::failed(format!("cannot write {}: {error}", args.file.display()));
    let mut output = Output::create(&args.file, format, dimension).map_err(failed)?;
    let (mut cursor, mut documents) = (None, 0);
    loop {
        let page = client.list_documents(&args.table, limit, cursor.as_deref(), true, filter.as_ref()).await?;
        documents += page.documents.len() as u64;
        let (returned, written) = rt::compute::io(move || {
            let written = output.push(&page.documents);
            (output, written)
        })
        .await;
        written.map_err(failed)?;
        output = returned;
        if page.cursor.is_none() {
            break;
        }
        if page.cursor == cursor {
            return Err(CliError::failed("the server sent the same cursor twice"));
        }
        cursor = page.cursor;
    }
    rt::compute::io(move || output.finish()).await.map_err(failed)?;
    let elapsed = started.elapsed();
    Ok(Exported {
        table: args.table.clone(),
        file: args.file.clone(),
        format,
        ids_file: (format == ExportFormat::Npy).then(|| with_suffix(&args.file, ".ids.jsonl")),
        documents,
        seconds: elapsed.as_secs_f64(),
        documents_per_second: per_second(documents, elapsed),
    })
}

fn format(args: &ExportArgs) -> Result<ExportFormat, CliError> {
    let by_name = match args.file.extension().and_then(|extension| extension.to_str()) {
        Some("jsonl" | "ndjson") => Some(ExportFormat::Jsonl),
        Some("npy") => Some(ExportFormat::Npy),
        _ => None,
    };
    args.format
        .or(by_name)
        .ok_or_else(|| CliError::usage("the file's name ends neither in .jsonl nor in .npy; use --format"))
}

/// A line of a jsonl export.
#[derive(Serialize)]
struct Line<'a> {
    document_id: String,
    vector: &'a [f32],
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a serde_json::Map<String, Value>>,
}

/// A file being written under a temporary name, removed again if it is not finished.
struct Output {
    path: PathBuf,
    content: Option<Content>,
}

enum Content {
    Jsonl(BufWriter<File>),
    Npy { vectors: NpyWriter, ids: BufWriter<File> },
}

impl Output {
    fn create(path: &Path, format: ExportFormat, dimension: usize) -> io::Result<Output> {
        let create = |path: &Path| File::create(path).map(|file| BufWriter::with_capacity(1 << 18, file));
        let content = match format {
            ExportFormat::Jsonl => Content::Jsonl(create(&partial(path))?),
            ExportFormat::Npy => Content::Npy {
                vectors: NpyWriter::create(&partial(path), dimension)?,
                ids: create(&partial(&with_suffix(path, ".ids.jsonl")))?,
            },
        };
        Ok(Output { path: path.to_owned(), content: Some(content) })
    }

    fn push(&mut self, documents: &[Document]) -> io::Result<()> {
        let missing = |document: &Document| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("document {} came without its vector", document.document_id),
            )
        };
        match self.content.as_mut().expect("invariant: pushed to before it is finished") {
            Content::Jsonl(file) => documents.iter().try_for_each(|document| {
                let vector = document.vector.as_ref().ok_or_else(|| missing(document))?;
                let metadata = document.metadata.as_ref().filter(|metadata| !metadata.is_empty());
                let line = Line { document_id: plain(&document.document_id), vector, metadata };
                serde_json::to_writer(&mut *file, &line)?;
                file.write_all(b"\n")
            }),
            Content::Npy { vectors, ids } => documents.iter().try_for_each(|document| {
                vectors.push(document.vector.as_ref().ok_or_else(|| missing(document))?)?;
                serde_json::to_writer(&mut *ids, &plain(&document.document_id))?;
                ids.write_all(b"\n")
            }),
        }
    }

    /// Completes the files, makes them safe, and gives them their names.
    fn finish(mut self) -> io::Result<()> {
        let ids_path = with_suffix(&self.path, ".ids.jsonl");
        match self.content.take().expect("invariant: finished once") {
            Content::Jsonl(file) => synced(file)?,
            Content::Npy { vectors, ids } => {
                vectors.finish()?;
                File::open(partial(&self.path))?.sync_all()?;
                synced(ids)?;
                fs::rename(partial(&ids_path), &ids_path)?;
            }
        }
        fs::rename(partial(&self.path), &self.path)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(content) = self.content.take() {
            // Best effort: an export that failed should not leave half a file behind.
            let _ = fs::remove_file(partial(&self.path));
            if matches!(content, Content::Npy { .. }) {
                let _ = fs::remove_file(partial(&with_suffix(&self.path, ".ids.jsonl")));
            }
        }
    }
}

fn synced(file: BufWriter<File>) -> io::Result<()> {
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

fn partial(path: &Path) -> PathBuf {
    with_suffix(path, ".partial")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::{
            fake::{Fake, FakeTable, World},
            import::{ImportArgs, import},
        },
        rt::Shutdown,
    };
    use clap::Parser;
    use serde_json::json;

    #[derive(Parser)]
    enum Line {
        Import(ImportArgs),
        Export(ExportArgs),
    }

    fn table(rows: usize) -> FakeTable {
        let mut table = FakeTable {
            description: json!({"table_name": "t", "dimension": 2, "metric": "dot"}),
            ..FakeTable::default()
        };
        for row in 0..rows {
            let metadata = json!({"row": row, "name": format!("ü{row}\n")});
            let metadata = metadata.as_object().cloned().filter(|_| row % 2 == 0).unwrap_or_default();
            let id = if row % 3 == 0 { format!("doc {row}") } else { row.to_string() };
            table.documents.insert(id, (vec![row as f32 / 3.0, 1.0], metadata));
        }
        table
    }

    async fn exported(fake: &Fake, path: &Path) -> Exported {
        let Line::Export(args) = Line::parse_from(["v", "export", "t", path.to_str().unwrap()]) else { unreachable!() };
        export(&args, &ApiClient::new(&fake.endpoint, Patience::NONE).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_exported_imports_as_it_was() {
        let fake = Fake::start(World { tables: [("t".to_owned(), table(2_500))].into(), ..World::default() }).await;
        let directory = tempfile::tempdir().unwrap();
        for (name, more) in [("t.jsonl", vec![]), ("t.npy", vec!["--ids", "t.npy.ids.jsonl"])] {
            let path = directory.path().join(name);
            assert_eq!(exported(&fake, &path).await.documents, 2_500);
            let ids = directory.path().join("t.npy.ids.jsonl").display().to_string();
            let more = more.iter().map(|flag| if flag.ends_with("jsonl") { ids.as_str() } else { flag });
            let line =
                ["v", "import", path.to_str().unwrap(), "--table", "copy", "--metric", "dot"].into_iter().chain(more);
            let Line::Import(args) = Line::parse_from(line) else { unreachable!() };
            import(&args, &fake.endpoint, &Shutdown::new()).await.unwrap().1.unwrap();
            let copy = fake.world.lock().unwrap().tables.remove("copy").unwrap();
            let world = fake.world.lock().unwrap();
            let original = &world.tables["t"].documents;
            assert_eq!(copy.documents.len(), original.len());
            for (id, (vector, metadata)) in original {
                assert_eq!(&copy.documents[id].0, vector);
                assert!(name == "t.npy" || copy.documents[id].1 == *metadata);
            }
        }
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "{left:?}");
    }

    #[tokio::test]
    async fn a_failed_export_leaves_nothing_behind() {
        let mut broken = table(3);
        broken.documents.insert("z".into(), (vec![1.0, 2.0, 3.0], Default::default()));
        let fake = Fake::start(World { tables: [("t".to_owned(), broken)].into(), ..World::default() }).await;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.npy");
        fs::write(&path, "old").unwrap();
        let Line::Export(args) = Line::parse_from(["v", "export", "t", path.to_str().unwrap()]) else { unreachable!() };
        assert!(export(&args, &ApiClient::new(&fake.endpoint, Patience::NONE).unwrap()).await.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
