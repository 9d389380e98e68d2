//! `conf/default.yaml`: every key with its meaning and default, carried inside the program.
//!
//! Promise: the file is exactly what the table of keys says (a test compares them byte for byte), so laying it under
//! another configuration changes nothing, but that ports it names follow no other (`seeds::ports_beside`). Shown by `config show --defaults` as a start for one's own file.

/// The text of `conf/default.yaml`.
pub const DEFAULT_YAML: &str = include_str!("../../conf/default.yaml");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::{Effect, KEYS, Key};
    use crate::config::model::Config;
    use crate::config::{Origin, Sources, load};

    const COLUMNS: usize = 110;
    const HEAD: &str = "\
# Every key of VectorSphere with its default. Copy what you change into a file of your own and start with
# `vectorsphere serve --config FILE`; what a file leaves out keeps the value below.
#
# Layers, each over the one before: these defaults, the --config file (.yaml, .toml or .ini), <environment>.yaml beside
# it, variables such as VECTORSPHERE__LOG__LEVEL=debug, flags such as --set log.level=debug.
# `vectorsphere config show --origin` tells where each value comes from, `config explain KEY` what it means.
#
# This file is written from the table of keys (src/config/keys.rs): BLESS=1 cargo test default_file
";

    fn comment(indent: &str, text: &str) -> String {
        let mut lines = String::new();
        let mut line = format!("{indent}#");
        for word in text.split_whitespace() {
            if line.len() + 1 + word.len() > COLUMNS {
                lines += &line;
                lines += "\n";
                line = format!("{indent}#");
            }
            line += " ";
            line += word;
        }
        lines + &line + "\n"
    }

    fn lines_of(key: &Key, defaults: &Config, sections_before: &[&str]) -> String {
        let parts: Vec<&str> = key.name.split('.').collect();
        let (leaf, sections) = parts.split_last().expect("a name has a part");
        let mut text = String::new();
        for (depth, section) in sections.iter().enumerate() {
            if sections_before.get(depth) != Some(section) {
                text += &format!("\n{}{section}:\n", "  ".repeat(depth));
            }
        }
        let indent = "  ".repeat(sections.len());
        if sections.is_empty() {
            text += "\n";
        }
        text += &comment(&indent, key.help);
        if let Effect::Later(reason) = key.effect {
            text += &comment(&indent, &format!("No effect yet: {reason}."));
        }
        text + &format!("{indent}{leaf}: {}\n", key.value(defaults))
    }

    fn rendered() -> String {
        let defaults = Config::default();
        let mut text = HEAD.to_owned();
        let mut sections: Vec<&str> = Vec::new();
        for key in KEYS {
            text += &lines_of(key, &defaults, &sections);
            sections = key.name.split('.').collect();
            sections.pop();
        }
        text
    }

    #[test]
    fn the_file_is_what_the_code_says() {
        let rendered = rendered();
        if std::env::var_os("BLESS").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/default.yaml");
            std::fs::write(path, &rendered).expect("conf/default.yaml can be written");
        } else {
            assert!(rendered == DEFAULT_YAML, "conf/default.yaml is behind the code: BLESS=1 cargo test default_file");
        }
    }

    #[test]
    fn the_file_sets_every_key_to_its_default() {
        let read = |_: &std::path::Path| Ok(DEFAULT_YAML.to_owned());
        let sources =
            Sources { file: Some("default.yaml".into()), variables: Vec::new(), flags: Vec::new(), read: &read };
        let loaded = load(&sources).expect("the defaults are a good configuration");
        assert_eq!(loaded.config, Config::default());
        assert_eq!(loaded.notices, []);
        for key in KEYS {
            let line = match loaded.origin(key.name) {
                Origin::File { line, .. } => *line,
                other => panic!("{} comes from {other}", key.name),
            };
            let before = DEFAULT_YAML.lines().nth(line - 2).expect("a line before");
            assert!(before.trim_start().starts_with("# "), "{} has no comment", key.name);
        }
    }
}
