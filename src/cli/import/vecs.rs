//! The `.fvecs`, `.bvecs` and `.ivecs` formats of the TEXMEX corpus (corpus-texmex.irisa.fr): every row is its dimension as a
//! little-endian i32, then as many f32, u8 or i32. The first row fixes the dimension; the file's length is checked against it
//! before the rows are read. Called by `import` and `bench`.

use super::{
    fault::ReadError,
    npy::numbered,
    row::{DIMENSION_MAX, Row, RowReader},
};
use std::{
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// What a row is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VecsElement {
    F32,
    U8,
    I32,
}

impl VecsElement {
    const fn bytes(self) -> usize {
        match self {
            VecsElement::U8 => 1,
            VecsElement::F32 | VecsElement::I32 => 4,
        }
    }
}

/// Bytes of the dimension before each row.
const PREFIX_BYTES: usize = 4;

/// Rows of one of the formats; ids are `first_id` plus the row's number.
#[derive(Debug)]
pub struct VecsReader {
    path: PathBuf,
    file: BufReader<File>,
    element: VecsElement,
    first_id: u64,
    rows: u64,
    dimension: usize,
    next: u64,
    buffer: Vec<u8>,
}

impl VecsReader {
    /// Opens `path`, reads the dimension of its first row and checks that whole rows fill the file.
    pub fn open(path: &Path, element: VecsElement, first_id: u64) -> Result<VecsReader, ReadError> {
        let mut file = File::open(path).map_err(ReadError::io(path))?;
        let length = file.metadata().map_err(ReadError::io(path))?.len();
        if length < PREFIX_BYTES as u64 {
            return Err(ReadError::Length { path: path.to_owned(), expected: PREFIX_BYTES as u64, got: length });
        }
        let mut prefix = [0; PREFIX_BYTES];
        file.read_exact(&mut prefix).map_err(ReadError::io(path))?;
        let dimension = i32::from_le_bytes(prefix);
        if dimension <= 0 {
            return Err(ReadError::header(path, "vecs", format!("the first row has dimension {dimension}")));
        }
        let dimension = dimension as usize; // positive
        if dimension > DIMENSION_MAX {
            let (max, got) = (DIMENSION_MAX as u64, dimension as u64);
            return Err(ReadError::TooLarge { path: path.to_owned(), field: "the dimension", max, got });
        }
        let row_bytes = PREFIX_BYTES + dimension * element.bytes();
        let rows = length.div_ceil(row_bytes as u64);
        if rows * row_bytes as u64 != length {
            return Err(ReadError::Length { path: path.to_owned(), expected: rows * row_bytes as u64, got: length });
        }
        file.seek(SeekFrom::Start(0)).map_err(ReadError::io(path))?;
        let file = BufReader::with_capacity(1 << 18, file);
        Ok(VecsReader {
            path: path.to_owned(),
            file,
            element,
            first_id,
            rows,
            dimension,
            next: 0,
            buffer: vec![0; row_bytes],
        })
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The next row of an `.ivecs` file as ids; `None` after the last. A negative number is an error of the file.
    pub fn next_ids(&mut self) -> Result<Option<Vec<u64>>, ReadError> {
        let (path, row) = (self.path.clone(), self.next);
        let Some(body) = self.next_body()? else { return Ok(None) };
        let ids: Option<Vec<u64>> = body.chunks_exact(4).map(|id| u64::try_from(int(id)).ok()).collect();
        ids.map(Some).ok_or_else(|| ReadError::header(&path, "ivecs", format!("row {row} has a negative id")))
    }

    fn next_body(&mut self) -> Result<Option<&[u8]>, ReadError> {
        if self.next == self.rows {
            return Ok(None);
        }
        self.file.read_exact(&mut self.buffer).map_err(ReadError::io(&self.path))?;
        let (prefix, body) = self.buffer.split_at(PREFIX_BYTES);
        let got = int(prefix);
        if usize::try_from(got) != Ok(self.dimension) {
            let (row, expected, got) = (self.next, self.dimension, i64::from(got));
            return Err(ReadError::Ragged { path: self.path.clone(), row, expected, got });
        }
        self.next += 1;
        Ok(Some(body))
    }
}

fn int(bytes: &[u8]) -> i32 {
    i32::from_le_bytes(bytes.try_into().expect("invariant: called with four bytes"))
}

impl RowReader for VecsReader {
    fn next_row(&mut self) -> Result<Option<Row>, ReadError> {
        let (number, element, first_id) = (self.next, self.element, self.first_id);
        let Some(body) = self.next_body()? else { return Ok(None) };
        let vector = match element {
            VecsElement::F32 => body.chunks_exact(4).map(|x| f32::from_bits(int(x) as u32)).collect(),
            VecsElement::I32 => body.chunks_exact(4).map(|x| int(x) as f32).collect(),
            VecsElement::U8 => body.iter().map(|x| f32::from(*x)).collect(),
        };
        Ok(Some(Row { number, content: numbered(first_id, number, vector) }))
    }

    fn skip_rows(&mut self, count: u64) -> Result<(), ReadError> {
        self.next = self.next.saturating_add(count).min(self.rows);
        let at = self.position_bytes();
        self.file.seek(SeekFrom::Start(at)).map_err(ReadError::io(&self.path))?;
        Ok(())
    }

    fn position_bytes(&self) -> u64 {
        self.next * self.buffer.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open(bytes: &[u8], element: VecsElement) -> Result<(tempfile::TempDir, VecsReader), ReadError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.vecs");
        std::fs::write(&path, bytes).unwrap();
        VecsReader::open(&path, element, 5).map(|reader| (directory, reader))
    }

    fn fvecs(rows: &[&[f32]]) -> Vec<u8> {
        let row = |row: &&[f32]| {
            let values = row.iter().flat_map(|x| x.to_le_bytes());
            (row.len() as i32).to_le_bytes().into_iter().chain(values).collect::<Vec<u8>>()
        };
        rows.iter().flat_map(row).collect()
    }

    #[test]
    fn every_element_type_reads() {
        let (_keep, mut reader) = open(&fvecs(&[&[1.5, -2.0], &[0.0, 9.0]]), VecsElement::F32).unwrap();
        assert_eq!((reader.rows(), reader.dimension()), (2, 2));
        reader.skip_rows(1).unwrap();
        let row = reader.next_row().unwrap().unwrap();
        assert_eq!((row.number, row.content.unwrap().vector), (1, vec![0.0, 9.0]));
        assert!(reader.next_row().unwrap().is_none());
        let (_keep, mut reader) = open(&[3, 0, 0, 0, 0, 128, 255], VecsElement::U8).unwrap();
        assert_eq!(reader.next_row().unwrap().unwrap().content.unwrap().vector, [0.0, 128.0, 255.0]);
        let (_keep, mut reader) = open(&[1, 0, 0, 0, 254, 255, 255, 255], VecsElement::I32).unwrap();
        assert_eq!(reader.next_row().unwrap().unwrap().content.unwrap().vector, [-2.0]);
        reader.skip_rows(0).unwrap();
    }

    #[test]
    fn damage_is_a_typed_error() {
        let whole = fvecs(&[&[1.0, 2.0], &[3.0, 4.0]]);
        assert!(matches!(open(&whole[..20], VecsElement::F32), Err(ReadError::Length { expected: 24, got: 20, .. })));
        assert!(matches!(open(&[], VecsElement::F32), Err(ReadError::Length { .. })));
        assert!(matches!(open(&[0, 0, 0, 0], VecsElement::F32), Err(ReadError::Header { .. })));
        assert!(matches!(open(&[255; 8], VecsElement::F32), Err(ReadError::Header { .. })));
        assert!(matches!(open(&[255, 255, 255, 127, 0], VecsElement::U8), Err(ReadError::TooLarge { .. })));
        let mut ragged = whole;
        ragged[12] = 3;
        let (_keep, mut reader) = open(&ragged, VecsElement::F32).unwrap();
        reader.next_row().unwrap();
        assert!(matches!(reader.next_row(), Err(ReadError::Ragged { row: 1, expected: 2, got: 3, .. })));
    }

    #[test]
    fn ids_are_not_negative() {
        let (_keep, mut reader) = open(&[2, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0], VecsElement::I32).unwrap();
        assert_eq!(reader.next_ids().unwrap(), Some(vec![7, 1]));
        let (_keep, mut reader) = open(&[1, 0, 0, 0, 255, 255, 255, 255], VecsElement::I32).unwrap();
        assert!(matches!(reader.next_ids(), Err(ReadError::Header { .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), dimension in 0i32..5) {
            let content = [&dimension.to_le_bytes()[..], &bytes].concat();
            if let Ok((_keep, mut reader)) = open(&content, VecsElement::F32) {
                while let Ok(Some(_)) = reader.next_row() {}
            }
        }
    }
}
