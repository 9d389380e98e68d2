//! A cluster held together by etcd: how etcd is reached, which etcd is this cluster's, and how it became so. The first node gives the
//! cluster an identity there, and brings its tables if it had any; every node remembers that identity and the newest shard table it has
//! seen, and does not obey an etcd that tells of another cluster or of an older state of anything that lasts (one restored from a backup):
//! it goes on with what it knows and says so. Called by [`super::coordination`]; the options also by whoever else plugs etcd in.

use super::StartError;
use crate::{
    cluster::{Founded, Members, ShardTable},
    config::{Config, Mode},
    coordination::{
        Change, Committed, Compare, Coordinator, Embedded, Entries, Etcd, KeyValue, OPERATIONS_MAX, Revision, Seen,
        Transaction,
        etcd::{EtcdError, EtcdOptions, EtcdUser},
    },
    raft::NodeId,
    rt::{
        rpc::{Tls, TlsIdentity},
        time,
    },
    types::{Error, ErrorKind},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Where the cluster's identity is kept: 16 hexadecimal digits.
const IDENTITY: &str = "identity";
const TABLE: &str = "table";
const COLLECTIONS: &str = "collections/";
const ALIASES: &str = "aliases";
const VERSION: &str = "settings/version";
/// The file of the data directory that keeps what is known of etcd.
pub const FILE: &str = "etcd";
/// Between two attempts to learn the identity.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Whether a node of `config` has etcd as its coordinator.
pub fn is_used(config: &Config) -> bool {
    config.mode != Mode::Standalone && !config.etcd.endpoints.is_empty()
}

/// The options of `config.etcd`; none if it names no endpoint. Blocking: reads up to three small files.
///
/// # Errors
/// A file of `etcd.tls` cannot be read or used.
pub fn etcd_options(config: &Config) -> Result<Option<EtcdOptions>, StartError> {
    let etcd = &config.etcd;
    if etcd.endpoints.is_empty() {
        return Ok(None);
    }
    let endpoints = etcd.endpoints.iter().map(|endpoint| endpoint.as_str().to_owned()).collect();
    let mut options = EtcdOptions::new(endpoints, config.cluster.name.as_str());
    options.user = etcd.username.as_ref().map(|name| EtcdUser {
        name: name.clone(),
        password: etcd.password.as_ref().map_or_else(String::new, |password| password.reveal().to_owned()),
    });
    if let Some(ca_file) = &etcd.tls.ca_file {
        let authorities = read("etcd.tls.ca_file", ca_file)?;
        let own = match (&etcd.tls.cert_file, &etcd.tls.key_file) {
            (Some(certificates), Some(key)) => {
                Some((read("etcd.tls.cert_file", certificates)?, read("etcd.tls.key_file", key)?))
            }
            _ => None,
        };
        let identity = own.as_ref().map(|(certificates, key)| TlsIdentity { certificates, key });
        let tls = Tls::new(&authorities, identity).map_err(|error| StartError::Etcd(format!("etcd.tls: {error}")))?;
        options.rpc.tls = Some(tls);
    }
    Ok(Some(options))
}

fn read(key: &str, file: &Path) -> Result<Vec<u8>, StartError> {
    std::fs::read(file).map_err(|error| StartError::Etcd(format!("{key}: {}: {error}", file.display())))
}

/// Begins to use the etcd of `config`, as far as it is this cluster's; `file` keeps what is known of it. `brings` is this node if it has
/// tables that no cluster knows yet: then it takes part in no cluster but the one it begins itself.
///
/// # Errors
/// The options cannot be used, or what is kept is damaged.
pub fn open(config: &Config, file: PathBuf, brings: Option<NodeId>) -> Result<Etcd, StartError> {
    let options = etcd_options(config)?.ok_or_else(|| StartError::Etcd("etcd.endpoints names none".to_owned()))?;
    let brought = brings.map(identity);
    let vet = move |known: &Entries, found: &Seen| vet(known, &found.entries, found.revision, brought.as_deref());
    Etcd::open_vetted(&options, file, Arc::new(vet)).map_err(not_begun)
}

fn not_begun(error: EtcdError) -> StartError {
    match error {
        EtcdError::Options(error) => StartError::Etcd(format!("etcd.endpoints: {error}")),
        EtcdError::Store(error) => StartError::Store(error),
    }
}

/// The etcd of `config` for a process that only looks who is there; none if it names no endpoint. The first cluster that it tells of is
/// believed until the process ends.
///
/// # Errors
/// The options cannot be used.
pub fn looked_at(config: &Config) -> Result<Option<Etcd>, StartError> {
    let Some(options) = etcd_options(config)? else { return Ok(None) };
    let vet = |known: &Entries, found: &Seen| vet(known, &found.entries, found.revision, None);
    Etcd::open_unkept(&options, Arc::new(vet)).map(Some).map_err(not_begun)
}

/// Whether a node whose data directory keeps this belongs to a cluster in etcd.
///
/// # Errors
/// What is kept cannot be read.
pub fn belongs(file: &Path) -> Result<bool, StartError> {
    Ok(Etcd::kept(file)?.contains_key(IDENTITY))
}

/// The identity of a cluster that this node begins: the same however often it is tried.
fn identity(node: NodeId) -> String {
    format!("{:016x}", Founded::by(vec![node]).cluster_id)
}

/// Whether what etcd holds, as of a revision, may follow what this node knows; `brought` is the identity of the only cluster it may come
/// to know first.
fn vet(known: &Entries, found: &Entries, as_of: Revision, brought: Option<&str>) -> Result<(), String> {
    let Some(ours) = known.get(IDENTITY).map(text) else { return vet_first(found, brought) };
    match found.get(IDENTITY).map(text) {
        Some(theirs) if theirs == ours => {}
        Some(theirs) => {
            return Err(format!("this etcd holds cluster {theirs}, but this node belongs to cluster {ours}"));
        }
        None => return Err(format!("this etcd knows nothing of cluster {ours}, which this node belongs to")),
    }
    let (ours, theirs) = (epoch(known)?, epoch(found)?);
    let differs = || known.get(TABLE).map(|kv| &kv.value) != found.get(TABLE).map(|kv| &kv.value);
    if theirs < ours {
        return Err(format!(
            "the shard table in etcd has epoch {theirs}, but this node has seen epoch {ours}: was etcd restored from an old backup?"
        ));
    }
    if theirs == ours && differs() {
        return Err(format!(
            "the shard table in etcd has epoch {theirs}, but is not the one this node has seen: was etcd restored from an old backup?"
        ));
    }
    match known.values().find(|ours| is_newer(ours, found, as_of)) {
        None => Ok(()),
        Some(KeyValue { key, revision, .. }) => Err(format!(
            "{key} in etcd is not as new as this node has seen it (revision {revision}): was etcd restored from an old backup?"
        )),
    }
}

/// Whether a key that this node has seen cannot have been so before what etcd holds.
fn is_newer(ours: &KeyValue, found: &Entries, as_of: Revision) -> bool {
    match found.get(&ours.key) {
        // The same value is as good under any revision: an etcd with the same content counts its own.
        Some(theirs) => theirs.revision <= ours.revision && theirs.value != ours.value,
        // What was deleted, was so later.
        None => as_of <= ours.revision,
    }
}

/// The same where this node belongs to no cluster yet.
fn vet_first(found: &Entries, brought: Option<&str>) -> Result<(), String> {
    match (found.get(IDENTITY).map(text), brought) {
        (Some(theirs), Some(brought)) if theirs != brought => Err(format!(
            "this node has tables of its own, but etcd holds cluster {theirs} already: start the node with another cluster.name to \
             begin a cluster with them, or with an empty data directory to join this one"
        )),
        (None, _) if found.contains_key(TABLE) => Err("etcd holds a shard table, but not whose it is".to_owned()),
        _ => Ok(()),
    }
}

fn text(kv: &KeyValue) -> String {
    String::from_utf8_lossy(&kv.value).into_owned()
}

/// The epoch of a table; 0 where there is none yet.
fn epoch(entries: &Entries) -> Result<u64, String> {
    let Some(stored) = entries.get(TABLE) else { return Ok(0) };
    let table: ShardTable =
        serde_json::from_slice(&stored.value).map_err(|error| format!("the shard table cannot be read: {error}"))?;
    Ok(table.epoch)
}

/// The cluster that a node remembers from etcd; none before it has ever known.
///
/// # Errors
/// `Corrupt`.
pub fn remembered(etcd: &Etcd) -> Result<Option<Founded>, Error> {
    let known = etcd.remembered(IDENTITY).map_err(crate::cluster::catalog::coordination)?;
    let Some(identity) = known.iter().find(|kv| kv.key == IDENTITY) else { return Ok(None) };
    let cluster_id = u64::from_str_radix(&text(identity), 16).map_err(|_| {
        Error::new(ErrorKind::Corrupt, "identity", format!("the cluster's identity is none: {}", text(identity)))
    })?;
    Ok(Some(Founded { cluster_id, founders: Vec::new() }))
}

/// Learns which cluster this is, or makes it one that `node` begins with what it has of its `own`. Returns when that is known.
///
/// # Errors
/// The node cannot belong to the cluster in etcd, or has more than can be brought there.
pub async fn learn(etcd: &Etcd, node: NodeId, own: Option<&Embedded>, members: &Members) -> Result<(), StartError> {
    let mut told = None;
    loop {
        if let Some(founded) = remembered(etcd)? {
            members.found(founded);
            return Ok(());
        }
        if let Some(why) = etcd.alarm() {
            return Err(StartError::Etcd(why.to_string()));
        }
        match etcd.get(IDENTITY).await {
            Ok(None) => found(etcd, node, own).await?,
            // It is remembered in a moment.
            Ok(Some(_)) => {}
            // Once for each reason: it may take days.
            Err(error) if told.as_ref() != Some(&error) => {
                tracing::info!(%error, "etcd does not say yet which cluster this is");
                told = Some(error);
            }
            Err(_) => {}
        }
        time::sleep(RETRY_INTERVAL).await;
    }
}

/// Whether a node that was alone has tables.
///
/// # Errors
/// `Corrupt`.
pub fn has_tables(own: &Embedded) -> Result<bool, Error> {
    Ok(!own.remembered(COLLECTIONS).map_err(crate::cluster::catalog::coordination)?.is_empty())
}

/// What a node knew of tables, their aliases and shards when it was alone: also which shard ids it has given out before, and which
/// version of the cluster's protocols whoever comes must speak to understand it.
fn tables(own: Option<&Embedded>) -> Result<Vec<KeyValue>, Error> {
    let Some(own) = own else { return Ok(Vec::new()) };
    let all = own.remembered("").map_err(crate::cluster::catalog::coordination)?;
    let is_brought = |key: &str| key.starts_with(COLLECTIONS) || [TABLE, ALIASES, VERSION].contains(&key);
    Ok(all.into_iter().filter(|kv| is_brought(&kv.key)).collect())
}

/// Gives the cluster an identity, and what this node has; nothing happens if another node was first.
async fn found(etcd: &Etcd, node: NodeId, own: Option<&Embedded>) -> Result<(), StartError> {
    let brought = tables(own)?;
    if brought.len() >= OPERATIONS_MAX {
        let tables = brought.iter().filter(|kv| kv.key.starts_with(COLLECTIONS)).count();
        let (got, limit) = (tables, OPERATIONS_MAX - 1 - (brought.len() - tables));
        let why = format!("this node has {got} tables, of which at most {limit} can be brought into etcd at once");
        return Err(StartError::Etcd(why));
    }
    let (identity, tables) = (identity(node), brought.len());
    let changes = brought.into_iter().map(|kv| Change::Put(kv.key, kv.value));
    let transaction = Transaction {
        compares: [IDENTITY, TABLE].map(|key| Compare::Absent(key.to_owned())).into(),
        changes: changes.chain([Change::Put(IDENTITY.to_owned(), identity.clone().into_bytes())]).collect(),
    };
    match etcd.commit(transaction).await {
        Ok(Committed::At(_)) => tracing::info!(identity, tables, "the cluster begins in etcd"),
        Ok(Committed::Refused) => {}
        Err(error) => tracing::info!(%error, "the cluster could not be begun in etcd yet"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Assignment, Sources, load};

    fn configured(settings: &[(&str, &str)]) -> Config {
        let flags = settings.iter().map(|(key, value)| Assignment::named("--set", key, *value)).collect();
        let read = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        load(&Sources { file: None, variables: Vec::new(), flags, read: &read }).unwrap().config
    }

    fn entries(identity: Option<&str>, epoch: u64) -> Entries {
        // Its revision is that of the epoch.
        let kv = |key: &str, value: Vec<u8>| {
            let revision = if key == TABLE { epoch } else { 1 };
            KeyValue { key: key.to_owned(), value, revision, created: 1, lease: None }
        };
        let table = serde_json::to_vec(&ShardTable { epoch, ..ShardTable::default() }).unwrap();
        let identity = identity.map(|identity| kv(IDENTITY, identity.as_bytes().to_vec()));
        identity.into_iter().chain([kv(TABLE, table)]).map(|kv| (kv.key.clone(), kv)).collect()
    }

    #[test]
    fn another_clusters_etcd_and_an_older_one_are_not_obeyed() {
        let (ours, theirs) = ("00000000000000aa", "00000000000000bb");
        let known = entries(Some(ours), 7);
        assert_eq!(vet(&known, &entries(Some(ours), 8), 1, None), Ok(()));
        assert_eq!(vet(&known, &known, 1, Some(theirs)), Ok(()), "what is known counts");
        let mut other = entries(Some(ours), 7);
        other.get_mut(TABLE).unwrap().value.push(b' ');
        for (found, part) in [
            (entries(Some(theirs), 9), "holds cluster 00000000000000bb"),
            (entries(None, 9), "knows nothing of cluster"),
            (Entries::new(), "knows nothing"),
            (entries(Some(ours), 6), "has seen epoch 7: was etcd restored from an old backup?"),
            (other, "is not the one this node has seen"),
        ] {
            assert!(vet(&known, &found, 1, None).unwrap_err().contains(part), "{part}");
        }
    }

    #[test]
    fn no_lasting_key_may_be_older_than_it_is_known() {
        let ours = "00000000000000aa";
        let with = |others: &[(&str, u64, &str)]| {
            let mut all = entries(Some(ours), 7);
            for (key, revision, value) in others {
                let (key, value) = ((*key).to_owned(), value.as_bytes().to_vec());
                all.insert(key.clone(), KeyValue { key, value, revision: *revision, created: 1, lease: None });
            }
            all
        };
        let known = with(&[("members/1", 20, "drained"), ("settings/version", 30, "2")]);
        let judged = |found: &[(&str, u64, &str)], as_of| vet(&known, &with(found), as_of, None);
        let (member, version) = (("members/1", 20, "drained"), ("settings/version", 30, "2"));
        assert_eq!(judged(&[member, version], 30), Ok(()));
        assert_eq!(judged(&[("members/1", 40, "active"), version, ("new", 41, "")], 41), Ok(()), "it went on");
        assert_eq!(judged(&[member], 31), Ok(()), "deleted since");
        let copied = [("members/1", 2, "drained"), ("settings/version", 3, "2")];
        assert_eq!(judged(&copied, 3), Ok(()), "a copy that holds the same takes no knowledge away");
        for (found, as_of, part) in [
            (vec![("members/1", 10, "active"), version], 50, "members/1 in etcd"),
            (vec![("members/1", 20, "active"), version], 50, "members/1 in etcd"),
            (vec![member], 29, "settings/version in etcd"),
            (vec![member, ("settings/version", 9, "1")], 60, "settings/version in etcd"),
        ] {
            let refused = judged(&found, as_of).unwrap_err();
            assert!(refused.contains(part) && refused.contains("old backup?"), "{refused}");
        }
    }

    #[test]
    fn a_node_with_tables_of_its_own_joins_nobody() {
        let own = identity(7);
        assert_eq!(own, identity(7), "tried again it is the same cluster");
        assert_ne!(own, identity(8));
        let none = Entries::new();
        assert_eq!(vet(&none, &none, 1, Some(&own)), Ok(()));
        assert_eq!(vet(&none, &entries(Some(&own), 3), 1, Some(&own)), Ok(()));
        assert_eq!(vet(&none, &entries(Some(&identity(8)), 3), 1, None), Ok(()));
        let refused = vet(&none, &entries(Some(&identity(8)), 3), 1, Some(&own)).unwrap_err();
        assert!(refused.contains("has tables of its own"), "{refused}");
        assert!(vet(&none, &entries(None, 3), 1, None).unwrap_err().contains("not whose it is"));
    }

    #[test]
    fn what_the_configuration_says_is_taken_over() {
        assert!(etcd_options(&Config::default()).unwrap().is_none());
        let endpoints = ("etcd.endpoints", "a:1,http://b:2");
        let config = configured(&[endpoints, ("etcd.username", "u"), ("etcd.password", "p"), ("cluster.name", "c")]);
        let options = etcd_options(&config).unwrap().unwrap();
        let user = options.user.unwrap();
        assert_eq!((&user.name[..], &user.password[..], &options.cluster[..]), ("u", "p", "c"));
        assert_eq!(options.endpoints, ["a:1", "http://b:2"]);
        assert!(options.rpc.tls.is_none());
        let missing = configured(&[endpoints, ("etcd.tls.ca_file", "/nowhere/ca.pem")]);
        let refused = etcd_options(&missing).unwrap_err().to_string();
        assert!(refused.contains("etcd.tls.ca_file: /nowhere/ca.pem: "), "{refused}");
    }
}
