//! Apache Parquet, row by row through the low-level reader (no Arrow): vectors are LIST columns of floats or integers, or a
//! BYTE_ARRAY / FIXED_LEN_BYTE_ARRAY of little-endian f32; metadata are flat columns of booleans, numbers and texts. Dates,
//! decimals, nested groups and maps are not read as metadata. One row group's pages are in memory at a time, as the format
//! demands. Only with the feature `parquet`. Called by `import`.

use super::{
    fault::{ReadError, RowFault},
    format::Format,
    row::{DIMENSION_MAX, Record, Row, RowId, RowReader},
    schema::{
        COLUMNS_MAX, ColumnSample, ColumnType, IdSource, SAMPLE_ROWS, Schema, SchemaChoice, VectorSource, assign,
    },
};
use parquet::{
    basic::Type as Physical,
    file::{
        reader::{FileReader, SerializedFileReader},
        serialized_reader::ReadOptionsBuilder,
    },
    record::{Field, Row as ParquetRow, reader::RowIter},
    schema::types::Type,
};
use serde_json::{Map, Value};
use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Infers the schema from the footer and the first rows.
pub fn inspect(path: &Path, choice: &SchemaChoice) -> Result<Schema, ReadError> {
    let mut rows = Rows::open(path)?;
    let mut columns: Vec<ColumnSample> = Vec::new();
    for _ in 0..SAMPLE_ROWS {
        let Some(row) = rows.next()? else { break };
        for (name, field) in row.get_column_iter() {
            sample(&mut columns, name, field);
        }
    }
    let roles = assign(path, &columns, choice)?;
    Ok(Schema {
        format: Format::Parquet,
        rows: Some(rows.total),
        bytes: rows.bytes,
        dimension: roles.dimension,
        id: roles.id,
        vector: roles.vector,
        metadata: roles.metadata,
        metadata_object: None,
        metadata_open: false,
        delimiter: None,
        has_header: None,
    })
}

fn sample(columns: &mut Vec<ColumnSample>, name: &str, field: &Field) {
    if matches!(field, Field::Null) {
        return;
    }
    let at = columns.iter().position(|column| column.name == name).unwrap_or_else(|| {
        columns.push(ColumnSample { name: name.to_owned(), ..ColumnSample::default() });
        columns.len() - 1
    });
    let column = &mut columns[at];
    column.values += 1;
    if let Some(vector) = vector(field) {
        *column.lists.entry(vector.len()).or_default() += 1;
    }
    let value = value(field);
    column.ids += u32::from(value.as_ref().is_some_and(|value| super::jsonl::id_of(value).is_ok()));
    let r#type = value.as_ref().and_then(ColumnType::of).unwrap_or(ColumnType::Json);
    column.r#type = Some(column.r#type.map_or(r#type, |known| known.join(r#type)));
}

/// Rows one after the other, with the library's panics on unusual types turned into errors.
struct Rows {
    path: PathBuf,
    iterator: RowIter<'static>,
    total: u64,
    bytes: u64,
}

impl Rows {
    fn open(path: &Path) -> Result<Rows, ReadError> {
        let file = File::open(path).map_err(ReadError::io(path))?;
        let bytes = file.metadata().map_err(ReadError::io(path))?.len();
        let guarded = guard(path, || {
            let reader = SerializedFileReader::new_with_options(file, ReadOptionsBuilder::new().build())?;
            let metadata = reader.metadata().file_metadata().clone();
            Ok((reader, metadata))
        });
        let (reader, metadata) = guarded?;
        let total = u64::try_from(metadata.num_rows()).map_err(|_| bad(path, "a negative number of rows"))?;
        if metadata.schema_descr().num_columns() > COLUMNS_MAX {
            return Err(bad(path, "too many columns"));
        }
        let projection = readable(metadata.schema());
        let iterator = guard(path, || RowIter::from_file_into(Box::new(reader)).project(Some(projection)))?;
        Ok(Rows { path: path.to_owned(), iterator, total, bytes })
    }

    fn next(&mut self) -> Result<Option<ParquetRow>, ReadError> {
        guard(&self.path, || self.iterator.next().transpose())
    }
}

/// The file's schema without the columns this reader cannot turn into anything.
fn readable(schema: &Type) -> Type {
    let fields: Vec<Arc<Type>> = schema.get_fields().iter().filter(|field| is_readable(field)).cloned().collect();
    Type::group_type_builder(schema.name())
        .with_fields(fields)
        .build()
        .expect("invariant: a group of valid fields is valid")
}

fn is_readable(field: &Type) -> bool {
    if field.is_primitive() {
        return field.get_physical_type() != Physical::INT96;
    }
    // A list: one repeated child, one primitive below it.
    matches!(field.get_fields(), [repeated] if repeated.is_primitive() || matches!(repeated.get_fields(), [item] if item.is_primitive()))
}

fn guard<T>(path: &Path, work: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T, ReadError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(bad(path, error.to_string())),
        Err(_) => Err(bad(path, "damaged, or a column of a type that is not read")),
    }
}

fn bad(path: &Path, problem: impl Into<String>) -> ReadError {
    ReadError::header(path, "parquet", problem)
}

/// The rows of a Parquet file.
pub struct ParquetReader {
    rows: Rows,
    schema: Schema,
    next: u64,
}

impl ParquetReader {
    pub fn open(path: &Path, schema: &Schema) -> Result<ParquetReader, ReadError> {
        Ok(ParquetReader { rows: Rows::open(path)?, schema: schema.clone(), next: 0 })
    }

    fn parse(&self, number: u64, row: &ParquetRow) -> Result<Record, RowFault> {
        let mut id = match &self.schema.id {
            IdSource::RowNumberFrom(first) => Some(RowId::Number(first.saturating_add(number))),
            IdSource::File(_) => Some(RowId::Number(number)),
            IdSource::Column(_) => None,
        };
        let mut found = None;
        let mut spread = match &self.schema.vector {
            VectorSource::Columns(names) => vec![None; names.len()],
            VectorSource::Row | VectorSource::Column(_) => Vec::new(),
        };
        let mut metadata = Map::new();
        for (name, field) in row.get_column_iter() {
            if matches!(&self.schema.id, IdSource::Column(column) if column == name) {
                let told = value(field).unwrap_or(Value::Null);
                let wrong =
                    |message| RowFault::new(number, "wrong_type", message).at(name, "a text or a u64", told.clone());
                id = Some(super::jsonl::id_of(&told).map_err(wrong)?);
            } else if matches!(&self.schema.vector, VectorSource::Column(column) if column == name) {
                let wrong = || {
                    RowFault::new(number, "wrong_type", "not a vector").at(name, "a list of numbers", field.to_string())
                };
                found = Some(vector(field).ok_or_else(wrong)?);
            } else if let VectorSource::Columns(names) = &self.schema.vector
                && let Some(at) = names.iter().position(|column| column == name)
            {
                spread[at] = number_of(field);
            } else if self.schema.metadata.iter().any(|column| column.name == *name) {
                metadata.extend(value(field).filter(|value| !value.is_null()).map(|value| (name.clone(), value)));
            }
        }
        if !spread.is_empty() {
            found = spread.into_iter().collect();
        }
        let vector = found.ok_or_else(|| RowFault::new(number, "missing_vector", "the vector is missing"))?;
        let id = id.ok_or_else(|| RowFault::new(number, "missing_id", "the id is missing"))?;
        Ok(Record { id, vector, metadata })
    }
}

impl RowReader for ParquetReader {
    fn next_row(&mut self) -> Result<Option<Row>, ReadError> {
        let Some(row) = self.rows.next()? else { return Ok(None) };
        let number = self.next;
        self.next += 1;
        Ok(Some(Row { number, content: self.parse(number, &row) }))
    }

    fn skip_rows(&mut self, count: u64) -> Result<(), ReadError> {
        for _ in 0..count {
            if self.rows.next()?.is_none() {
                break;
            }
            self.next += 1;
        }
        Ok(())
    }

    /// The format does not tell; in proportion to the rows.
    fn position_bytes(&self) -> u64 {
        let share = u128::from(self.rows.bytes) * u128::from(self.next) / u128::from(self.rows.total.max(1));
        u64::try_from(share).unwrap_or(self.rows.bytes)
    }
}

fn vector(field: &Field) -> Option<Vec<f32>> {
    match field {
        Field::ListInternal(list) if list.len() <= DIMENSION_MAX => list.elements().iter().map(number_of).collect(),
        Field::Bytes(bytes) if !bytes.data().is_empty() && bytes.len() % 4 == 0 && bytes.len() / 4 <= DIMENSION_MAX => {
            let floats = bytes.data().chunks_exact(4);
            Some(floats.map(|x| f32::from_le_bytes(x.try_into().expect("invariant: four bytes"))).collect())
        }
        _ => None,
    }
}

fn number_of(field: &Field) -> Option<f32> {
    Some(match field {
        Field::Float16(x) => f32::from(*x),
        Field::Float(x) => *x,
        Field::Double(x) => *x as f32,
        Field::Byte(x) => f32::from(*x),
        Field::UByte(x) => f32::from(*x),
        Field::Short(x) => f32::from(*x),
        Field::UShort(x) => f32::from(*x),
        Field::Int(x) => *x as f32,
        Field::UInt(x) => *x as f32,
        Field::Long(x) => *x as f32,
        Field::ULong(x) => *x as f32,
        _ => return None,
    })
}

/// A field as JSON; `None` for types that have no plain form there.
fn value(field: &Field) -> Option<Value> {
    Some(match field {
        Field::Null => Value::Null,
        Field::Bool(x) => Value::from(*x),
        Field::Byte(x) => Value::from(*x),
        Field::UByte(x) => Value::from(*x),
        Field::Short(x) => Value::from(*x),
        Field::UShort(x) => Value::from(*x),
        Field::Int(x) => Value::from(*x),
        Field::UInt(x) => Value::from(*x),
        Field::Long(x) => Value::from(*x),
        Field::ULong(x) => Value::from(*x),
        Field::Float(x) => Value::from(*x),
        Field::Double(x) => Value::from(*x),
        Field::Str(text) => Value::from(text.as_str()),
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(value).collect::<Option<_>>()?),
        // Plain byte arrays are texts in most files written without logical types.
        Field::Bytes(bytes) => Value::from(std::str::from_utf8(bytes.data()).ok()?),
        _ => return None,
    })
}
