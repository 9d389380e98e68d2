//! From a path to a schema and a reader: the one place that knows every format. Called by `import`.

use super::{
    csv,
    fault::ReadError,
    format::Format,
    ids::WithIds,
    jsonl,
    jsonl::JsonlReader,
    npy::NpyReader,
    row::RowReader,
    schema::{IdSource, Schema, SchemaChoice},
    vecs::{VecsElement, VecsReader},
};
use std::path::Path;

/// Infers what the file holds. Blocking; reads at most the first rows.
pub fn inspect(path: &Path, format: Format, choice: &SchemaChoice) -> Result<Schema, ReadError> {
    let first = choice.first_id;
    match format {
        Format::Npy => {
            let npy = NpyReader::open(path, first)?;
            Schema::of_vectors(format, path, npy.rows(), npy.dimension(), first)
        }
        Format::Fvecs | Format::Bvecs | Format::Ivecs => {
            let vecs = VecsReader::open(path, element(format), first)?;
            Schema::of_vectors(format, path, vecs.rows(), vecs.dimension(), first)
        }
        Format::Jsonl => jsonl::inspect(path, choice),
        Format::Csv => csv::inspect(path, choice),
        #[cfg(feature = "parquet")]
        Format::Parquet => super::parquet::inspect(path, choice),
        #[cfg(not(feature = "parquet"))]
        Format::Parquet => Err(without_parquet(path)),
    }
}

/// Opens the file at its first row. Blocking.
pub fn open(path: &Path, schema: &Schema) -> Result<Box<dyn RowReader>, ReadError> {
    let first = schema.first_id().unwrap_or(0);
    let rows: Box<dyn RowReader> = match schema.format {
        Format::Npy => Box::new(NpyReader::open(path, first)?),
        format @ (Format::Fvecs | Format::Bvecs | Format::Ivecs) => {
            Box::new(VecsReader::open(path, element(format), first)?)
        }
        Format::Jsonl => Box::new(JsonlReader::open(path, schema)?),
        Format::Csv => Box::new(csv::CsvReader::open(path, schema)?),
        #[cfg(feature = "parquet")]
        Format::Parquet => Box::new(super::parquet::ParquetReader::open(path, schema)?),
        #[cfg(not(feature = "parquet"))]
        Format::Parquet => return Err(without_parquet(path)),
    };
    match &schema.id {
        IdSource::File(ids) => Ok(Box::new(WithIds::open(rows, ids)?)),
        IdSource::Column(_) | IdSource::RowNumberFrom(_) => Ok(rows),
    }
}

fn element(format: Format) -> VecsElement {
    match format {
        Format::Bvecs => VecsElement::U8,
        Format::Ivecs => VecsElement::I32,
        _ => VecsElement::F32,
    }
}

#[cfg(not(feature = "parquet"))]
fn without_parquet(path: &Path) -> ReadError {
    let problem = "this build does not read parquet; build with `--features parquet`".to_owned();
    ReadError::Unsupported { path: path.to_owned(), problem }
}
