//! `import` against a fake server over the real transport: what arrives, what is set aside, what is resumed.

use super::*;
use crate::cli::fake::{Fake, World};
use clap::Parser;
use std::path::Path;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    import: ImportArgs,
}

fn args(file: &Path, flags: &[&str]) -> ImportArgs {
    let line = ["import", file.to_str().unwrap(), "--table", "t"];
    Line::parse_from(line.iter().chain(flags)).import
}

/// A directory with `a.npy`: `rows` rows of dimension 3, never zero.
fn vectors(rows: usize) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.npy");
    let mut writer = npy::NpyWriter::create(&path, 3).unwrap();
    (0..rows).for_each(|row| writer.push(&[row as f32, 1.0, -1.0]).unwrap());
    writer.finish().unwrap();
    (directory, path)
}

async fn run_import(fake: &Fake, args: &ImportArgs) -> (Summary, Result<(), Stopped>) {
    import(args, &fake.endpoint, &Shutdown::new()).await.unwrap()
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|id| id.to_string()).collect()
}

#[tokio::test]
async fn every_row_arrives_in_the_binary_body() {
    let fake = Fake::start(World { busy: 3, ..World::default() }).await;
    let (_keep, path) = vectors(1_234);
    let (summary, ended) = run_import(&fake, &args(&path, &["--batch", "100", "--metric", "dot"])).await;
    ended.unwrap();
    assert_eq!((summary.rows_imported, summary.rows_refused, summary.complete), (1_234, 0, true));
    assert_eq!(fake.ids("t"), numbers(0..1_234));
    let world = fake.world.lock().unwrap();
    assert_eq!((world.binary_adds, world.adds), (13, 16));
    assert_eq!(world.tables["t"].description["metric"], "dot");
    assert_eq!(world.tables["t"].documents["7"].0, [7.0, 1.0, -1.0]);
    assert!(!Checkpoint::path_for(&path).exists());
}

#[tokio::test]
async fn metadata_travels_as_json() {
    let fake = Fake::start(World::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("words.csv");
    std::fs::write(&path, "id,word,n,vector\na,king,1,1 2\nb,queen,,3 4\n").unwrap();
    run_import(&fake, &args(&path, &[])).await.1.unwrap();
    let world = fake.world.lock().unwrap();
    let (vector, metadata) = &world.tables["t"].documents["a"];
    assert_eq!(
        (vector.as_slice(), metadata["word"].as_str(), metadata["n"].as_i64()),
        (&[1.0, 2.0][..], Some("king"), Some(1))
    );
    assert!(!world.tables["t"].documents["b"].1.contains_key("n"));
}

async fn bad_rows_are_found(names_the_document: bool) {
    let refused = ["0", "17", "18", "399"];
    let world = World { refused: refused.map(str::to_owned).into(), names_the_document, ..World::default() };
    let fake = Fake::start(world).await;
    let (keep, path) = vectors(400);
    let letters = keep.path().join("dead.jsonl");
    let flags = ["--batch", "150", "--dead-letter", letters.to_str().unwrap()];
    let (summary, ended) = run_import(&fake, &args(&path, &flags)).await;
    ended.unwrap();
    assert_eq!((summary.rows_imported, summary.rows_refused), (396, 4));
    let expected: Vec<String> = numbers(0..400).into_iter().filter(|id| !refused.contains(&id.as_str())).collect();
    assert_eq!(fake.ids("t"), expected);
    let text = std::fs::read_to_string(&letters).unwrap();
    let mut faults: Vec<fault::RowFault> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    faults.sort_by_key(|fault| fault.row);
    assert_eq!(faults.iter().map(|fault| fault.row).collect::<Vec<_>>(), [0, 17, 18, 399]);
    assert_eq!((faults[1].code.as_str(), faults[1].field.as_deref()), ("not_liked", Some("vector")));
    assert_eq!(faults[1].document.as_ref().unwrap()["document_id"], "17");
    let adds = fake.world.lock().unwrap().adds;
    assert!(adds <= if names_the_document { 3 + 2 * 4 } else { 3 + 2 * 4 * 8 }, "{adds} requests");
}

#[tokio::test]
async fn bad_rows_are_found_by_name() {
    bad_rows_are_found(true).await;
}

#[tokio::test]
async fn bad_rows_are_found_by_halving() {
    bad_rows_are_found(false).await;
}

#[tokio::test]
async fn without_a_dead_letter_file_a_refusal_ends_it() {
    let world = World { refused: ["250".to_owned()].into(), ..World::default() };
    let fake = Fake::start(world).await;
    let (_keep, path) = vectors(400);
    let (summary, ended) = run_import(&fake, &args(&path, &["--batch", "100", "--concurrency", "1"])).await;
    assert!(matches!(ended, Err(Stopped::Refused { rows: (200, 300), .. })), "{ended:?}");
    assert!(!summary.complete);
    assert!(fake.world.lock().unwrap().tables["t"].documents.contains_key("199"));
}

#[tokio::test]
async fn a_row_the_client_refuses_is_set_aside_or_ends_it() {
    let fake = Fake::start(World::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.jsonl");
    std::fs::write(&path, "{\"id\":1,\"vector\":[1,2]}\n{\"id\":2,\"vector\":[1]}\nx\n{\"id\":3,\"vector\":[0,0]}\n")
        .unwrap();
    let (_, ended) = run_import(&fake, &args(&path, &[])).await;
    assert!(matches!(ended, Err(Stopped::BadRow(ref fault)) if fault.row == 1), "{ended:?}");
    assert!(fake.ids("t").is_empty());
    let letters = directory.path().join("dead.jsonl");
    let flags = ["--dead-letter", letters.to_str().unwrap()];
    let (summary, ended) = run_import(&fake, &args(&path, &flags)).await;
    ended.unwrap();
    assert_eq!((summary.rows_imported, summary.rows_refused), (1, 3));
    assert_eq!(std::fs::read_to_string(&letters).unwrap().lines().count(), 3);
    let (_, ended) =
        run_import(&fake, &args(&path, &["--dead-letter", letters.to_str().unwrap(), "--errors-max", "2"])).await;
    assert!(matches!(ended, Err(Stopped::TooManyBadRows { refused: 3, max: 2, .. })), "{ended:?}");
}

#[tokio::test]
async fn an_interrupted_import_goes_on_where_it_was() {
    let stop = Shutdown::new();
    let fake = Fake::start(World { trip: Some((4, stop.clone())), ..World::default() }).await;
    let (_keep, path) = vectors(1_000);
    let args = args(&path, &["--batch", "100", "--concurrency", "2"]);
    let (first, ended) = import(&args, &fake.endpoint, &stop).await.unwrap();
    assert!(matches!(ended, Err(Stopped::Interrupted)), "{ended:?}");
    assert!((400..1_000).contains(&first.rows_imported), "{first:?}");
    assert_eq!(fake.ids("t").len() as u64, first.rows_imported, "what was acknowledged is what is there");
    assert!(Checkpoint::path_for(&path).exists());
    fake.world.lock().unwrap().tables.get_mut("t").unwrap().documents.clear();
    let (second, ended) = run_import(&fake, &args).await;
    ended.unwrap();
    assert_eq!((second.rows_resumed, second.rows_imported), (first.rows_imported, 1_000 - first.rows_imported));
    assert_eq!(fake.ids("t").len() as u64, second.rows_imported, "nothing was sent twice");
    assert!(!Checkpoint::path_for(&path).exists());
}

#[tokio::test]
async fn a_refusal_of_the_caller_is_not_split_and_can_be_resumed() {
    let fake = Fake::start(World { forbids_after: Some(2), ..World::default() }).await;
    let (keep, path) = vectors(500);
    let letters = keep.path().join("dead.jsonl");
    let args = args(&path, &["--batch", "100", "--concurrency", "1", "--dead-letter", letters.to_str().unwrap()]);
    let (first, ended) = run_import(&fake, &args).await;
    assert!(matches!(ended, Err(Stopped::Refused { .. })), "{ended:?}");
    assert_eq!((first.rows_imported, first.rows_refused), (200, 0));
    fake.world.lock().unwrap().forbids_after = None;
    let (second, ended) = run_import(&fake, &args).await;
    ended.unwrap();
    assert_eq!((second.rows_resumed, second.rows_imported), (200, 300));
}

#[tokio::test]
async fn no_resume_begins_anew() {
    let stop = Shutdown::new();
    let fake = Fake::start(World { trip: Some((2, stop.clone())), ..World::default() }).await;
    let (_keep, path) = vectors(500);
    let flags = ["--batch", "100", "--concurrency", "1"];
    import(&args(&path, &flags), &fake.endpoint, &stop).await.unwrap().1.unwrap_err();
    let (summary, ended) = run_import(&fake, &args(&path, &[&flags[..], &["--no-resume"]].concat())).await;
    ended.unwrap();
    assert_eq!((summary.rows_resumed, summary.rows_imported), (0, 500));
}

#[tokio::test]
async fn a_table_that_does_not_fit_is_left_alone() {
    let fake = Fake::start(World::default()).await;
    let (_keep, path) = vectors(10);
    let client = ApiClient::new(&fake.endpoint, Patience::NONE).unwrap();
    let table = NewTable {
        table_name: "t".into(),
        dimension: 4,
        metric: Some("cosine".into()),
        index_type: None,
        quantization: None,
        shards: None,
        replicas: None,
    };
    client.create_table(&table).await.unwrap();
    let error = import(&args(&path, &[]), &fake.endpoint, &Shutdown::new()).await.unwrap_err();
    assert!(error.message.contains("dimension 4"), "{error}");
    client.delete_table("t").await.unwrap();
    client.create_table(&NewTable { dimension: 3, ..table }).await.unwrap();
    let error = import(&args(&path, &["--metric", "dot"]), &fake.endpoint, &Shutdown::new()).await.unwrap_err();
    assert!(error.message.contains("cosine"), "{error}");
}

#[tokio::test]
async fn nobody_there_is_exit_code_5() {
    let listener = rt::net::Listener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = ApiClient::new(&endpoint, Patience::NONE).unwrap();
    let error = CliError::from(client.table("t").await.unwrap_err());
    assert_eq!(error.exit_code, 5);
    assert!(error.message.contains("vectorsphere serve"), "{error}");
}
