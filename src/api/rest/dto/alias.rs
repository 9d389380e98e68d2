//! Aliases of tables, in and out.

use crate::{
    service::{AliasInfo, AliasesChanged},
    types::{AliasChange, CollectionName, Error},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Changes of aliases, made in their order, all or none, in one step.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"changes": [{"create": {"alias_name": "films", "table_name": "films_v2"}}]}))]
pub struct AliasesBody {
    pub changes: Vec<AliasChangeBody>,
}

/// One change.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AliasChangeBody {
    /// The alias names the table from now on, whatever it named before.
    Create(AliasCreateBody),
    /// The alias names nothing any more; one that is not there stays so.
    Delete(AliasDeleteBody),
    /// What the alias names is named so instead, whatever the new name named before.
    Rename(AliasRenameBody),
}

/// An alias and what it is to name.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AliasCreateBody {
    pub alias_name: String,
    pub table_name: String,
}

/// An alias that is to go.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AliasDeleteBody {
    pub alias_name: String,
}

/// An alias and its new name.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AliasRenameBody {
    pub alias_name: String,
    pub new_alias_name: String,
}

impl AliasesBody {
    /// The changes asked for.
    ///
    /// # Errors
    /// `bad_table_name`, with the place in the body.
    pub fn into_changes(self) -> Result<Vec<AliasChange>, Error> {
        let change = |(row, body): (usize, AliasChangeBody)| {
            body.into_change().map_err(|error| error.at(format!("changes[{row}]")))
        };
        self.changes.into_iter().enumerate().map(change).collect()
    }
}

impl AliasChangeBody {
    fn into_change(self) -> Result<AliasChange, Error> {
        let name =
            |change: &str, field: &str, text| CollectionName::new(text).map_err(|error| error.at(field).at(change));
        Ok(match self {
            AliasChangeBody::Create(AliasCreateBody { alias_name, table_name }) => AliasChange::Create {
                alias: name("create", "alias_name", alias_name)?,
                table: name("create", "table_name", table_name)?,
            },
            AliasChangeBody::Delete(AliasDeleteBody { alias_name }) => {
                AliasChange::Delete { alias: name("delete", "alias_name", alias_name)? }
            }
            AliasChangeBody::Rename(AliasRenameBody { alias_name, new_alias_name }) => AliasChange::Rename {
                alias: name("rename", "alias_name", alias_name)?,
                to: name("rename", "new_alias_name", new_alias_name)?,
            },
        })
    }
}

/// An alias.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"alias_name": "films", "table_name": "films_v2"}))]
pub struct AliasAnswer {
    pub alias_name: String,
    /// The table it names.
    pub table_name: String,
}

impl From<&AliasInfo> for AliasAnswer {
    fn from(info: &AliasInfo) -> AliasAnswer {
        AliasAnswer { alias_name: info.alias.to_string(), table_name: info.table.to_string() }
    }
}

/// Aliases, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct AliasesAnswer {
    pub aliases: Vec<AliasAnswer>,
}

impl From<Vec<AliasInfo>> for AliasesAnswer {
    fn from(infos: Vec<AliasInfo>) -> AliasesAnswer {
        AliasesAnswer { aliases: infos.iter().map(AliasAnswer::from).collect() }
    }
}

/// What came of changes of aliases.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"changed": 1, "behind": []}))]
pub struct AliasesChangedAnswer {
    /// Aliases that are otherwise than before.
    pub changed: usize,
    /// Nodes that did not say that they have heard of the change, and may go by the aliases before until they do. Empty: whoever
    /// asks any node from now on is served by the new ones.
    pub behind: Vec<String>,
}

impl From<AliasesChanged> for AliasesChangedAnswer {
    fn from(AliasesChanged { changed, behind }: AliasesChanged) -> AliasesChangedAnswer {
        AliasesChangedAnswer { changed, behind }
    }
}
