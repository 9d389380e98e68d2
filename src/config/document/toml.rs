//! TOML read into entries, with lines found from the byte positions the parser keeps. Called by `config::document`.

use super::{Entry, Malformed, join};
use crate::config::value::Value;
use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};

pub(super) fn parse(text: &str) -> Result<Vec<Entry>, Malformed> {
    let table = DeTable::parse(text).map_err(|error| Malformed {
        line: error.span().map_or(0, |span| line_of(text, span.start)),
        // The message alone: the full display quotes the line, which may hold a secret.
        reason: error.message().replace('\n', "; "),
    })?;
    let mut entries = Vec::new();
    flatten(text, "", table.get_ref(), &mut entries)?;
    // The parser's map is in alphabetical order; the file's order reads better in error lists.
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

fn flatten(text: &str, section: &str, table: &DeTable<'_>, entries: &mut Vec<Entry>) -> Result<(), Malformed> {
    for (key, value) in table {
        let name = join(section, key.get_ref());
        let line = line_of(text, key.span().start);
        match value.get_ref() {
            DeValue::Table(inner) => flatten(text, &name, inner, entries)?,
            _ => entries.push(Entry { key: name, value: convert(value, line)?, line }),
        }
    }
    Ok(())
}

fn convert(value: &Spanned<DeValue<'_>>, line: usize) -> Result<Value, Malformed> {
    let number_refused = |_| Malformed { line, reason: "number out of range".to_owned() };
    Ok(match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => {
            // The parser has taken out underscores and the 0x, 0o, 0b prefix.
            i128::from_str_radix(number.as_str(), number.radix()).map(Value::Integer).map_err(|_| number_refused(()))?
        }
        DeValue::Float(number) => number.as_str().parse().map(Value::Float).map_err(|_| number_refused(()))?,
        DeValue::Boolean(flag) => Value::Bool(*flag),
        // No key is a point in time; as text it is refused by whoever reads it, with the text in the message.
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(items) => Value::List(items.iter().map(|item| convert(item, line)).collect::<Result<_, _>>()?),
        DeValue::Table(_) => Value::Mapping,
    })
}

fn line_of(text: &str, position: usize) -> usize {
    let before = &text.as_bytes()[..position.min(text.len())];
    1 + before.iter().filter(|&&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_kept() {
        let text = "a = 1_000\nb = 0x10\nc = 1.5\nd = true\ne = [1, {x = 1}]\nf = 1979-05-27\ng = -3\n";
        let values: Vec<_> = parse(text).expect("good TOML").into_iter().map(|entry| entry.value).collect();
        assert_eq!(
            values,
            [
                Value::Integer(1000),
                Value::Integer(16),
                Value::Float(1.5),
                Value::Bool(true),
                Value::List(vec![Value::Integer(1), Value::Mapping]),
                Value::Text("1979-05-27".into()),
                Value::Integer(-3),
            ]
        );
    }
}
