//! Rows gathered into request bodies: reads on from where an earlier run stopped, checks every record before it is sent, and
//! writes the binary body where a batch allows it, JSON otherwise. Blocking work. Called by `import`.

use super::{
    fault::{ReadError, RowFault},
    ranges::RowRanges,
    row::{Record, RowId, RowReader},
};
use crate::{cli::client::DocumentsBody, types::Metric};
use serde::{Serialize, Serializer, ser::SerializeSeq};
use serde_json::{Map, Value};

/// About how many bytes of vectors and metadata one request carries at most, whatever `--batch` says.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// What a table asks of a record.
#[derive(Clone, Copy, Debug)]
pub struct Requirements {
    pub dimension: usize,
    pub metric: Option<Metric>,
}

impl Requirements {
    /// Refuses what the server would refuse, without asking it.
    pub fn check(&self, row: u64, record: &Record) -> Result<(), RowFault> {
        let vector = &record.vector;
        if vector.len() != self.dimension {
            let fault = RowFault::new(row, "dimension_mismatch", "the vector has another dimension");
            return Err(fault.at("vector", self.dimension, vector.len()));
        }
        if let Some(at) = vector.iter().position(|x| !x.is_finite()) {
            let field = format!("vector[{at}]");
            let fault = RowFault::new(row, "not_finite", "the vector has an element that is not a finite f32");
            return Err(fault.at(&field, "a finite number", vector[at].to_string()));
        }
        if self.metric == Some(Metric::Cosine) && vector.iter().all(|x| *x == 0.0) {
            let fault = RowFault::new(row, "zero_vector", "a zero vector has no direction, which cosine needs");
            return Err(fault.at("vector", "a norm above 0", 0));
        }
        Ok(())
    }
}

/// Some consecutive rows of the file.
#[derive(Debug, Default)]
pub struct Batch {
    /// The first row, and the first after it that is not in the batch.
    pub rows: (u64, u64),
    /// How far into the file the batch reaches.
    pub end_bytes: u64,
    /// The rows to send, with their numbers.
    pub records: Vec<(u64, Record)>,
    /// The rows that cannot be sent.
    pub faults: Vec<RowFault>,
}

/// Cuts a file into batches.
pub struct BatchSource {
    reader: Box<dyn RowReader>,
    requirements: Requirements,
    done: RowRanges,
    batch_rows: usize,
    next: u64,
}

impl BatchSource {
    /// `done`: rows to pass over.
    pub fn new(
        reader: Box<dyn RowReader>,
        requirements: Requirements,
        done: RowRanges,
        batch_rows: usize,
    ) -> BatchSource {
        BatchSource { reader, requirements, done, batch_rows, next: 0 }
    }

    /// The next batch; `None` at the end of the file.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, ReadError> {
        while let Some(end) = self.done.end_of(self.next) {
            self.reader.skip_rows(end - self.next)?;
            self.next = end;
        }
        let stop = self.done.next_start(self.next).unwrap_or(u64::MAX);
        let mut batch = Batch { rows: (self.next, self.next), ..Batch::default() };
        let mut bytes = 0;
        while self.next < stop && batch.records.len() + batch.faults.len() < self.batch_rows && bytes < BATCH_BYTES_MAX
        {
            let Some(row) = self.reader.next_row()? else { break };
            self.next = row.number + 1;
            match row.content.and_then(|record| self.checked(row.number, record)) {
                Ok(record) => {
                    bytes += record.vector.len() * 4
                        + record.metadata.iter().map(|(key, value)| key.len() + weight(value)).sum::<usize>();
                    batch.records.push((row.number, record));
                }
                Err(fault) => batch.faults.push(fault),
            }
        }
        batch.rows.1 = self.next;
        batch.end_bytes = self.reader.position_bytes();
        Ok(if batch.rows.0 == batch.rows.1 { None } else { Some(batch) })
    }

    fn checked(&self, row: u64, record: Record) -> Result<Record, RowFault> {
        match self.requirements.check(row, &record) {
            Ok(()) => Ok(record),
            Err(fault) => Err(RowFault { document: Some(Box::new(record.to_document())), ..fault }),
        }
    }
}

/// About the bytes of a value as JSON.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(list) => list.iter().map(weight).sum::<usize>() + 2,
        Value::Object(members) => members.iter().map(|(key, value)| key.len() + 3 + weight(value)).sum::<usize>() + 2,
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
    }
}

/// Writes the request body of some records.
///
/// Binary (`u32` count, `u32` dimension, count × `u64` ids, count × dimension × `f32`, all little-endian) if every id is a
/// number and nothing has metadata: a third of the bytes and none of the parsing.
pub fn encode(records: &[(u64, Record)]) -> DocumentsBody {
    let ids: Option<Vec<u64>> = records.iter().map(|(_, record)| binary_id(record)).collect();
    let dimension = records.first().map_or(0, |(_, record)| record.vector.len());
    let even = records.iter().all(|(_, record)| record.vector.len() == dimension);
    match ids {
        Some(ids) if even => binary(&ids, dimension, records),
        _ => json(records),
    }
}

fn binary_id(record: &Record) -> Option<u64> {
    match record.id {
        RowId::Number(id) if record.metadata.is_empty() => Some(id),
        RowId::Number(_) | RowId::Text(_) => None,
    }
}

fn binary(ids: &[u64], dimension: usize, records: &[(u64, Record)]) -> DocumentsBody {
    let size = |n: usize| u32::try_from(n).expect("invariant: batches and dimensions are bounded far below u32");
    let mut bytes = Vec::with_capacity(8 + ids.len() * (8 + 4 * dimension));
    bytes.extend(size(ids.len()).to_le_bytes());
    bytes.extend(size(dimension).to_le_bytes());
    ids.iter().for_each(|id| bytes.extend(id.to_le_bytes()));
    for (_, record) in records {
        record.vector.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
    }
    DocumentsBody { content_type: "application/octet-stream", bytes: bytes.into() }
}

fn json(records: &[(u64, Record)]) -> DocumentsBody {
    #[derive(Serialize)]
    struct Documents<'a> {
        documents: Each<'a>,
    }
    struct Each<'a>(&'a [(u64, Record)]);
    impl Serialize for Each<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut list = serializer.serialize_seq(Some(self.0.len()))?;
            for (_, record) in self.0 {
                let metadata = Some(&record.metadata).filter(|metadata| !metadata.is_empty());
                list.serialize_element(&Wire { document_id: record.id.to_string(), vector: &record.vector, metadata })?;
            }
            list.end()
        }
    }
    #[derive(Serialize)]
    struct Wire<'a> {
        document_id: String,
        vector: &'a [f32],
        #[serde(skip_serializing_if = "Option::is_none")]
        metadata: Option<&'a Map<String, Value>>,
    }
    let bytes = serde_json::to_vec(&Documents { documents: Each(records) }).expect("invariant: string keys only");
    DocumentsBody { content_type: "application/json", bytes: bytes.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::import::row::Row;

    /// Rows 0, 1, 2 … whose vector is their number; every tenth is faulty.
    struct Counting {
        next: u64,
        end: u64,
    }

    impl RowReader for Counting {
        fn next_row(&mut self) -> Result<Option<Row>, ReadError> {
            if self.next >= self.end {
                return Ok(None);
            }
            let number = self.next;
            self.next += 1;
            let dimension = if number % 10 == 9 { 3 } else { 2 };
            let vector = vec![number as f32; dimension];
            Ok(Some(Row { number, content: Ok(Record { id: RowId::Number(number), vector, metadata: Map::new() }) }))
        }

        fn skip_rows(&mut self, count: u64) -> Result<(), ReadError> {
            self.next = (self.next + count).min(self.end);
            Ok(())
        }

        fn position_bytes(&self) -> u64 {
            self.next
        }
    }

    fn batches(done: &[(u64, u64)], end: u64, batch_rows: usize) -> Vec<Batch> {
        let requirements = Requirements { dimension: 2, metric: Some(Metric::Euclidean) };
        let done = RowRanges::from(done.to_vec());
        let mut source = BatchSource::new(Box::new(Counting { next: 0, end }), requirements, done, batch_rows);
        std::iter::from_fn(|| source.next_batch().unwrap()).collect()
    }

    #[test]
    fn what_is_done_is_passed_over_and_nothing_else() {
        let rows = |done: &[(u64, u64)], end| batches(done, end, 8).iter().map(|batch| batch.rows).collect::<Vec<_>>();
        assert_eq!(rows(&[], 20), [(0, 8), (8, 16), (16, 20)]);
        assert_eq!(rows(&[(0, 8), (10, 12)], 20), [(8, 10), (12, 20)]);
        assert_eq!(rows(&[(0, 20)], 20), []);
        assert_eq!(rows(&[(3, 30)], 20), [(0, 3)]);
    }

    #[test]
    fn faulty_rows_are_set_apart() {
        let all = batches(&[], 20, 20);
        assert_eq!(all[0].records.len(), 18);
        let faults: Vec<(u64, &str)> = all[0].faults.iter().map(|fault| (fault.row, fault.code.as_str())).collect();
        assert_eq!(faults, [(9, "dimension_mismatch"), (19, "dimension_mismatch")]);
        assert_eq!(all[0].faults[0].document.as_ref().unwrap()["document_id"], "9");
    }

    #[test]
    fn records_are_checked_as_the_server_would() {
        let record = |vector: Vec<f32>| Record { id: RowId::Number(1), vector, metadata: Map::new() };
        let cosine = Requirements { dimension: 2, metric: Some(Metric::Cosine) };
        let code = |vector| cosine.check(0, &record(vector)).map_err(|fault| fault.code);
        assert_eq!(code(vec![1.0, f32::NAN]), Err("not_finite".into()));
        assert_eq!(code(vec![f32::INFINITY, 0.0]), Err("not_finite".into()));
        assert_eq!(code(vec![0.0, -0.0]), Err("zero_vector".into()));
        assert_eq!(code(vec![0.0, 1e-30]), Ok(()));
        let dot = Requirements { metric: Some(Metric::Dot), ..cosine };
        assert_eq!(dot.check(0, &record(vec![0.0, 0.0])), Ok(()));
    }

    #[test]
    fn the_binary_body_has_golden_bytes() {
        let record =
            |id, vector: &[f32]| (0, Record { id: RowId::Number(id), vector: vector.to_vec(), metadata: Map::new() });
        let body = encode(&[record(1, &[1.0]), record(u64::MAX, &[-2.0])]);
        assert_eq!(body.content_type, "application/octet-stream");
        let mut expected = vec![2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([255; 8]);
        expected.extend([0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
        assert_eq!(body.bytes, expected);
    }

    #[test]
    fn text_ids_or_metadata_make_it_json() {
        let metadata: Map<String, Value> = [("a".to_owned(), Value::from(1))].into_iter().collect();
        let body = encode(&[
            (0, Record { id: RowId::Number(7), vector: vec![0.1], metadata }),
            (1, Record { id: RowId::Text("x".into()), vector: vec![2.0], metadata: Map::new() }),
        ]);
        let expected = r#"{"documents":[{"document_id":"7","vector":[0.1],"metadata":{"a":1}},{"document_id":"x","vector":[2.0]}]}"#;
        assert_eq!((body.content_type, &body.bytes[..]), ("application/json", expected.as_bytes()));
    }
}
