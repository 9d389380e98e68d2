//! The octet-stream body of a bulk write: u32 count, u32 dimension, count u64 ids, count × dimension f32, all little
//! endian, nothing else. No field is parsed, so loading costs a copy. Called by `handlers::write_documents`.

use crate::types::{
    DocumentId, Error, Payload, Point, Vector, VectorName,
    limits::{BATCH_POINTS_MAX, DIMENSION_MAX},
};

/// Media type of this body.
pub const MEDIA_TYPE: &str = "application/octet-stream";

const HEADER_BYTES: usize = 8;
const ID_BYTES: usize = 8;
const COMPONENT_BYTES: usize = 4;

/// Reads a bulk body. The header is checked against the body's length before anything is allocated. Cost: one copy and
/// one check of the components.
///
/// # Errors
/// `bad_bulk_body`, `too_many`, `empty_batch`, `bad_dimension`; `not_finite` with row and id.
pub fn read(body: &[u8]) -> Result<Vec<Point>, Error> {
    let (count, dimension) = header(body)?;
    let (ids, components) = body[HEADER_BYTES..].split_at(count * ID_BYTES);
    let rows = components.chunks_exact(dimension * COMPONENT_BYTES);
    ids.as_chunks::<ID_BYTES>()
        .0
        .iter()
        .zip(rows)
        .enumerate()
        .map(|(row, (id, bytes))| point(row, *id, bytes))
        .collect()
}

/// Count and dimension, proven to fit the body exactly.
fn header(body: &[u8]) -> Result<(usize, usize), Error> {
    let bad = |expected: String| {
        Error::invalid("bad_bulk_body", "the body's length does not fit its header")
            .expected(expected)
            .got(format!("{} bytes", body.len()))
    };
    let Some(header) = body.first_chunk::<HEADER_BYTES>() else {
        return Err(bad("at least 8 bytes: u32 count, u32 dimension".to_owned()));
    };
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
    let (count, dimension) = (number(0), number(4));
    if count == 0 {
        return Err(Error::invalid("empty_batch", "the body has no rows").at("count").expected("1 or more").got(0));
    }
    if count > BATCH_POINTS_MAX {
        let bound = format!("at most {BATCH_POINTS_MAX}");
        return Err(Error::invalid("too_many", "the body has too many rows").at("count").expected(bound).got(count));
    }
    if !(1..=DIMENSION_MAX).contains(&dimension) {
        return Err(Error::invalid("bad_dimension", "a vector cannot have this dimension")
            .at("dimension")
            .expected(format!("1 to {DIMENSION_MAX}"))
            .got(dimension));
    }
    // The bounds above keep this below 2^35.
    let expected = HEADER_BYTES as u64 + count as u64 * (ID_BYTES as u64 + (dimension * COMPONENT_BYTES) as u64);
    if body.len() as u64 != expected {
        return Err(bad(format!("{expected} bytes for {count} rows of dimension {dimension}")));
    }
    Ok((count, dimension))
}

fn point(row: usize, id: [u8; ID_BYTES], bytes: &[u8]) -> Result<Point, Error> {
    let id = u64::from_le_bytes(id);
    let components = bytes.as_chunks::<COMPONENT_BYTES>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
    let vector = Vector::new(components).map_err(|error| error.at("vector").row(row).document(id))?;
    Ok(Point {
        id: DocumentId::Num(id),
        vectors: vec![(VectorName::default(), vector)],
        payload: Payload::default(),
        if_version: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body(count: u32, dimension: u32, rows: &[(u64, Vec<f32>)]) -> Vec<u8> {
        let mut out = [count.to_le_bytes(), dimension.to_le_bytes()].concat();
        rows.iter().for_each(|(id, _)| out.extend(id.to_le_bytes()));
        rows.iter().flat_map(|(_, row)| row).for_each(|c| out.extend(c.to_le_bytes()));
        out
    }

    #[test]
    fn rows_come_out_as_they_went_in() {
        let points = read(&body(2, 2, &[(7, vec![1.0, 2.0]), (u64::MAX, vec![3.0, -4.0])])).unwrap();
        assert_eq!(points[1].id, DocumentId::Num(u64::MAX));
        assert_eq!(points[0].vectors[0].1.as_slice(), [1.0, 2.0]);
        assert_eq!(points[1].vectors[0].1.as_slice(), [3.0, -4.0]);
    }

    #[test]
    fn errors_name_row_and_id() {
        let error = read(&body(2, 2, &[(7, vec![1.0, 2.0]), (9, vec![3.0, f32::NAN])])).unwrap_err();
        let detail = error.detail();
        assert_eq!((error.code(), detail.field.as_deref()), ("not_finite", Some("vector[1]")));
        assert_eq!((detail.row, detail.document_id.as_deref()), (Some(1), Some("9")));
    }

    #[test]
    fn the_header_must_fit_the_body() {
        let code = |bytes: &[u8]| read(bytes).unwrap_err().code();
        assert_eq!(code(b""), "bad_bulk_body");
        assert_eq!(code(&[1, 0, 0]), "bad_bulk_body");
        assert_eq!(code(&body(0, 2, &[])), "empty_batch");
        assert_eq!(code(&body(1, 0, &[])), "bad_dimension");
        assert_eq!(code(&body(u32::MAX, u32::MAX, &[])), "too_many");
        assert_eq!(code(&body(100_000, 65_536, &[])), "bad_bulk_body");
        assert_eq!(code(&body(1, 3, &[(1, vec![1.0, 2.0])])), "bad_bulk_body");
        assert_eq!(code(&body(1, 1, &[(1, vec![1.0, 2.0])])), "bad_bulk_body");
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read_exactly(count in 0u32..5, dimension in 0u32..5, tail in prop::collection::vec(any::<u8>(), 0..120)) {
            let bytes = [&count.to_le_bytes()[..], &dimension.to_le_bytes(), &tail].concat();
            if let Ok(points) = read(&bytes) {
                let rows: Vec<_> = points.iter().map(|p| match p.id {
                    DocumentId::Num(id) => (id, p.vectors[0].1.as_slice().to_vec()),
                    DocumentId::Text(_) => unreachable!(),
                }).collect();
                prop_assert_eq!(body(count, dimension, &rows), bytes);
            }
        }

        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&bytes);
        }
    }
}
