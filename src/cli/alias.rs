//! `vectorsphere table alias list|set|rename|delete` against a server's native REST API. Called by `cli::table`.

use super::{
    CliError, Context, ExitCode,
    client::{Alias, AliasesChanged, ApiClient},
    listing::left,
};
use clap::Subcommand;
use serde_json::{Value, json};

/// What to do with aliases: other names of tables.
#[derive(Clone, Debug, Subcommand)]
pub enum AliasCommand {
    /// List the aliases.
    List {
        /// Of this table only, named by itself or by an alias.
        table: Option<String>,
    },
    /// Let aliases name tables, all in one step: new ones, or those that named other tables until now.
    Set {
        /// Alias and table.
        #[arg(required = true, value_name = "ALIAS=TABLE")]
        pairs: Vec<String>,
    },
    /// Give an alias another name.
    Rename {
        /// The alias.
        alias: String,
        /// Its name from now on; what had it before loses it.
        to: String,
    },
    /// Delete aliases, all in one step. Their tables stay.
    Delete {
        /// The aliases.
        #[arg(required = true, value_name = "ALIAS")]
        aliases: Vec<String>,
    },
}

/// Runs the command.
///
/// # Errors
/// What the server refuses, or that there is none; exit code 2 for a pair without `=`.
pub async fn run(command: AliasCommand, client: &ApiClient, context: &Context) -> Result<ExitCode, CliError> {
    let changes = match command {
        AliasCommand::List { table } => {
            let aliases = client.aliases(table.as_deref()).await?;
            context.print(&json!({ "aliases": &aliases }), || listed(&aliases))?;
            return Ok(ExitCode::Ok);
        }
        AliasCommand::Set { pairs } => pairs.iter().map(|pair| set(pair)).collect::<Result<Vec<Value>, _>>()?,
        AliasCommand::Rename { alias, to } => vec![json!({"rename": {"alias_name": alias, "new_alias_name": to}})],
        AliasCommand::Delete { aliases } => {
            aliases.iter().map(|alias| json!({"delete": {"alias_name": alias}})).collect()
        }
    };
    let changed = client.change_aliases(json!(changes)).await?;
    context.print(&changed, || told(&changed))?;
    Ok(ExitCode::Ok)
}

fn set(pair: &str) -> Result<Value, CliError> {
    let (alias, table) = pair.split_once('=').ok_or_else(|| CliError::usage(format!("{pair:?} is not ALIAS=TABLE")))?;
    Ok(json!({"create": {"alias_name": alias, "table_name": table}}))
}

fn listed(aliases: &[Alias]) -> String {
    if aliases.is_empty() {
        return "no aliases; `vectorsphere table alias set ALIAS=TABLE` makes one\n".to_owned();
    }
    let row = |alias: &Alias| vec![alias.alias_name.clone(), alias.table_name.clone()];
    left(&["ALIAS", "TABLE"], &aliases.iter().map(row).collect::<Vec<_>>())
}

fn told(changed: &AliasesChanged) -> String {
    let mut text = match changed.changed {
        0 => "nothing to change\n".to_owned(),
        1 => "1 alias changed\n".to_owned(),
        more => format!("{more} aliases changed\n"),
    };
    if !changed.behind.is_empty() {
        text += &format!("these nodes may not have heard of it yet: {}\n", changed.behind.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{
        OutputFormat,
        client::Patience,
        fake::{Fake, World},
    };

    #[tokio::test]
    async fn aliases_are_set_listed_renamed_and_deleted() {
        let fake = Fake::start(World::default()).await;
        let context = Context { endpoint: fake.endpoint.clone(), output: OutputFormat::Json };
        let client = ApiClient::new(&fake.endpoint, Patience::NONE).unwrap();
        let pairs = vec!["live=blue".to_owned(), "next=green".to_owned()];
        let commands = [
            (AliasCommand::Set { pairs }, [("live", "blue"), ("next", "green")].to_vec()),
            (AliasCommand::Rename { alias: "next".into(), to: "live".into() }, [("live", "green")].to_vec()),
            (AliasCommand::Delete { aliases: vec!["live".into(), "other".into()] }, [].to_vec()),
        ];
        for (command, expected) in commands {
            assert_eq!(run(command, &client, &context).await.unwrap(), ExitCode::Ok);
            let aliases = client.aliases(None).await.unwrap();
            let shown: Vec<(&str, &str)> =
                aliases.iter().map(|one| (one.alias_name.as_str(), one.table_name.as_str())).collect();
            assert_eq!(shown, expected);
        }
        let bad = run(AliasCommand::Set { pairs: vec!["live".into()] }, &client, &context).await.unwrap_err();
        assert_eq!((bad.exit_code, bad.message.contains("ALIAS=TABLE")), (2, true));
        run(AliasCommand::List { table: None }, &client, &context).await.unwrap();
    }

    #[test]
    fn what_came_of_it_is_told() {
        let alias = Alias { alias_name: "live".into(), table_name: "blue".into() };
        assert_eq!(listed(&[alias]), "ALIAS  TABLE\nlive   blue\n");
        assert!(listed(&[]).starts_with("no aliases"));
        let behind = AliasesChanged { changed: 2, behind: vec!["a".into(), "b".into()] };
        assert_eq!(told(&behind), "2 aliases changed\nthese nodes may not have heard of it yet: a, b\n");
        assert_eq!(told(&AliasesChanged { changed: 0, behind: Vec::new() }), "nothing to change\n");
    }
}
