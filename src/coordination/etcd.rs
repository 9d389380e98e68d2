//! The coordinator in an etcd of its own (3.4 and later): the same promises as [`Embedded`](super::Embedded), kept by etcd. Everything
//! lies below `/vectorsphere/{cluster}/`. A member that fails is left for the next endpoint; what the cluster's keys were is kept in a
//! file, so that a node can start and go on while etcd is away. Built and plugged in by `node`.
//!
//! The wire is etcd's own (`proto/etcd/v3.proto`), generated like the rest of our protocols, over [`rpc`](crate::rt::rpc): no `protoc`,
//! no second transport, and the very same client in the simulation.

mod client;
mod convert;
mod memory;
mod watch;

/// etcd's messages, and its services from both sides: the server's is for those who stand in for etcd.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod proto {
    tonic::include_proto!("etcdserverpb");
}

pub use client::{EtcdOptions, EtcdUser, InvalidEtcd};

use super::{
    BoxFuture, Committed, CoordinationError, Coordinator, KeptAlive, KeyValue, LeaseId, Listed, Mirror, Revision,
    Transaction, Watch, bounds, prefix::Prefix,
};
use crate::{
    rt::{self, Shutdown},
    store::StoreError,
};
use client::Client;
use memory::Memory;
use std::{path::PathBuf, sync::Arc, time::Duration};
use watch::EtcdWatch;

/// See the module.
pub struct Etcd {
    client: Arc<Client>,
    prefix: Prefix,
    memory: Arc<Memory>,
    stop: Shutdown,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

/// Why etcd could not be begun with.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// The options are wrong.
    #[error(transparent)]
    Options(#[from] InvalidEtcd),
    /// What is remembered cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Etcd {
    /// Begins to use etcd; `file` keeps what is remembered. Asks nobody yet. To be called inside the executor.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub fn open(options: &EtcdOptions, file: PathBuf) -> Result<Etcd, EtcdError> {
        let prefix = Prefix::of(&options.cluster);
        let client = Arc::new(Client::new(options)?);
        let memory = Arc::new(Memory::open(file)?);
        // The mirror's own handle: it keeps neither the mirror nor the file alive.
        let inner =
            Etcd { client: client.clone(), prefix: prefix.clone(), memory: memory.clone(), stop: Shutdown::new() };
        let mirror = Mirror::follow(Arc::new(inner), "");
        let etcd = Etcd { client, prefix, memory, stop: Shutdown::new() };
        drop(rt::spawn("etcd-memory", memory::keep(mirror, etcd.memory.clone(), etcd.stop.clone())));
        Ok(etcd)
    }

    async fn range(&self, key: Vec<u8>, range_end: Vec<u8>) -> Result<Listed, CoordinationError> {
        let request = proto::RangeRequest { key, range_end, ..proto::RangeRequest::default() };
        let response = self.client.range(request).await?;
        let entries = response.kvs.into_iter().map(|kv| convert::key_value(&self.prefix, kv));
        Ok(Listed {
            revision: convert::revision(response.header.as_ref())?,
            entries: entries.collect::<Result<_, _>>()?,
        })
    }
}

impl Coordinator for Etcd {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<KeyValue>, CoordinationError>> {
        Box::pin(async move {
            let mut found = self.range(self.prefix.stored(key).into_bytes(), Vec::new()).await?;
            Ok(found.entries.pop())
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listed, CoordinationError>> {
        Box::pin(async move {
            let beginning = self.prefix.stored(prefix);
            self.range(beginning.clone().into_bytes(), convert::range_end(&beginning)).await
        })
    }

    fn remembered(&self, prefix: &str) -> Result<Vec<KeyValue>, CoordinationError> {
        Ok(self.memory.list(prefix))
    }

    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Committed, CoordinationError>> {
        Box::pin(async move {
            let transaction = self.prefix.stored_transaction(transaction);
            bounds::check(&transaction)?;
            let response = self.client.txn(&transaction).await?;
            match response.succeeded {
                true => Ok(Committed::At(convert::revision(response.header.as_ref())?)),
                false => Ok(Committed::Refused),
            }
        })
    }

    fn watch(&self, prefix: &str, after: Revision) -> Box<dyn Watch> {
        Box::new(EtcdWatch::new(self.client.clone(), self.prefix.clone(), prefix, after))
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, CoordinationError>> {
        Box::pin(async move {
            let ttl_ms = bounds::ttl_ms(ttl)?;
            self.client.grant(ttl_ms.div_ceil(1000)).await
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<KeptAlive, CoordinationError>> {
        Box::pin(async move { self.client.keep_alive(lease).await })
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), CoordinationError>> {
        Box::pin(async move { self.client.revoke(lease).await })
    }
}
