//! JSON Lines: one object a line, its vector a list of numbers. Streaming, at most one line in memory; the vector is read
//! straight into floats, never as JSON values. A line that is not such an object is a fault of its row, not of the file.
//! Called by `import`.

use super::{
    fault::{ReadError, RowFault},
    format::Format,
    lines::{Line, LineReader},
    row::{Record, Row, RowId, RowReader},
    schema::{
        COLUMNS_MAX, ColumnSample, ColumnType, IdSource, SAMPLE_ROWS, Schema, SchemaChoice, VectorSource, assign,
    },
};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::{borrow::Cow, fmt, path::Path};

/// Infers the schema from the first [`SAMPLE_ROWS`] parsable lines.
pub fn inspect(path: &Path, choice: &SchemaChoice) -> Result<Schema, ReadError> {
    let mut lines = LineReader::open(path)?;
    let bytes = lines.bytes();
    let mut columns: Vec<ColumnSample> = Vec::new();
    let mut sampled = 0;
    while sampled < SAMPLE_ROWS {
        let Some(line) = lines.next_line()? else { break };
        let Line::Text { text, .. } = line else { continue };
        if let Ok(Value::Object(object)) = serde_json::from_str(text) {
            sample(&mut columns, &object);
            sampled += 1;
        }
        if columns.len() > COLUMNS_MAX {
            let (field, max, got) = ("the number of different keys", COLUMNS_MAX as u64, columns.len() as u64);
            return Err(ReadError::TooLarge { path: path.to_owned(), field, max, got });
        }
    }
    if sampled == 0 {
        return Err(ReadError::schema(path, "no line is a JSON object"));
    }
    let roles = assign(path, &columns, choice)?;
    Ok(Schema {
        format: Format::Jsonl,
        rows: None,
        bytes,
        dimension: roles.dimension,
        id: roles.id,
        vector: roles.vector,
        metadata: roles.metadata,
        metadata_object: roles.metadata_object,
        metadata_open: choice.metadata_columns.is_none(),
        delimiter: None,
        has_header: None,
    })
}

fn sample(columns: &mut Vec<ColumnSample>, object: &Map<String, Value>) {
    for (name, value) in object {
        let Some(r#type) = ColumnType::of(value) else { continue };
        let at = columns.iter().position(|column| column.name == *name).unwrap_or_else(|| {
            columns.push(ColumnSample { name: name.clone(), ..ColumnSample::default() });
            columns.len() - 1
        });
        let column = &mut columns[at];
        column.r#type = Some(column.r#type.map_or(r#type, |known| known.join(r#type)));
        column.values += 1;
        column.objects += u32::from(value.is_object());
        column.ids += u32::from(id_of(value).is_ok());
        if let Some(list) = value.as_array().filter(|list| list.iter().all(Value::is_number)) {
            *column.lists.entry(list.len()).or_default() += 1;
        }
    }
}

/// The rows of a JSON Lines file. Blank lines are not rows.
#[derive(Debug)]
pub struct JsonlReader {
    lines: LineReader,
    schema: Schema,
    next: u64,
}

impl JsonlReader {
    pub fn open(path: &Path, schema: &Schema) -> Result<JsonlReader, ReadError> {
        Ok(JsonlReader { lines: LineReader::open(path)?, schema: schema.clone(), next: 0 })
    }
}

impl RowReader for JsonlReader {
    fn next_row(&mut self) -> Result<Option<Row>, ReadError> {
        let number = self.next;
        let Some(line) = self.lines.next_line()? else { return Ok(None) };
        self.next += 1;
        let content = match line {
            Line::Text { number: line, text } => {
                parse(number, text, &self.schema).map_err(|fault| fault.on_line(line, text))
            }
            Line::Bad { number: line, code, message } => Err(RowFault::new(number, code, message).on_line(line, "")),
        };
        Ok(Some(Row { number, content }))
    }

    fn skip_rows(&mut self, count: u64) -> Result<(), ReadError> {
        for _ in 0..count {
            if self.lines.next_line()?.is_none() {
                break;
            }
            self.next += 1;
        }
        Ok(())
    }

    fn position_bytes(&self) -> u64 {
        self.lines.position_bytes()
    }
}

fn parse(number: u64, text: &str, schema: &Schema) -> Result<Record, RowFault> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parts =
        DocumentSeed(schema).deserialize(&mut deserializer).and_then(|parts| deserializer.end().map(|()| parts));
    let parts = parts.map_err(|error| {
        let code = if error.is_data() { "wrong_type" } else { "bad_json" };
        RowFault::new(number, code, error.to_string())
    })?;
    let id = match (&schema.id, parts.id) {
        (IdSource::RowNumberFrom(first), _) => RowId::Number(first.saturating_add(number)),
        // The id comes from elsewhere and replaces this one.
        (IdSource::File(_), _) => RowId::Number(number),
        (IdSource::Column(_), Some(id)) => id,
        (IdSource::Column(name), None) => {
            return Err(RowFault::new(number, "missing_id", "the id is missing").at(
                name,
                "a string or a number",
                Value::Null,
            ));
        }
    };
    let Some(vector) = parts.vector else {
        let VectorSource::Column(name) = &schema.vector else {
            return Err(RowFault::new(number, "missing_vector", "the vector's columns are incomplete"));
        };
        return Err(RowFault::new(number, "missing_vector", "the vector is missing").at(
            name,
            "a list of numbers",
            Value::Null,
        ));
    };
    Ok(Record { id, vector, metadata: parts.metadata })
}

struct Parts {
    id: Option<RowId>,
    vector: Option<Vec<f32>>,
    metadata: Map<String, Value>,
}

/// Reads one object as the schema says.
struct DocumentSeed<'a>(&'a Schema);

impl<'de> DeserializeSeed<'de> for DocumentSeed<'_> {
    type Value = Parts;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Parts, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for DocumentSeed<'_> {
    type Value = Parts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parts, A::Error> {
        let schema = self.0;
        let mut parts = Parts { id: None, vector: None, metadata: Map::new() };
        let mut spread = match &schema.vector {
            VectorSource::Columns(names) => Some((names, vec![None; names.len()])),
            VectorSource::Row | VectorSource::Column(_) => None,
        };
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            let name = name.as_ref();
            if matches!(&schema.vector, VectorSource::Column(column) if column == name) {
                let vector = map.next_value()?;
                if parts.vector.replace(vector).is_some() {
                    return Err(A::Error::custom(format_args!("duplicate key {name:?}")));
                }
            } else if matches!(&schema.id, IdSource::Column(column) if column == name) {
                let id = map.next_value::<Value>()?;
                if parts.id.replace(id_of(&id).map_err(A::Error::custom)?).is_some() {
                    return Err(A::Error::custom(format_args!("duplicate key {name:?}")));
                }
            } else if let Some((at, values)) = spread
                .as_mut()
                .and_then(|(names, values)| Some((names.iter().position(|column| column == name)?, values)))
            {
                values[at] = Some(map.next_value::<f32>()?);
            } else {
                let value = map.next_value::<Value>()?;
                place(schema, name, value, &mut parts.metadata).map_err(A::Error::custom)?;
            }
        }
        if let Some((_, values)) = spread {
            parts.vector = values.into_iter().collect();
        }
        Ok(parts)
    }
}

/// Puts a value where the schema has it; columns that are not metadata are dropped.
fn place(schema: &Schema, name: &str, value: Value, metadata: &mut Map<String, Value>) -> Result<(), String> {
    if schema.metadata_object.as_deref() == Some(name) {
        match value {
            Value::Object(members) => {
                for (key, value) in members {
                    insert(metadata, key, value)?;
                }
            }
            Value::Null => {}
            other => return Err(format!("{name:?} should be an object but is {other}")),
        }
    } else if schema.metadata_open || schema.metadata.iter().any(|column| column.name == name) {
        insert(metadata, name.to_owned(), value)?;
    }
    Ok(())
}

fn insert(metadata: &mut Map<String, Value>, key: String, value: Value) -> Result<(), String> {
    match metadata.insert(key.clone(), value) {
        None => Ok(()),
        Some(_) => Err(format!("duplicate key {key:?}")),
    }
}

/// An id as JSON has it: a string, or a number that is a u64.
pub(super) fn id_of(value: &Value) -> Result<RowId, String> {
    match value {
        Value::String(text) if !text.is_empty() => Ok(RowId::Text(text.clone())),
        Value::Number(number) => number.as_u64().map(RowId::Number).ok_or_else(|| format!("id {number} is not a u64")),
        other => Err(format!("an id is a string or a number, not {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(content: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.jsonl");
        std::fs::write(&path, content).unwrap();
        (directory, path)
    }

    fn all(content: &[u8], choice: &SchemaChoice) -> (Schema, Vec<Row>) {
        let (_keep, path) = file(content);
        let schema = inspect(&path, choice).unwrap();
        let mut reader = JsonlReader::open(&path, &schema).unwrap();
        let rows = std::iter::from_fn(|| reader.next_row().unwrap()).collect();
        (schema, rows)
    }

    #[test]
    fn documents_read_with_their_metadata() {
        let content = br#"{"id":"a","vector":[1,2.5],"lang":"en","metadata":{"year":2020}}

            {"id":7,"vector":[3,4],"lang":null,"unseen":1}"#;
        let (schema, rows) = all(content, &SchemaChoice::default());
        assert_eq!((schema.dimension, schema.metadata_object.as_deref()), (2, Some("metadata")));
        let records: Vec<&Record> = rows.iter().map(|row| row.content.as_ref().unwrap()).collect();
        assert_eq!(records[0].id, RowId::Text("a".into()));
        assert_eq!(records[0].vector, [1.0, 2.5]);
        assert_eq!(Value::Object(records[0].metadata.clone()), serde_json::json!({"lang":"en","year":2020}));
        assert_eq!((&records[1].id, rows[1].number), (&RowId::Number(7), 1));
        assert_eq!(Value::Object(records[1].metadata.clone()), serde_json::json!({"lang":null,"unseen":1}));
    }

    #[test]
    fn faults_belong_to_their_row() {
        let content = b"{\"vector\":[1,2]}\n{\"vector\":[1,\"x\"]}\nnot json\n{\"vector\":[1,2],\"vector\":[3,4]}\n\xff\n{\"a\":1}\n[1]\n{\"vector\":[5,6]} x\n{\"vector\":[7,8]}\n";
        let (_, rows) = all(content, &SchemaChoice { first_id: 10, ..Default::default() });
        let codes: Vec<&str> =
            rows.iter().map(|row| row.content.as_ref().map_or_else(|fault| fault.code.as_str(), |_| "")).collect();
        assert_eq!(
            codes,
            [
                "",
                "wrong_type",
                "bad_json",
                "wrong_type",
                "invalid_utf8",
                "missing_vector",
                "wrong_type",
                "bad_json",
                ""
            ]
        );
        let fault = rows[2].content.as_ref().unwrap_err();
        assert_eq!(
            (fault.row, fault.line, &**fault.document.as_ref().unwrap()),
            (2, Some(3), &Value::from("not json"))
        );
        assert_eq!(rows[8].content.as_ref().unwrap().id, RowId::Number(18));
    }

    #[test]
    fn spread_vectors_and_chosen_metadata() {
        let content = b"{\"x0\":1,\"x1\":2,\"a\":1,\"b\":2}\n{\"x1\":4,\"x0\":3}\n{\"x0\":3}\n";
        let choice = SchemaChoice { metadata_columns: Some(vec!["b".into()]), ..Default::default() };
        let (_, rows) = all(content, &choice);
        assert_eq!(rows[0].content.as_ref().unwrap().metadata.len(), 1);
        assert_eq!(rows[1].content.as_ref().unwrap().vector, [3.0, 4.0]);
        assert_eq!(rows[2].content.as_ref().unwrap_err().code, "missing_vector");
    }

    #[test]
    fn skipping_counts_rows_not_lines() {
        let (_keep, path) = file(b"{\"vector\":[1]}\n\n\n{\"vector\":[2]}\n{\"vector\":[3]}\n");
        let schema = inspect(&path, &SchemaChoice::default()).unwrap();
        let mut reader = JsonlReader::open(&path, &schema).unwrap();
        reader.skip_rows(2).unwrap();
        let row = reader.next_row().unwrap().unwrap();
        assert_eq!((row.number, row.content.unwrap().vector), (2, vec![3.0]));
        assert_eq!(reader.position_bytes(), schema.bytes);
    }

    proptest! {
        #[test]
        fn arbitrary_lines_never_panic(text in "[\\[\\]{}\",:a-z0-9.\\\\ \n-]{0,200}") {
            let (_keep, path) = file(format!("{{\"vector\":[1,2]}}\n{text}").as_bytes());
            let schema = inspect(&path, &SchemaChoice { vector_column: Some("vector".into()), ..Default::default() });
            if let Ok(schema) = schema {
                let mut reader = JsonlReader::open(&path, &schema).unwrap();
                while reader.next_row().unwrap().is_some() {}
            }
        }
    }
}
