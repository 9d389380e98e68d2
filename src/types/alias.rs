//! Changes of aliases: other names of tables, under which requests find them. Called by `api` (building requests), `service` and
//! `cluster` (making the changes).

use super::CollectionName;

/// One change. Several are made in one step, in their order, each on what those before it left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AliasChange {
    /// The alias names the table from now on, whatever it named before.
    Create { alias: CollectionName, table: CollectionName },
    /// The alias names nothing any more; one that is not there stays so.
    Delete { alias: CollectionName },
    /// What the alias names has this name instead, whatever that named before.
    Rename { alias: CollectionName, to: CollectionName },
}

impl AliasChange {
    /// The name that is an alias after the change, if one is.
    pub fn named(&self) -> Option<&CollectionName> {
        match self {
            AliasChange::Create { alias, .. } => Some(alias),
            AliasChange::Rename { to, .. } => Some(to),
            AliasChange::Delete { .. } => None,
        }
    }

    /// The table that the change is about, if it says which.
    pub fn table(&self) -> Option<&CollectionName> {
        match self {
            AliasChange::Create { table, .. } => Some(table),
            AliasChange::Delete { .. } | AliasChange::Rename { .. } => None,
        }
    }
}
