//! Ids from a file beside the vectors: one a line, raw or as a JSON string, as `export` writes them beside an `.npy` file. Called
//! by `import --ids`.

use super::{
    fault::{ReadError, RowFault},
    lines::{Line, LineReader},
    row::{Row, RowId, RowReader},
};
use std::path::{Path, PathBuf};

/// Rows of another reader under the ids of a file.
pub struct WithIds {
    rows: Box<dyn RowReader>,
    lines: LineReader,
    path: PathBuf,
}

impl WithIds {
    pub fn open(rows: Box<dyn RowReader>, path: &Path) -> Result<WithIds, ReadError> {
        Ok(WithIds { rows, lines: LineReader::open(path)?, path: path.to_owned() })
    }

    fn next_id(&mut self, row: u64) -> Result<Result<RowId, RowFault>, ReadError> {
        match self.lines.next_line()? {
            Some(Line::Text { text, .. }) => Ok(parse(text.trim())
                .ok_or_else(|| RowFault::new(row, "bad_id", format!("the id {text} is not a JSON string")))),
            Some(Line::Bad { code, message, .. }) => Ok(Err(RowFault::new(row, code, message))),
            None => Err(ReadError::schema(&self.path, format!("it has {row} ids, the vectors are more"))),
        }
    }
}

fn parse(text: &str) -> Option<RowId> {
    if text.starts_with('"') {
        return serde_json::from_str(text).ok().map(RowId::Text);
    }
    Some(match text.parse::<u64>() {
        Ok(number) if number.to_string() == text => RowId::Number(number),
        _ => RowId::Text(text.to_owned()),
    })
}

impl RowReader for WithIds {
    fn next_row(&mut self) -> Result<Option<Row>, ReadError> {
        let Some(mut row) = self.rows.next_row()? else {
            if self.lines.next_line()?.is_some() {
                return Err(ReadError::schema(&self.path, "it has more ids than there are vectors"));
            }
            return Ok(None);
        };
        let id = self.next_id(row.number)?;
        row.content = row.content.and_then(|record| Ok(super::row::Record { id: id?, ..record }));
        Ok(Some(row))
    }

    fn skip_rows(&mut self, count: u64) -> Result<(), ReadError> {
        self.rows.skip_rows(count)?;
        for _ in 0..count {
            if self.lines.next_line()?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn position_bytes(&self) -> u64 {
        self.rows.position_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::import::{npy::NpyReader, npy::NpyWriter};

    fn ids(text: &str) -> Result<Vec<RowId>, ReadError> {
        let directory = tempfile::tempdir().unwrap();
        let (vectors, ids) = (directory.path().join("a.npy"), directory.path().join("ids"));
        let mut writer = NpyWriter::create(&vectors, 1).unwrap();
        (0..3).for_each(|x| writer.push(&[x as f32]).unwrap());
        writer.finish().unwrap();
        std::fs::write(&ids, text).unwrap();
        let mut reader = WithIds::open(Box::new(NpyReader::open(&vectors, 0)?), &ids)?;
        let mut found = Vec::new();
        while let Some(row) = reader.next_row()? {
            found.push(row.content.unwrap().id);
        }
        Ok(found)
    }

    #[test]
    fn ids_go_with_their_rows() {
        let expected = [RowId::Number(7), RowId::Text("007".into()), RowId::Text("a\nb".into())];
        assert_eq!(ids("7\n007\n\"a\\nb\"\n").unwrap(), expected);
        assert!(ids("1\n2\n").unwrap_err().to_string().contains("it has 2 ids"));
        assert!(ids("1\n2\n3\n4\n").unwrap_err().to_string().contains("more ids"));
    }
}
