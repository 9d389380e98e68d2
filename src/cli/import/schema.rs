//! What a file's columns mean: which one is the id, which one (or which run of columns) the vector, what type each
//! metadata column has. Inferred from the first rows, overridden by flags, printed by `--dry-run`, obeyed by the readers.

use super::{fault::ReadError, format::Format};
use serde::Serialize;
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

/// Rows looked at to infer a schema.
pub const SAMPLE_ROWS: usize = 1_000;

/// The most columns a file may have.
pub const COLUMNS_MAX: usize = 100_000;

/// Names taken for the id, in order of preference.
const ID_NAMES: [&str; 6] = ["document_id", "id", "_id", "doc_id", "point_id", "uuid"];

/// Names taken for the vector, in order of preference.
const VECTOR_NAMES: [&str; 7] = ["vector", "embedding", "embeddings", "emb", "vec", "values", "features"];

/// Names of an object column whose content is the metadata itself.
const OBJECT_NAMES: [&str; 2] = ["metadata", "payload"];

/// What the user said instead of leaving it to inference.
#[derive(Clone, Debug, Default)]
pub struct SchemaChoice {
    pub id_column: Option<String>,
    pub vector_column: Option<String>,
    /// `None`: every other column. `Some([])`: none.
    pub metadata_columns: Option<Vec<String>>,
    /// Types that override the inferred ones.
    pub column_types: BTreeMap<String, ColumnType>,
    /// Id of row 0 where the file has no ids.
    pub first_id: u64,
    /// Field separator of csv; inferred when absent.
    pub delimiter: Option<u8>,
}

/// Where ids come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IdSource {
    Column(String),
    /// The row's number plus this.
    RowNumberFrom(u64),
    /// Line by line from another file.
    File(std::path::PathBuf),
}

/// Where vectors come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VectorSource {
    /// The whole row is the vector.
    Row,
    /// One column holds a list of numbers.
    Column(String),
    /// A run of columns holds a number each.
    Columns(Vec<String>),
}

/// Type of a metadata column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    Boolean,
    Integer,
    Float,
    String,
    /// Any JSON: objects, lists, or types that vary from row to row.
    Json,
}

impl ColumnType {
    /// The type of a JSON value.
    pub fn of(value: &Value) -> Option<ColumnType> {
        match value {
            Value::Null => None,
            Value::Bool(_) => Some(ColumnType::Boolean),
            Value::Number(number) if number.is_f64() => Some(ColumnType::Float),
            Value::Number(_) => Some(ColumnType::Integer),
            Value::String(_) => Some(ColumnType::String),
            Value::Array(_) | Value::Object(_) => Some(ColumnType::Json),
        }
    }

    /// The narrowest type that holds both.
    pub fn join(self, other: ColumnType) -> ColumnType {
        use ColumnType::{Float, Integer, Json};
        match (self, other) {
            (a, b) if a == b => a,
            (Integer, Float) | (Float, Integer) => Float,
            _ => Json,
        }
    }

    /// The name used in files and messages.
    pub const fn name(self) -> &'static str {
        match self {
            ColumnType::Boolean => "boolean",
            ColumnType::Integer => "integer",
            ColumnType::Float => "float",
            ColumnType::String => "string",
            ColumnType::Json => "json",
        }
    }
}

/// A metadata column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MetadataColumn {
    pub name: String,
    pub r#type: ColumnType,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Schema {
    pub format: Format,
    /// Where the format tells it without reading the file.
    pub rows: Option<u64>,
    pub bytes: u64,
    pub dimension: usize,
    pub id: IdSource,
    pub vector: VectorSource,
    pub metadata: Vec<MetadataColumn>,
    /// An object column whose members are metadata themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata_object: Option<String>,
    /// Whether columns the sample did not show become metadata too (json lines, unless columns were chosen).
    pub metadata_open: bool,
    /// Separator of csv fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// Whether the csv file's first line names the columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub has_header: Option<bool>,
}

impl Schema {
    /// The schema of a format whose rows are vectors and nothing else.
    pub fn of_vectors(
        format: Format,
        path: &Path,
        rows: u64,
        dimension: usize,
        first_id: u64,
    ) -> Result<Schema, ReadError> {
        Ok(Schema {
            format,
            rows: Some(rows),
            bytes: std::fs::metadata(path).map_err(ReadError::io(path))?.len(),
            dimension,
            id: IdSource::RowNumberFrom(first_id),
            vector: VectorSource::Row,
            metadata: Vec::new(),
            metadata_object: None,
            metadata_open: false,
            delimiter: None,
            has_header: None,
        })
    }

    /// The id of row 0 if ids are row numbers.
    pub fn first_id(&self) -> Option<u64> {
        match self.id {
            IdSource::RowNumberFrom(first) => Some(first),
            IdSource::Column(_) | IdSource::File(_) => None,
        }
    }
}

/// One column as the sample shows it.
#[derive(Clone, Debug, Default)]
pub struct ColumnSample {
    pub name: String,
    /// Type of its values, `None` while it has only nulls.
    pub r#type: Option<ColumnType>,
    /// How many values it has.
    pub values: u32,
    /// How many of them are lists of numbers, by length.
    pub lists: BTreeMap<usize, u32>,
    /// How many of them are objects.
    pub objects: u32,
    /// How many of them can be ids: texts and numbers that are a u64.
    pub ids: u32,
}

impl ColumnSample {
    /// The commonest length of its values, if more than half of them are lists of numbers: a faulty row must not decide.
    fn dimension(&self) -> Option<usize> {
        let lists: u32 = self.lists.values().sum();
        let commonest = self.lists.iter().filter(|(length, _)| **length > 0).max_by_key(|(_, count)| **count);
        commonest.map(|(length, _)| *length).filter(|_| lists * 2 > self.values)
    }

    fn mostly(&self, count: u32) -> bool {
        count * 2 > self.values
    }
}

/// The roles of columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Roles {
    pub id: IdSource,
    pub vector: VectorSource,
    pub dimension: usize,
    pub metadata: Vec<MetadataColumn>,
    pub metadata_object: Option<String>,
}

/// Gives each sampled column its role.
///
/// The vector is the column told, else a list of numbers with a well-known name, else the only list of numbers, else the longest
/// run of numeric columns named `<prefix><n>` with consecutive n (at least two).
pub fn assign(path: &Path, columns: &[ColumnSample], choice: &SchemaChoice) -> Result<Roles, ReadError> {
    let told = choice.id_column.iter().chain(&choice.vector_column).chain(choice.metadata_columns.iter().flatten());
    for name in told {
        if !columns.iter().any(|column| column.name == *name) {
            let names: Vec<&str> = columns.iter().take(30).map(|column| column.name.as_str()).collect();
            return Err(ReadError::schema(path, format!("no column {name:?}; it has {}", names.join(", "))));
        }
    }
    let (vector, dimension) = find_vector(path, columns, choice)?;
    let id = find_id(columns, choice);
    let is_vector = |name: &str| match &vector {
        VectorSource::Row => false,
        VectorSource::Column(column) => column == name,
        VectorSource::Columns(names) => names.iter().any(|column| column == name),
    };
    let rest = columns.iter().filter(|column| {
        let is_id = matches!(&id, IdSource::Column(id) if *id == column.name);
        let chosen = choice.metadata_columns.as_ref().is_none_or(|names| names.contains(&column.name));
        !is_id && chosen && !is_vector(&column.name)
    });
    let mut metadata = Vec::new();
    let mut metadata_object = None;
    for column in rest {
        if metadata_object.is_none() && column.mostly(column.objects) && OBJECT_NAMES.contains(&column.name.as_str()) {
            metadata_object = Some(column.name.clone());
        } else {
            let told = choice.column_types.get(&column.name).copied();
            let r#type = told.or(column.r#type).unwrap_or(ColumnType::Json);
            metadata.push(MetadataColumn { name: column.name.clone(), r#type });
        }
    }
    Ok(Roles { id, vector, dimension, metadata, metadata_object })
}

fn find_id(columns: &[ColumnSample], choice: &SchemaChoice) -> IdSource {
    let usable = |column: &&ColumnSample| column.mostly(column.ids);
    let known = || {
        ID_NAMES
            .iter()
            .find_map(|name| columns.iter().filter(usable).find(|column| column.name.eq_ignore_ascii_case(name)))
    };
    match choice.id_column.clone().or_else(|| Some(known()?.name.clone())) {
        Some(name) => IdSource::Column(name),
        None => IdSource::RowNumberFrom(choice.first_id),
    }
}

fn find_vector(
    path: &Path,
    columns: &[ColumnSample],
    choice: &SchemaChoice,
) -> Result<(VectorSource, usize), ReadError> {
    let lists: Vec<(&str, usize)> =
        columns.iter().filter_map(|column| Some((column.name.as_str(), column.dimension()?))).collect();
    if let Some(name) = &choice.vector_column {
        let list = lists.iter().find(|(list, _)| list == name);
        let dimension =
            list.ok_or_else(|| ReadError::schema(path, format!("column {name:?} is not a list of numbers")))?.1;
        return Ok((VectorSource::Column(name.clone()), dimension));
    }
    let known = VECTOR_NAMES.iter().find_map(|name| lists.iter().find(|(list, _)| list.eq_ignore_ascii_case(name)));
    match (known, &lists[..]) {
        (Some((name, dimension)), _) | (None, [(name, dimension)]) => {
            return Ok((VectorSource::Column((*name).to_owned()), *dimension));
        }
        (None, []) => {}
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|(name, _)| *name).collect();
            let problem = format!("several columns could be the vector ({}); use --vector-column", names.join(", "));
            return Err(ReadError::schema(path, problem));
        }
    }
    let run = longest_run(columns, choice);
    if run.len() < 2 {
        let problem =
            "no column is a list of numbers, and no numbered columns hold one number each; use --vector-column";
        return Err(ReadError::schema(path, problem));
    }
    let dimension = run.len();
    Ok((VectorSource::Columns(run), dimension))
}

/// The longest run of numeric columns `<prefix><n>`, `<prefix><n+1>` …
fn longest_run(columns: &[ColumnSample], choice: &SchemaChoice) -> Vec<String> {
    let mut best = 0..0;
    let mut start = 0;
    let mut last: Option<(&str, u64)> = None;
    for (at, column) in columns.iter().enumerate() {
        let numeric = matches!(column.r#type, Some(ColumnType::Integer | ColumnType::Float));
        let spoken_for = choice.id_column.as_ref() == Some(&column.name)
            || choice.metadata_columns.as_ref().is_some_and(|names| names.contains(&column.name));
        let this = if numeric && !spoken_for { numbered_name(&column.name) } else { None };
        let continues = matches!((last, this), (Some((a, n)), Some((b, m))) if a == b && m == n + 1);
        if !continues {
            start = at;
        }
        if this.is_some() && at + 1 - start > best.len() {
            best = start..at + 1;
        }
        last = this;
    }
    columns[best].iter().map(|column| column.name.clone()).collect()
}

fn numbered_name(name: &str) -> Option<(&str, u64)> {
    let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
    name[prefix.len()..].parse().ok().filter(|n| *n < u64::MAX).map(|n| (prefix, n))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, r#type: ColumnType) -> ColumnSample {
        let ids = u32::from(matches!(r#type, ColumnType::Integer | ColumnType::String));
        ColumnSample { name: name.into(), r#type: Some(r#type), values: 1, ids, ..Default::default() }
    }

    fn list(name: &str, length: usize) -> ColumnSample {
        ColumnSample { ids: 0, lists: [(length, 1)].into(), ..column(name, ColumnType::Json) }
    }

    fn roles(columns: &[ColumnSample], choice: &SchemaChoice) -> Result<Roles, ReadError> {
        assign(Path::new("x.csv"), columns, choice)
    }

    #[test]
    fn well_known_names_decide() {
        let columns = [
            column("title", ColumnType::String),
            list("tags", 3),
            list("Embedding", 8),
            column("ID", ColumnType::Integer),
        ];
        let roles = roles(&columns, &SchemaChoice::default()).unwrap();
        assert_eq!(roles.id, IdSource::Column("ID".into()));
        assert_eq!((roles.vector, roles.dimension), (VectorSource::Column("Embedding".into()), 8));
        assert_eq!(roles.metadata.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["title", "tags"]);
    }

    #[test]
    fn a_single_list_needs_no_name_and_two_need_a_flag() {
        let one = [list("x", 4)];
        assert_eq!(roles(&one, &SchemaChoice::default()).unwrap().dimension, 4);
        let two = [list("x", 4), list("y", 5)];
        assert!(matches!(roles(&two, &SchemaChoice::default()), Err(ReadError::Schema { .. })));
        let choice = SchemaChoice { vector_column: Some("y".into()), first_id: 9, ..Default::default() };
        let chosen = roles(&two, &choice).unwrap();
        assert_eq!((chosen.dimension, chosen.id), (5, IdSource::RowNumberFrom(9)));
        let wrong = SchemaChoice { vector_column: Some("z".into()), ..Default::default() };
        assert!(roles(&two, &wrong).unwrap_err().to_string().contains("no column \"z\""));
    }

    #[test]
    fn numbered_columns_are_a_vector() {
        let mut columns = vec![column("id", ColumnType::String), column("y2020", ColumnType::Float)];
        columns.extend((0..5).map(|n| column(&format!("v{n}"), ColumnType::Float)));
        columns.push(column("v7", ColumnType::Float));
        let roles = roles(&columns, &SchemaChoice::default()).unwrap();
        assert_eq!(roles.vector, VectorSource::Columns((0..5).map(|n| format!("v{n}")).collect()));
        assert_eq!(roles.metadata.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["y2020", "v7"]);
    }

    #[test]
    fn an_object_named_metadata_is_the_metadata() {
        let object = ColumnSample { objects: 1, ..column("metadata", ColumnType::Json) };
        let found = roles(&[list("vector", 2), object.clone()], &SchemaChoice::default()).unwrap();
        assert_eq!((found.metadata_object.as_deref(), found.metadata.len()), (Some("metadata"), 0));
        let none = SchemaChoice { metadata_columns: Some(vec![]), ..Default::default() };
        assert_eq!(roles(&[list("vector", 2), object], &none).unwrap().metadata_object, None);
    }

    #[test]
    fn types_join_upwards() {
        assert_eq!(ColumnType::Integer.join(ColumnType::Float), ColumnType::Float);
        assert_eq!(ColumnType::String.join(ColumnType::Integer), ColumnType::Json);
        assert_eq!(ColumnType::Boolean.join(ColumnType::Boolean), ColumnType::Boolean);
    }
}
