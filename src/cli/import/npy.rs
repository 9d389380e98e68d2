//! NumPy's `.npy` format, versions 1 to 3 (NEP 1 and numpy.lib.format): header, streaming row reader, writer. Reads little- and
//! big-endian floats of 2, 4 and 8 bytes as vectors, and integers for ground truth and ids; C order only. A header is checked
//! against the file's length before anything is allocated. Called by `import`, `export` and `bench`.

use super::{
    fault::{ReadError, RowFault},
    row::{DIMENSION_MAX, Record, Row, RowId, RowReader},
};
use half::f16;
use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// The first bytes of every file of the format.
pub const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// NumPy writes headers of about a hundred bytes; its own reader stops at 10,000 by default.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// An element's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    F16,
    F32,
    F64,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
}

/// An element's type and byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElementType {
    pub kind: Kind,
    pub big_endian: bool,
}

impl ElementType {
    /// Parses NumPy's `descr`, e.g. `<f4`.
    fn parse(descr: &str) -> Option<ElementType> {
        let (order, kind) = descr.split_at_checked(1)?;
        let kind = match kind {
            "f2" => Kind::F16,
            "f4" => Kind::F32,
            "f8" => Kind::F64,
            "i1" => Kind::I8,
            "u1" => Kind::U8,
            "i2" => Kind::I16,
            "u2" => Kind::U16,
            "i4" => Kind::I32,
            "u4" => Kind::U32,
            "i8" => Kind::I64,
            "u8" => Kind::U64,
            _ => return None,
        };
        match order {
            "<" => Some(ElementType { kind, big_endian: false }),
            ">" => Some(ElementType { kind, big_endian: true }),
            "|" if matches!(kind, Kind::I8 | Kind::U8) => Some(ElementType { kind, big_endian: false }),
            _ => None,
        }
    }

    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self.kind {
            Kind::I8 | Kind::U8 => 1,
            Kind::F16 | Kind::I16 | Kind::U16 => 2,
            Kind::F32 | Kind::I32 | Kind::U32 => 4,
            Kind::F64 | Kind::I64 | Kind::U64 => 8,
        }
    }

    /// Whether the element is a float.
    pub const fn is_float(self) -> bool {
        matches!(self.kind, Kind::F16 | Kind::F32 | Kind::F64)
    }

    /// The elements of `row` as f32, rounding where the type is wider.
    pub fn to_f32(self, row: &[u8]) -> Vec<f32> {
        row.chunks_exact(self.bytes()).map(|element| self.number(element) as f32).collect()
    }

    /// The elements of `row` as ids: `None` for a float or a negative number.
    pub fn to_ids(self, row: &[u8]) -> Option<Vec<u64>> {
        row.chunks_exact(self.bytes()).map(|element| self.id(element)).collect()
    }

    fn id(self, element: &[u8]) -> Option<u64> {
        let mut low_first = [0; 8];
        self.copy_low_first(element, &mut low_first);
        let bits = u64::from_le_bytes(low_first);
        match self.kind {
            Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => Some(bits),
            Kind::I8 | Kind::I16 | Kind::I32 | Kind::I64 => (bits >> (self.bytes() * 8 - 1) == 0).then_some(bits),
            Kind::F16 | Kind::F32 | Kind::F64 => None,
        }
    }

    fn number(self, element: &[u8]) -> f64 {
        let mut low_first = [0; 8];
        self.copy_low_first(element, &mut low_first);
        let bits = u64::from_le_bytes(low_first);
        // The narrowing casts keep exactly the element's own bytes.
        match self.kind {
            Kind::F16 => f16::from_bits(bits as u16).to_f64(),
            Kind::F32 => f64::from(f32::from_bits(bits as u32)),
            Kind::F64 => f64::from_bits(bits),
            Kind::I8 => f64::from(bits as i8),
            Kind::I16 => f64::from(bits as i16),
            Kind::I32 => f64::from(bits as i32),
            Kind::I64 => bits as i64 as f64,
            Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => bits as f64,
        }
    }

    fn copy_low_first(self, element: &[u8], low_first: &mut [u8; 8]) {
        low_first[..element.len()].copy_from_slice(element);
        if self.big_endian {
            low_first[..element.len()].reverse();
        }
    }
}

/// An opened array of two dimensions (one of one dimension counts as rows of one element), row by row.
#[derive(Debug)]
pub struct NpyFile {
    path: PathBuf,
    file: BufReader<File>,
    element: ElementType,
    rows: u64,
    columns: usize,
    header_bytes: u64,
    next: u64,
    buffer: Vec<u8>,
}

impl NpyFile {
    /// Opens `path` and checks its header against its length.
    pub fn open(path: &Path) -> Result<NpyFile, ReadError> {
        let file = File::open(path).map_err(ReadError::io(path))?;
        let length = file.metadata().map_err(ReadError::io(path))?.len();
        let mut file = BufReader::with_capacity(1 << 18, file);
        let header = Header::read(&mut file, path)?;
        let (rows, columns) = match header.shape[..] {
            [rows] => (rows, 1),
            [rows, columns] => (rows, columns),
            _ => return Err(ReadError::header(path, "npy", format!("{} axes, 1 or 2 are read", header.shape.len()))),
        };
        if columns == 0 || columns > DIMENSION_MAX as u64 {
            let (field, max) = ("the number of columns", DIMENSION_MAX as u64);
            return Err(ReadError::TooLarge { path: path.to_owned(), field, max, got: columns });
        }
        let columns = columns as usize; // checked above
        let row_bytes = columns * header.element.bytes();
        let expected = rows.checked_mul(row_bytes as u64).and_then(|data| data.checked_add(header.bytes));
        if expected != Some(length) {
            let expected = expected.unwrap_or(u64::MAX);
            return Err(ReadError::Length { path: path.to_owned(), expected, got: length });
        }
        Ok(NpyFile {
            path: path.to_owned(),
            file,
            element: header.element,
            rows,
            columns,
            header_bytes: header.bytes,
            next: 0,
            buffer: vec![0; row_bytes],
        })
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn element(&self) -> ElementType {
        self.element
    }

    /// The bytes of the next row; `None` after the last.
    pub fn next_bytes(&mut self) -> Result<Option<&[u8]>, ReadError> {
        if self.next == self.rows {
            return Ok(None);
        }
        self.file.read_exact(&mut self.buffer).map_err(ReadError::io(&self.path))?;
        self.next += 1;
        Ok(Some(&self.buffer))
    }

    /// Passes over `count` rows, to the end at most.
    pub fn skip(&mut self, count: u64) -> Result<(), ReadError> {
        self.next = self.next.saturating_add(count).min(self.rows);
        let at = self.position_bytes();
        self.file.seek(SeekFrom::Start(at)).map_err(ReadError::io(&self.path))?;
        Ok(())
    }

    fn position_bytes(&self) -> u64 {
        self.header_bytes + self.next * self.buffer.len() as u64
    }
}

#[derive(Debug)]
struct Header {
    element: ElementType,
    shape: Vec<u64>,
    /// Bytes before the first element.
    bytes: u64,
}

impl Header {
    fn read(file: &mut impl Read, path: &Path) -> Result<Header, ReadError> {
        let bad = |problem: String| ReadError::header(path, "npy", problem);
        let mut start = [0; 8];
        exact(file, &mut start, path)?;
        if !start.starts_with(MAGIC) {
            return Err(bad("it does not begin with \\x93NUMPY".into()));
        }
        let (text_bytes, prefix) = match start[6] {
            1 => {
                let mut length = [0; 2];
                exact(file, &mut length, path)?;
                (usize::from(u16::from_le_bytes(length)), 10)
            }
            2 | 3 => {
                let mut length = [0; 4];
                exact(file, &mut length, path)?;
                (u32::from_le_bytes(length) as usize, 12)
            }
            version => return Err(bad(format!("format version {version}, 1 to 3 are read"))),
        };
        if text_bytes > HEADER_BYTES_MAX {
            return Err(bad(format!("a header of {text_bytes} bytes, at most {HEADER_BYTES_MAX} are read")));
        }
        let mut text = vec![0; text_bytes];
        exact(file, &mut text, path)?;
        let text = String::from_utf8(text).map_err(|_| bad("the header is not text".into()))?;
        let (element, shape) = describe(&text).map_err(bad)?;
        Ok(Header { element, shape, bytes: prefix + text_bytes as u64 })
    }
}

fn exact(file: &mut impl Read, buffer: &mut [u8], path: &Path) -> Result<(), ReadError> {
    file.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ReadError::header(path, "npy", "the file ends within its header"),
        _ => ReadError::Io { path: path.to_owned(), source: error },
    })
}

/// Reads the Python dictionary literal of a header: exactly the three keys NumPy writes.
fn describe(text: &str) -> Result<(ElementType, Vec<u64>), String> {
    let descr = quoted(value_of(text, "descr")?).ok_or("structured element types are not read")?;
    let element = ElementType::parse(descr).ok_or_else(|| format!("elements of type {descr:?} are not read"))?;
    let order = value_of(text, "fortran_order")?;
    if order.starts_with("True") {
        return Err("it is in Fortran order; save it with numpy.ascontiguousarray(...)".into());
    } else if !order.starts_with("False") {
        return Err("fortran_order is neither True nor False".into());
    }
    let shape = value_of(text, "shape")?;
    let inner = shape.strip_prefix('(').and_then(|rest| rest.split_once(')')).ok_or("shape is not a tuple")?.0;
    let axes = inner.split(',').map(str::trim).filter(|axis| !axis.is_empty());
    let shape =
        axes.map(|axis| axis.parse::<u64>().map_err(|_| format!("shape has {axis:?}"))).collect::<Result<_, _>>()?;
    Ok((element, shape))
}

/// What follows `'key':` in the dictionary.
fn value_of<'a>(text: &'a str, key: &str) -> Result<&'a str, String> {
    let found = [format!("'{key}'"), format!("\"{key}\"")].into_iter().find_map(|name| Some(text.split_once(&name)?.1));
    let rest = found.and_then(|rest| rest.trim_start().strip_prefix(':'));
    rest.map(str::trim_start).ok_or_else(|| format!("the header has no {key}"))
}

fn quoted(value: &str) -> Option<&str> {
    let quote = value.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    Some(value[1..].split_once(quote)?.0)
}

/// Vectors of an array of floats; ids are `first_id` plus the row's number.
#[derive(Debug)]
pub struct NpyReader {
    file: NpyFile,
    first_id: u64,
}

impl NpyReader {
    /// Refuses arrays that are not of floats or have one axis only.
    pub fn open(path: &Path, first_id: u64) -> Result<NpyReader, ReadError> {
        let file = NpyFile::open(path)?;
        if !file.element.is_float() {
            return Err(ReadError::header(path, "npy", "its elements are integers; vectors are float16, 32 or 64"));
        }
        Ok(NpyReader { file, first_id })
    }

    pub fn rows(&self) -> u64 {
        self.file.rows()
    }

    pub fn dimension(&self) -> usize {
        self.file.columns()
    }
}

impl RowReader for NpyReader {
    fn next_row(&mut self) -> Result<Option<Row>, ReadError> {
        let (number, element) = (self.file.next, self.file.element);
        let Some(bytes) = self.file.next_bytes()? else { return Ok(None) };
        let vector = element.to_f32(bytes);
        Ok(Some(Row { number, content: numbered(self.first_id, number, vector) }))
    }

    fn skip_rows(&mut self, count: u64) -> Result<(), ReadError> {
        self.file.skip(count)
    }

    fn position_bytes(&self) -> u64 {
        self.file.position_bytes()
    }
}

/// The record of a row whose id is its number.
pub(super) fn numbered(first_id: u64, number: u64, vector: Vec<f32>) -> Result<Record, RowFault> {
    match first_id.checked_add(number) {
        Some(id) => Ok(Record { id: RowId::Number(id), vector, metadata: Default::default() }),
        None => Err(RowFault::new(number, "id_overflow", "the row's number plus --first-id is beyond u64")),
    }
}

/// Writes an array of f32 rows whose number need not be known before the end.
#[derive(Debug)]
pub struct NpyWriter {
    file: BufWriter<File>,
    columns: usize,
    rows: u64,
}

impl NpyWriter {
    /// Room for the header: the alignment NumPy uses, enough for any row count.
    const HEADER_BYTES: usize = 128;

    /// Creates (or empties) `path` for rows of `columns` elements.
    pub fn create(path: &Path, columns: usize) -> io::Result<NpyWriter> {
        let mut writer = NpyWriter { file: BufWriter::with_capacity(1 << 18, File::create(path)?), columns, rows: 0 };
        writer.file.write_all(&writer.header())?;
        Ok(writer)
    }

    /// Appends a row.
    pub fn push(&mut self, row: &[f32]) -> io::Result<()> {
        if row.len() != self.columns {
            let problem = format!("a row of {} elements in an array of {} columns", row.len(), self.columns);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        self.rows += 1;
        row.iter().try_for_each(|x| self.file.write_all(&x.to_le_bytes()))
    }

    /// Writes the header with the number of rows; until then the file reads as an empty array.
    pub fn finish(mut self) -> io::Result<()> {
        let header = self.header();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header)?;
        self.file.flush()
    }

    fn header(&self) -> Vec<u8> {
        let shape = format!("({}, {})", self.rows, self.columns);
        let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
        let mut header = MAGIC.to_vec();
        header.extend([1, 0]);
        header.extend(((Self::HEADER_BYTES - 10) as u16).to_le_bytes());
        header.extend(text.as_bytes());
        header.resize(Self::HEADER_BYTES - 1, b' ');
        header.push(b'\n');
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(text: &str) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes
    }

    fn array(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = header(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"));
        bytes.extend(data);
        bytes
    }

    fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.npy");
        std::fs::write(&path, bytes).unwrap();
        (directory, path)
    }

    fn rows(path: &Path) -> Result<Vec<Vec<f32>>, ReadError> {
        let mut reader = NpyReader::open(path, 0)?;
        let mut rows = Vec::new();
        while let Some(row) = reader.next_row()? {
            rows.push(row.content.unwrap().vector);
        }
        Ok(rows)
    }

    #[test]
    fn floats_of_every_width_and_order_read_the_same() {
        let values = [1.0f32, -2.5, 0.25, 96.0, -0.0, 3.0];
        let half: Vec<u8> = values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        let single: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let double: Vec<u8> = values.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect();
        let big: Vec<u8> = values.iter().flat_map(|x| x.to_be_bytes()).collect();
        for (descr, data) in [("<f2", &half), ("<f4", &single), ("<f8", &double), (">f4", &big)] {
            let (_keep, path) = file(&array(descr, "(2, 3)", data));
            assert_eq!(rows(&path).unwrap(), [&values[..3], &values[3..]], "{descr}");
        }
    }

    #[test]
    fn integers_are_ids_and_not_vectors() {
        let data: Vec<u8> = [3i32, 7].iter().flat_map(|x| x.to_le_bytes()).collect();
        let (_keep, path) = file(&array("<i4", "(1, 2)", &data));
        assert!(matches!(NpyReader::open(&path, 0), Err(ReadError::Header { .. })));
        let mut ids = NpyFile::open(&path).unwrap();
        let element = ids.element();
        assert_eq!(element.to_ids(ids.next_bytes().unwrap().unwrap()), Some(vec![3, 7]));
        let signed = ElementType::parse("<i8").unwrap();
        assert_eq!(signed.to_ids(&(-1i64).to_le_bytes()), None);
        assert_eq!(ElementType::parse(">u4").unwrap().to_ids(&5u32.to_be_bytes()), Some(vec![5]));
    }

    #[test]
    fn a_length_that_contradicts_the_header_is_refused_at_once() {
        for data in [&[0u8; 8][..], &[0; 16], &[]] {
            let (_keep, path) = file(&array("<f4", "(1, 3)", data));
            assert!(matches!(NpyReader::open(&path, 0), Err(ReadError::Length { .. })), "{}", data.len());
        }
    }

    #[test]
    fn huge_shapes_and_headers_allocate_nothing() {
        for shape in ["(18446744073709551615, 8)", "(1000000000000, 128)"] {
            let (_keep, path) = file(&array("<f4", shape, &[0; 64]));
            assert!(matches!(NpyReader::open(&path, 0), Err(ReadError::Length { .. })), "{shape}");
        }
        let (_keep, path) = file(&array("<f4", "(1, 4000000000)", &[0; 64]));
        assert!(matches!(NpyReader::open(&path, 0), Err(ReadError::TooLarge { .. })));
        let mut bytes = MAGIC.to_vec();
        bytes.extend([2, 0, 0xff, 0xff, 0xff, 0xff]);
        let (_keep, path) = file(&bytes);
        assert!(matches!(NpyReader::open(&path, 0), Err(ReadError::Header { .. })));
    }

    #[test]
    fn other_layouts_are_refused_with_a_reason() {
        let fortran = header("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2), }");
        let bad = [
            fortran,
            header("{'descr': '<c8', 'fortran_order': False, 'shape': (0, 2), }"),
            header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (0, 2), }"),
            header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 2), }"),
            header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 3), }"),
            header("{}"),
            b"\x93NUMPY\x09\0\0\0".to_vec(),
            b"\x93NUM".to_vec(),
            vec![],
        ];
        for bytes in bad {
            let (_keep, path) = file(&bytes);
            let error = NpyReader::open(&path, 0).unwrap_err();
            assert!(matches!(error, ReadError::Header { .. }), "{error}");
        }
    }

    #[test]
    fn skipping_lands_on_the_right_row() {
        let data: Vec<u8> = (0..10).flat_map(|x| (x as f32).to_le_bytes()).collect();
        let (_keep, path) = file(&array("<f4", "(10, 1)", &data));
        let mut reader = NpyReader::open(&path, 100).unwrap();
        reader.next_row().unwrap();
        reader.skip_rows(6).unwrap();
        let row = reader.next_row().unwrap().unwrap();
        let record = row.content.unwrap();
        assert_eq!((row.number, record.id, record.vector), (7, RowId::Number(107), vec![7.0]));
        reader.skip_rows(u64::MAX).unwrap();
        assert!(reader.next_row().unwrap().is_none());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(columns in 1usize..40, bits in prop::collection::vec(any::<u32>(), 0..400)) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("a.npy");
            let mut writer = NpyWriter::create(&path, columns).unwrap();
            let data: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).filter(|x| !x.is_nan()).collect();
            let expected: Vec<Vec<f32>> = data.chunks_exact(columns).map(<[f32]>::to_vec).collect();
            for row in &expected {
                writer.push(row).unwrap();
            }
            writer.finish().unwrap();
            prop_assert_eq!(rows(&path).unwrap(), expected);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), with_magic: bool) {
            let mut content = if with_magic { b"\x93NUMPY\x01\0".to_vec() } else { Vec::new() };
            content.extend(bytes);
            let (_keep, path) = file(&content);
            let _ = rows(&path);
        }
    }
}
