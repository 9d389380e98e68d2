//! Aliases in the catalog: what a request of changes comes to, and that nothing which comes between reading and writing is overlooked.

use super::*;
use crate::{
    cluster::{control::VERSION, memory::Fault},
    coordination::{BoxFuture, KeptAlive, LeaseId, Listed, Watch},
    types::AliasChange,
};
use std::sync::Mutex;

type Meddling = Box<dyn FnOnce(&Memory) + Send>;

/// The coordinator, to whom something happens right before the next transaction that changes anything.
struct Meddled {
    memory: Memory,
    meddling: Mutex<Option<Meddling>>,
}

impl Meddled {
    fn new() -> Arc<Meddled> {
        let meddled = Meddled { memory: Memory::default(), meddling: Mutex::default() };
        meddled.memory.put(VERSION, b"3".to_vec());
        Arc::new(meddled)
    }

    fn before_next(&self, meddling: impl FnOnce(&Memory) + Send + 'static) {
        *self.meddling.lock().unwrap() = Some(Box::new(meddling));
    }
}

impl Coordinator for Meddled {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<KeyValue>, CoordinationError>> {
        self.memory.get(key)
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listed, CoordinationError>> {
        self.memory.list(prefix)
    }

    fn remembered(&self, prefix: &str) -> Result<Vec<KeyValue>, CoordinationError> {
        self.memory.remembered(prefix)
    }

    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Committed, CoordinationError>> {
        if !transaction.changes.is_empty()
            && let Some(meddling) = self.meddling.lock().unwrap().take()
        {
            meddling(&self.memory);
        }
        self.memory.commit(transaction)
    }

    fn watch(&self, prefix: &str, after: Revision) -> Box<dyn Watch> {
        self.memory.watch(prefix, after)
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, CoordinationError>> {
        self.memory.grant(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<KeptAlive, CoordinationError>> {
        self.memory.keep_alive(lease)
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), CoordinationError>> {
        self.memory.revoke(lease)
    }
}

fn name(text: &str) -> CollectionName {
    CollectionName::new(text).unwrap()
}

fn create(alias: &str, table: &str) -> AliasChange {
    AliasChange::Create { alias: name(alias), table: name(table) }
}

fn delete(alias: &str) -> AliasChange {
    AliasChange::Delete { alias: name(alias) }
}

fn rename(alias: &str, to: &str) -> AliasChange {
    AliasChange::Rename { alias: name(alias), to: name(to) }
}

async fn catalog_with(tables: &[&str]) -> (Arc<Meddled>, Arc<Catalog>) {
    let coordinator = Meddled::new();
    let catalog = Arc::new(Catalog::load(coordinator.clone()).unwrap());
    for table in tables {
        make(&catalog, table).await.unwrap();
    }
    (coordinator, catalog)
}

async fn make(catalog: &Catalog, table: &str) -> Result<()> {
    let (_, spec) = a_table();
    let spec = CollectionSpec { shards: 1, ..spec };
    catalog.create(&name(table), spec, 1, &[Candidate::active(1)]).await
}

/// All aliases, as `alias>table`.
fn told(catalog: &Catalog) -> Vec<String> {
    let known = catalog.read().unwrap();
    known.aliases.iter().map(|(alias, table)| format!("{alias}>{table}")).collect()
}

async fn refused(catalog: &Catalog, changes: &[AliasChange]) -> (&'static str, Option<String>) {
    let before = told(catalog);
    let error = catalog.change_aliases(changes, false).await.unwrap_err();
    assert_eq!(told(catalog), before, "nothing is changed");
    (error.code(), error.detail().field.clone())
}

#[tokio::test]
async fn changes_are_made_in_their_order_and_counted_by_what_they_come_to() {
    let (_, catalog) = catalog_with(&["blue", "green"]).await;
    let mut epoch = 0;
    for (changes, count, expected) in [
        (vec![create("live", "blue"), create("spare", "green")], 2, ["live>blue", "spare>green"].to_vec()),
        (vec![create("live", "green")], 1, ["live>green", "spare>green"].to_vec()),
        (vec![create("live", "blue"), create("live", "green")], 0, ["live>green", "spare>green"].to_vec()),
        (vec![delete("spare"), delete("unknown"), create("spare", "blue")], 1, ["live>green", "spare>blue"].to_vec()),
        (
            vec![rename("live", "x"), rename("spare", "live"), rename("x", "spare")],
            2,
            ["live>blue", "spare>green"].to_vec(),
        ),
        (vec![rename("spare", "live")], 2, ["live>green"].to_vec()),
        (vec![rename("live", "live")], 0, ["live>green"].to_vec()),
        (vec![delete("live")], 1, [].to_vec()),
        (vec![delete("live")], 0, [].to_vec()),
    ] {
        let changed = catalog.change_aliases(&changes, false).await.unwrap();
        epoch += u64::from(count > 0);
        assert_eq!(changed, Changed { count, epoch }, "{changes:?}");
        assert_eq!(told(&catalog), expected, "{changes:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused_whole_with_its_place() {
    let (_, catalog) = catalog_with(&["blue", "green"]).await;
    catalog.change_aliases(&[create("live", "blue")], false).await.unwrap();
    let at = |row: usize, field: &str| Some(format!("changes[{row}].{field}"));
    let good = create("other", "green");
    for (bad, code, field) in [
        (create("x", "red"), "table_not_found", "create.table_name"),
        (create("green", "blue"), "table_exists", "create.alias_name"),
        (create("x", "live"), "alias_of_alias", "create.table_name"),
        (create("x", "other"), "alias_of_alias", "create.table_name"),
        (rename("x", "y"), "alias_not_found", "rename.alias_name"),
        (rename("live", "green"), "table_exists", "rename.new_alias_name"),
    ] {
        assert_eq!(refused(&catalog, &[good.clone(), bad.clone()]).await, (code, at(1, field)), "{bad:?}");
    }
    let error = make(&catalog, "live").await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Conflict, "alias_exists"));
    assert_eq!(make(&catalog, "blue").await.unwrap_err().code(), "table_exists");
    for error in [
        catalog.mark_for_deletion(&name("live")).await.map(drop),
        catalog.delete_open(&name("live")).await,
        catalog.delete_closed(&name("live"), &BTreeSet::new()).await.map(drop),
    ] {
        let error = error.unwrap_err();
        let detail = error.detail();
        assert_eq!((error.code(), detail.expected.as_deref()), ("table_is_alias", Some("blue")));
    }
    catalog.mark_for_deletion(&name("blue")).await.unwrap();
    assert_eq!(refused(&catalog, &[create("x", "blue")]).await, ("table_deleting", at(0, "create.table_name")));
}

#[tokio::test]
async fn a_table_takes_its_aliases_with_it_and_no_others() {
    let (_, catalog) = catalog_with(&["blue", "green"]).await;
    let all = [create("a", "blue"), create("b", "green"), create("c", "blue")];
    catalog.change_aliases(&all, false).await.unwrap();
    catalog.delete_open(&name("blue")).await.unwrap();
    assert_eq!(told(&catalog), ["b>green"]);
    catalog.publish(catalog.read().unwrap());
    assert!(catalog.resolve(&name("a")).is_none());
    assert_eq!(catalog.resolve(&name("b")).unwrap().name, name("green"));
    make(&catalog, "a").await.unwrap();
    assert_eq!(refused(&catalog, &[create("a", "green")]).await.0, "table_exists");
}

#[tokio::test]
async fn what_comes_between_reading_and_writing_is_seen() {
    // A table is made under the alias's name, by a program that would have seen the alias.
    let (coordinator, catalog) = catalog_with(&["blue", "green"]).await;
    let record = coordinator.memory.value("collections/green").unwrap().value;
    coordinator.before_next(move |memory| memory.put("collections/live", record));
    let error = catalog.change_aliases(&[create("live", "blue")], false).await.unwrap_err();
    assert_eq!(error.code(), "table_exists");

    // The table is deleted, or marked as one that will be.
    let (coordinator, catalog) = catalog_with(&["blue"]).await;
    coordinator.before_next(|memory| memory.delete("collections/blue"));
    let error = catalog.change_aliases(&[create("live", "blue")], false).await.unwrap_err();
    assert_eq!(error.code(), "table_not_found");

    // An alias is made under the name of the table that is being made.
    let (coordinator, catalog) = catalog_with(&["blue"]).await;
    let aliases = |text: &'static str| move |memory: &Memory| memory.put("aliases", text.as_bytes().to_vec());
    coordinator.before_next(aliases(r#"{"epoch":1,"collections":{"live":"blue"}}"#));
    assert_eq!(make(&catalog, "live").await.unwrap_err().code(), "alias_exists");

    // An alias of the table that is being deleted is made.
    coordinator.before_next(aliases(r#"{"epoch":2,"collections":{"live":"blue","late":"blue"}}"#));
    catalog.delete_open(&name("blue")).await.unwrap();
    assert!(told(&catalog).is_empty());

    // Another change of aliases.
    let (coordinator, catalog) = catalog_with(&["blue"]).await;
    coordinator.before_next(aliases(r#"{"epoch":1,"collections":{"other":"blue"}}"#));
    catalog.change_aliases(&[create("live", "blue")], false).await.unwrap();
    assert_eq!(told(&catalog), ["live>blue", "other>blue"]);
}

#[tokio::test]
async fn there_are_bounds() {
    let (coordinator, catalog) = catalog_with(&["blue", "green"]).await;
    let aliases = |table: &str, n: usize| (0..n).map(|i| create(&format!("{table}{i}"), table)).collect::<Vec<_>>();
    let full = aliases("blue", limits::ALIASES_PER_COLLECTION_MAX);
    for part in full.chunks(limits::ALIAS_CHANGES_MAX) {
        catalog.change_aliases(part, false).await.unwrap();
    }
    assert_eq!(refused(&catalog, &[create("more", "blue")]).await, ("too_many_aliases", Some("changes".to_owned())));
    catalog.change_aliases(&[create("blue0", "green"), create("more", "blue")], false).await.unwrap();
    let all: BTreeMap<String, &str> = (0..limits::ALIASES_MAX).map(|i| (format!("a{i}"), "gone")).collect();
    let stored = serde_json::json!({"epoch": 9, "collections": all});
    coordinator.memory.put(ALIASES, serde_json::to_vec(&stored).unwrap());
    assert_eq!(refused(&catalog, &[create("more", "blue")]).await.0, "too_many_aliases");
    catalog.change_aliases(&[delete("a0"), create("more", "blue")], false).await.unwrap();
}

#[tokio::test]
async fn no_alias_is_made_before_every_node_knows_what_it_is() {
    let (coordinator, catalog) = catalog_with(&["blue"]).await;
    coordinator.memory.put(VERSION, b"2".to_vec());
    let error = catalog.change_aliases(&[create("live", "blue")], false).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Conflict, "version_too_old"));
    assert!(coordinator.memory.value(ALIASES).is_none());
    // Who is alone says so by the version.
    catalog.change_aliases(&[create("live", "blue")], true).await.unwrap();
    assert_eq!(coordinator.memory.value(VERSION).unwrap().value, b"3");
    assert_eq!(told(&catalog), ["live>blue"]);
    coordinator.memory.put(VERSION, b"4".to_vec());
    catalog.change_aliases(&[delete("live")], true).await.unwrap();
    assert_eq!(coordinator.memory.value(VERSION).unwrap().value, b"4", "it is never lowered");
}

#[tokio::test]
async fn a_lost_answer_is_told_as_one_and_an_older_coordinator_is_not_believed() {
    let (coordinator, catalog) = catalog_with(&["blue"]).await;
    for (happens, expected) in [(false, Vec::new()), (true, vec!["live>blue".to_owned()])] {
        coordinator.memory.fail(Fault::LostAfter { commits: 0, happens });
        let error = catalog.change_aliases(&[create("live", "blue")], false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
        assert_eq!(told(&catalog), expected);
    }
    catalog.publish(catalog.read().unwrap());
    coordinator.memory.delete(ALIASES);
    let error = catalog.change_aliases(&[create("live", "blue")], false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn what_was_done_already_is_answered_once_this_node_knows_it() {
    let (coordinator, catalog) = catalog_with(&["blue", "green"]).await;
    catalog.change_aliases(&[create("live", "blue")], false).await.unwrap();
    coordinator.memory.freeze();
    let switched = br#"{"epoch":2,"collections":{"live":"green"}}"#;
    coordinator.memory.put(ALIASES, switched.to_vec());
    let mut catalog = Arc::into_inner(catalog).unwrap();
    catalog.hear_limit = Duration::from_millis(100);
    let again = [create("live", "green")];
    let unknown = catalog.change_aliases(&again, false).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Indeterminate, "{unknown}");
    coordinator.memory.thaw();
    assert_eq!(catalog.change_aliases(&again, false).await.unwrap(), Changed { count: 0, epoch: 2 });
    assert_eq!(told(&catalog), ["live>green"]);
}

#[test]
fn the_stored_form_stays() {
    let stored = br#"{"epoch":3,"collections":{"live":"blue"}}"#;
    let aliases: Aliases = serde_json::from_slice(stored).unwrap();
    assert_eq!((aliases.epoch(), aliases.get(&name("live"))), (3, Some(&name("blue"))));
    assert_eq!(to_json(&aliases), stored);
    assert!(serde_json::from_slice::<Aliases>(br#"{"epoch":3,"collections":{"a/b":"blue"}}"#).is_err());
}
