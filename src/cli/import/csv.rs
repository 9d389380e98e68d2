//! Comma- (tab-, semicolon-, bar-) separated values, RFC 4180 quoting. The vector is one column (`[0.1, 0.2]`, or numbers
//! separated by blanks, commas or semicolons) or a run of numbered columns; a file without a header whose fields are all numbers is rows of
//! vectors. Empty fields are absent metadata. Streaming, at most one record in memory. Called by `import`.

use super::{
    fault::{ReadError, RowFault},
    format::Format,
    row::{ROW_BYTES_MAX, Record, Row, RowId, RowReader},
    schema::{
        COLUMNS_MAX, ColumnSample, ColumnType, IdSource, SAMPLE_ROWS, Schema, SchemaChoice, VectorSource, assign,
    },
};
use csv::{ByteRecord, ReaderBuilder};
use serde_json::Value;
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Infers separator, header and schema from the first [`SAMPLE_ROWS`] records.
pub fn inspect(path: &Path, choice: &SchemaChoice) -> Result<Schema, ReadError> {
    let bytes = std::fs::metadata(path).map_err(ReadError::io(path))?.len();
    let delimiter = match choice.delimiter {
        Some(delimiter) => delimiter,
        None => guess_delimiter(path)?,
    };
    let mut records = Records::open(path, delimiter)?;
    let Some(first) = records.next()? else {
        return Err(ReadError::schema(path, "it is empty"));
    };
    if first.len() > COLUMNS_MAX {
        let (field, max, got) = ("the number of columns", COLUMNS_MAX as u64, first.len() as u64);
        return Err(ReadError::TooLarge { path: path.to_owned(), field, max, got });
    }
    let has_header = first.iter().any(|field| number(text(field)).is_none());
    let names: Vec<String> = if has_header {
        first.iter().map(|field| text(field).trim().to_owned()).collect()
    } else {
        (0..first.len()).map(|n| format!("column{n}")).collect()
    };
    if let Some(twice) = duplicate(&names) {
        return Err(ReadError::schema(path, format!("two columns are called {twice:?}")));
    }
    let mut columns: Vec<ColumnSample> =
        names.into_iter().map(|name| ColumnSample { name, ..Default::default() }).collect();
    if !has_header {
        sample(&mut columns, &first);
    }
    for _ in 0..SAMPLE_ROWS {
        let Some(record) = records.next()? else { break };
        sample(&mut columns, &record);
    }
    let roles = assign(path, &columns, choice)?;
    Ok(Schema {
        format: Format::Csv,
        rows: None,
        bytes,
        dimension: roles.dimension,
        id: roles.id,
        vector: roles.vector,
        metadata: roles.metadata,
        metadata_object: None,
        metadata_open: false,
        delimiter: Some(char::from(delimiter)),
        has_header: Some(has_header),
    })
}

/// The separator that occurs most in the first line outside quotes; a comma if none does.
fn guess_delimiter(path: &Path) -> Result<u8, ReadError> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tsv")) {
        return Ok(b'\t');
    }
    let mut start = Vec::new();
    File::open(path)
        .map_err(ReadError::io(path))?
        .take(64 << 10)
        .read_to_end(&mut start)
        .map_err(ReadError::io(path))?;
    let mut counts = [(b',', 0), (b'\t', 0), (b';', 0), (b'|', 0)];
    let mut quoted = false;
    for byte in start {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' if !quoted => break,
            _ if quoted => {}
            _ => {
                if let Some((_, count)) = counts.iter_mut().find(|(delimiter, _)| *delimiter == byte) {
                    *count += 1;
                }
            }
        }
    }
    // The first of equals, so that a comma wins a tie.
    Ok(counts.iter().rev().max_by_key(|(_, count)| *count).map_or(b',', |(delimiter, _)| *delimiter))
}

fn duplicate(names: &[String]) -> Option<&String> {
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort();
    sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

fn sample(columns: &mut [ColumnSample], record: &ByteRecord) {
    for (column, field) in columns.iter_mut().zip(record.iter()) {
        let field = text(field).trim();
        if field.is_empty() {
            continue;
        }
        column.values += 1;
        column.ids += 1;
        if let Some(list) = numbers(field).filter(|list| list.len() > 1) {
            *column.lists.entry(list.len()).or_default() += 1;
        }
        let this = type_of(field);
        column.r#type = Some(column.r#type.map_or(this, |known| match known.join(this) {
            // In text, a column of several types is a column of text.
            ColumnType::Json => ColumnType::String,
            joined => joined,
        }));
    }
}

fn type_of(field: &str) -> ColumnType {
    match field {
        "true" | "false" | "True" | "False" | "TRUE" | "FALSE" => ColumnType::Boolean,
        // A leading zero is kept by staying text: postal codes and telephone numbers are no integers.
        _ if field.parse::<i64>().is_ok() && !has_leading_zero(field) => ColumnType::Integer,
        _ if number(field).is_some() && !has_leading_zero(field) => ColumnType::Float,
        _ => ColumnType::String,
    }
}

fn has_leading_zero(field: &str) -> bool {
    let digits = field.trim_start_matches(['-', '+']);
    digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit()
}

fn number(field: &str) -> Option<f64> {
    let field = field.trim();
    // Only what looks like a number: Rust also parses "inf", "nan" and "infinity".
    let begins = field.trim_start_matches(['-', '+', '.']).starts_with(|c: char| c.is_ascii_digit());
    if begins { field.parse().ok() } else { None }
}

/// A list of numbers in one field.
fn numbers(field: &str) -> Option<Vec<f32>> {
    let field = field.trim();
    let inner = match field.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None => field,
    };
    let parts =
        inner.split(|c: char| matches!(c, ',' | ';') || c.is_ascii_whitespace()).filter(|part| !part.is_empty());
    parts.map(|part| number(part).map(|x| x as f32)).collect()
}

/// A field as text; a field that is not UTF-8 reads as empty here and is refused when its row is read.
fn text(field: &[u8]) -> &str {
    std::str::from_utf8(field).unwrap_or("")
}

/// Bounds what one record may take: `csv` would otherwise read a whole file into memory after a stray quote.
#[derive(Debug)]
struct Budgeted {
    file: File,
    left: Arc<AtomicU64>,
}

impl Read for Budgeted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            let problem = format!("a record has more than {ROW_BYTES_MAX} bytes; is a quote left open?");
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        let read = self.file.read(buffer)?;
        self.left.store(left.saturating_sub(read as u64), Ordering::Relaxed);
        Ok(read)
    }
}

#[derive(Debug)]
struct Records {
    path: PathBuf,
    reader: csv::Reader<Budgeted>,
    left: Arc<AtomicU64>,
    record: ByteRecord,
}

impl Records {
    fn open(path: &Path, delimiter: u8) -> Result<Records, ReadError> {
        let file = File::open(path).map_err(ReadError::io(path))?;
        let left = Arc::new(AtomicU64::new(0));
        let reader = ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(1 << 18)
            .from_reader(Budgeted { file, left: left.clone() });
        Ok(Records { path: path.to_owned(), reader, left, record: ByteRecord::new() })
    }

    fn next(&mut self) -> Result<Option<ByteRecord>, ReadError> {
        Ok(if self.advance()? { Some(self.record.clone()) } else { None })
    }

    /// Moves to the next record; false at the end.
    fn advance(&mut self) -> Result<bool, ReadError> {
        self.left.store(ROW_BYTES_MAX as u64, Ordering::Relaxed);
        self.reader.read_byte_record(&mut self.record).map_err(|error| match error.into_kind() {
            csv::ErrorKind::Io(source) => ReadError::Io { path: self.path.clone(), source },
            other => ReadError::schema(&self.path, format!("{other:?}")),
        })
    }

    fn line(&self) -> u64 {
        self.record.position().map_or(0, csv::Position::line)
    }
}

/// What to do with a column.
#[derive(Clone, Copy, Debug)]
enum Role {
    Id,
    Vector,
    VectorPart(usize),
    Metadata(usize),
    Ignored,
}

/// The rows of a csv file.
#[derive(Debug)]
pub struct CsvReader {
    records: Records,
    schema: Schema,
    roles: Vec<Role>,
    names: Vec<String>,
    next: u64,
}

impl CsvReader {
    pub fn open(path: &Path, schema: &Schema) -> Result<CsvReader, ReadError> {
        let delimiter = schema.delimiter.and_then(|c| u8::try_from(c).ok()).unwrap_or(b',');
        let mut records = Records::open(path, delimiter)?;
        let names: Vec<String> = if schema.has_header == Some(true) {
            let header = records.next()?.unwrap_or_default();
            header.iter().map(|field| text(field).trim().to_owned()).collect()
        } else {
            let columns = Records::open(path, delimiter)?.next()?.map_or(0, |record| record.len());
            (0..columns).map(|n| format!("column{n}")).collect()
        };
        let roles = names.iter().map(|name| role(schema, name)).collect();
        Ok(CsvReader { records, schema: schema.clone(), roles, names, next: 0 })
    }

    fn parse(&self, row: u64) -> Result<Record, RowFault> {
        let record = &self.records.record;
        if record.len() != self.roles.len() {
            let fault = RowFault::new(row, "wrong_columns", "the row has another number of columns than the first");
            return Err(fault.at("the row", self.roles.len(), record.len()));
        }
        let parts = match &self.schema.vector {
            VectorSource::Columns(names) => names.len(),
            VectorSource::Row | VectorSource::Column(_) => 0,
        };
        let mut id = match &self.schema.id {
            IdSource::RowNumberFrom(first) => Some(RowId::Number(first.saturating_add(row))),
            // Replaced by the id of the other file.
            IdSource::File(_) => Some(RowId::Number(row)),
            IdSource::Column(_) => None,
        };
        let mut vector = vec![0.0; parts];
        let mut metadata = serde_json::Map::new();
        for ((field, role), name) in record.iter().zip(&self.roles).zip(&self.names) {
            if matches!(role, Role::Ignored) {
                continue;
            }
            let field = std::str::from_utf8(field).map_err(|_| {
                RowFault::new(row, "invalid_utf8", "the field is not UTF-8").at(name, "UTF-8", Value::Null)
            })?;
            let wrong =
                |expected: &str| RowFault::new(row, "wrong_type", "the field does not parse").at(name, expected, field);
            match *role {
                Role::Ignored => {}
                Role::Id if field.is_empty() => {
                    return Err(RowFault::new(row, "missing_id", "the id is missing").at(name, "an id", ""));
                }
                Role::Id => id = Some(id_of(field)),
                Role::Vector => vector = numbers(field).ok_or_else(|| wrong("a list of numbers"))?,
                Role::VectorPart(at) => vector[at] = number(field).ok_or_else(|| wrong("a number"))? as f32,
                Role::Metadata(at) => {
                    let r#type = self.schema.metadata[at].r#type;
                    if !field.is_empty() {
                        metadata.insert(name.clone(), value(r#type, field).ok_or_else(|| wrong(r#type.name()))?);
                    }
                }
            }
        }
        let id = id.ok_or_else(|| RowFault::new(row, "missing_id", "the id column is missing"))?;
        Ok(Record { id, vector, metadata })
    }
}

fn role(schema: &Schema, name: &str) -> Role {
    if matches!(&schema.id, IdSource::Column(id) if id == name) {
        return Role::Id;
    }
    match &schema.vector {
        VectorSource::Column(vector) if vector == name => return Role::Vector,
        VectorSource::Columns(names) => {
            if let Some(at) = names.iter().position(|column| column == name) {
                return Role::VectorPart(at);
            }
        }
        VectorSource::Column(_) | VectorSource::Row => {}
    }
    schema.metadata.iter().position(|column| column.name == name).map_or(Role::Ignored, Role::Metadata)
}

/// A number if it is one in canonical form, so that `007` stays a text.
fn id_of(field: &str) -> RowId {
    match field.parse::<u64>() {
        Ok(number) if number.to_string() == field => RowId::Number(number),
        _ => RowId::Text(field.to_owned()),
    }
}

fn value(r#type: ColumnType, field: &str) -> Option<Value> {
    match r#type {
        ColumnType::Boolean => field.to_ascii_lowercase().parse().ok().map(Value::Bool),
        ColumnType::Integer => field.trim().parse::<i64>().ok().map(Value::from),
        ColumnType::Float => number(field).and_then(serde_json::Number::from_f64).map(Value::Number),
        ColumnType::String => Some(Value::from(field)),
        ColumnType::Json => serde_json::from_str(field).ok(),
    }
}

impl RowReader for CsvReader {
    fn next_row(&mut self) -> Result<Option<Row>, ReadError> {
        if !self.records.advance()? {
            return Ok(None);
        }
        let number = self.next;
        self.next += 1;
        let content = self.parse(number).map_err(|fault| {
            let raw: Vec<_> = self.records.record.iter().map(String::from_utf8_lossy).collect();
            fault.on_line(self.records.line(), &raw.join(","))
        });
        Ok(Some(Row { number, content }))
    }

    fn skip_rows(&mut self, count: u64) -> Result<(), ReadError> {
        for _ in 0..count {
            if !self.records.advance()? {
                break;
            }
            self.next += 1;
        }
        Ok(())
    }

    fn position_bytes(&self) -> u64 {
        self.records.reader.position().byte()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.csv");
        std::fs::write(&path, content).unwrap();
        (directory, path)
    }

    fn all(content: &str, choice: &SchemaChoice) -> (Schema, Vec<Result<Record, RowFault>>) {
        let (_keep, path) = file(content.as_bytes());
        let schema = inspect(&path, choice).unwrap();
        let mut reader = CsvReader::open(&path, &schema).unwrap();
        let rows = std::iter::from_fn(|| reader.next_row().unwrap()).map(|row| row.content).collect();
        (schema, rows)
    }

    #[test]
    fn a_vector_in_one_column() {
        let content = "id;title;year;zip;ok;embedding\n1;\"a;b\";1999;0815;true;[0.5, 1]\nx2;c;;77;false;[2,3]\n";
        let (schema, rows) = all(content, &SchemaChoice::default());
        assert_eq!((schema.delimiter, schema.dimension), (Some(';'), 2));
        let types: Vec<ColumnType> = schema.metadata.iter().map(|column| column.r#type).collect();
        assert_eq!(types, [ColumnType::String, ColumnType::Integer, ColumnType::String, ColumnType::Boolean]);
        let first = rows[0].as_ref().unwrap();
        assert_eq!((&first.id, &first.vector[..]), (&RowId::Number(1), &[0.5, 1.0][..]));
        let expected = serde_json::json!({"title": "a;b", "year": 1999, "zip": "0815", "ok": true});
        assert_eq!(Value::Object(first.metadata.clone()), expected);
        let second = rows[1].as_ref().unwrap();
        assert_eq!((&second.id, second.metadata.contains_key("year")), (&RowId::Text("x2".into()), false));
    }

    #[test]
    fn numbered_columns_and_no_header() {
        let (schema, rows) = all("name,d0,d1,d2\nx,1,2,3\n", &SchemaChoice::default());
        assert_eq!((schema.dimension, rows[0].as_ref().unwrap().vector.as_slice()), (3, &[1.0, 2.0, 3.0][..]));
        let (schema, rows) = all("1,2.5\n3,-4e1\n", &SchemaChoice { first_id: 5, ..Default::default() });
        assert_eq!((schema.has_header, schema.dimension), (Some(false), 2));
        assert_eq!(rows[1].as_ref().unwrap().vector, [3.0, -40.0]);
        assert_eq!(rows[1].as_ref().unwrap().id, RowId::Number(6));
    }

    #[test]
    fn faults_belong_to_their_row() {
        let mut content = "id,vector,year\n".to_owned();
        for n in 0..SAMPLE_ROWS {
            content += &format!("{n},\"1 2\",2000\n");
        }
        content += "a,\"1 2\",late\nb,\"1 x\",1\nc,\"1 2\"\n,\"1 2\",3\nd,\"1 2\",4\n";
        let (_, rows) = all(&content, &SchemaChoice::default());
        let code =
            |row: &Result<Record, RowFault>| row.as_ref().map_or_else(|fault| fault.code.clone(), |_| String::new());
        let codes: Vec<String> = rows[SAMPLE_ROWS..].iter().map(code).collect();
        assert_eq!(codes, ["wrong_type", "wrong_type", "wrong_columns", "missing_id", ""]);
        let fault = rows[SAMPLE_ROWS].as_ref().unwrap_err();
        assert_eq!(fault.field.as_deref(), Some("year"));
        assert_eq!(
            (&**fault.expected.as_ref().unwrap(), &**fault.got.as_ref().unwrap()),
            (&"integer".into(), &"late".into())
        );
        assert_eq!(fault.line, Some(SAMPLE_ROWS as u64 + 2));
    }

    #[test]
    fn an_open_quote_does_not_fill_the_memory() {
        let mut content = b"id,vector\n1,\"".to_vec();
        content.resize(ROW_BYTES_MAX + (2 << 20), b'x');
        let (_keep, path) = file(&content);
        let error = inspect(&path, &SchemaChoice::default()).unwrap_err();
        assert!(error.to_string().contains("quote"), "{error}");
    }

    #[test]
    fn headers_are_unique_and_files_not_empty() {
        let (_keep, path) = file(b"a,a\n1,2\n");
        assert!(matches!(inspect(&path, &SchemaChoice::default()), Err(ReadError::Schema { .. })));
        let (_keep, path) = file(b"");
        assert!(matches!(inspect(&path, &SchemaChoice::default()), Err(ReadError::Schema { .. })));
    }

    #[test]
    fn skipping_counts_records() {
        let (_keep, path) = file(b"id,vector\n\"a\nb\",1 2\nc,3 4\nd,5 6\n");
        let schema = inspect(&path, &SchemaChoice::default()).unwrap();
        let mut reader = CsvReader::open(&path, &schema).unwrap();
        reader.skip_rows(2).unwrap();
        let row = reader.next_row().unwrap().unwrap();
        assert_eq!((row.number, row.content.unwrap().id), (2, RowId::Text("d".into())));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (_keep, path) = file(&[b"id,v0,v1\n1,2,3\n", &bytes[..]].concat());
            if let Ok(schema) = inspect(&path, &SchemaChoice::default()) {
                let mut reader = CsvReader::open(&path, &schema).unwrap();
                while let Ok(Some(_)) = reader.next_row() {}
            }
        }
    }
}
