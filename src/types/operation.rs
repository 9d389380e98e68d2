//! What can be asked of a collection, and the answers. Called by `api` (building requests), `service` and `shard`.

use super::{DocumentId, Error, Filter, Result, Session, StoredPoint, Vector, VectorName, limits};

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// It sees every write acknowledged before it began.
    #[default]
    Linearizable,
    /// It sees at least what the session token has seen.
    Session,
    /// It sees every write acknowledged more than `limits.staleness` before it.
    Eventual,
}

/// What a read over several shards does when one cannot answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnavailable {
    /// The read fails.
    #[default]
    Fail,
    /// The answer is partial and says so.
    Partial,
}

/// How to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    pub consistency: Consistency,
    pub session: Option<Session>,
    pub on_unavailable: OnUnavailable,
}

/// One search.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    /// Which vector of the points is compared.
    pub vector_name: VectorName,
    pub vector: Vector,
    /// Most hits to return, 1 to [`limits::TOP_K_MAX`].
    pub top_k: usize,
    /// Drops hits whose score is worse: below it for cosine and dot, above it for euclidean and manhattan.
    pub threshold: Option<f32>,
    pub filter: Option<Filter>,
    pub with_payload: bool,
    pub with_vector: bool,
    /// Compare with every point instead of using the index.
    pub exact: bool,
    /// Posting lists to visit, whatever the recall target; as many as that needs if absent.
    pub nprobe: Option<usize>,
    /// Fraction of the true neighbours wanted on average, over 0 to 1; 0.95 if absent. Answered by the cheapest plan that reached
    /// it when the index was built, and exactly where none did.
    pub recall_target: Option<f32>,
    /// Say how the answer was found.
    pub explain: bool,
}

impl Search {
    /// A search for the `top_k` nearest points by the default vector, with payloads.
    pub fn nearest(vector: Vector, top_k: usize) -> Search {
        Search {
            vector_name: VectorName::default(),
            vector,
            top_k,
            threshold: None,
            filter: None,
            with_payload: true,
            with_vector: false,
            exact: false,
            nprobe: None,
            recall_target: None,
            explain: false,
        }
    }

    /// Checks the numbers of the request. The vector is checked against the collection by `service`.
    ///
    /// # Errors
    /// `bad_top_k`, `bad_nprobe`, `bad_recall_target`, `bad_threshold`.
    pub fn check(&self) -> Result<()> {
        in_range("bad_top_k", "top_k", self.top_k, limits::TOP_K_MAX)?;
        if let Some(nprobe) = self.nprobe {
            in_range("bad_nprobe", "nprobe", nprobe, limits::NPROBE_MAX)?;
        }
        if let Some(target) = self.recall_target
            && !(target > 0.0 && target <= 1.0)
        {
            return Err(Error::invalid("bad_recall_target", "a recall target is a fraction")
                .at("recall_target")
                .expected("greater than 0, at most 1")
                .got(target));
        }
        if let Some(threshold) = self.threshold
            && !threshold.is_finite()
        {
            return Err(Error::invalid("bad_threshold", "a threshold is a finite number")
                .at("threshold")
                .expected("a finite 32-bit number")
                .got(threshold));
        }
        Ok(())
    }
}

/// `1..=max`, or an error naming the field.
pub fn in_range(code: &'static str, field: &'static str, got: usize, max: usize) -> Result<()> {
    if (1..=max).contains(&got) {
        return Ok(());
    }
    Err(Error::invalid(code, format!("{field} is out of range")).at(field).expected(format!("1 to {max}")).got(got))
}

/// One hit, best first in an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchHit {
    pub point: StoredPoint,
    /// As the API defines it; see [`super::Metric::score`].
    pub score: f32,
}

/// How an answer was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explain {
    /// `exact`, `flat`, `ivf`; with a filter `filter_gather` (the matches, exactly), `filter_flat`, `filter_ivf` or
    /// `filter_scan` (every point is read).
    pub plan: &'static str,
    /// The recall aimed at: as asked for, or the default; none where an `nprobe` was given.
    pub recall_target: Option<f32>,
    /// The recall to be counted on: what this plan had on held-out points when the index was built, less two standard errors;
    /// 1 where every point is compared.
    pub estimated_recall: f32,
    /// Posting lists visited at most; a search stops early where more would give little.
    pub nprobe: u64,
    /// Approximate hits re-ranked at most.
    pub candidates: u64,
    pub lists_total: u64,
    pub lists_probed: u64,
    pub codes_scanned: u64,
    pub tail_scanned: u64,
    pub reranked: u64,
    pub records_read: u64,
    /// Points the filter let pass, if there was one.
    pub filter_matches: Option<u64>,
    /// Fields of the filter without an index.
    pub not_indexed: Vec<String>,
    /// Fields of the filter whose index is still being filled.
    pub building: Vec<String>,
    /// Microseconds by stage.
    pub scan_us: u64,
    pub rerank_us: u64,
}

/// Which shards took part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardsAnswer {
    pub total: u32,
    pub ok: u32,
    pub failed: Vec<u64>,
}

/// The answer of one search.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchAnswer {
    pub hits: Vec<SearchHit>,
    pub explain: Option<Explain>,
}

/// The answer of all searches of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchesAnswer {
    pub answers: Vec<SearchAnswer>,
    pub shards: ShardsAnswer,
    pub session: Session,
}

/// The answer of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteAnswer {
    /// The version the points now have; with several shards the highest.
    pub version: u64,
    /// The version of each point, in the order of the request, where they are not all [`WriteAnswer::version`]; else empty.
    pub versions: Vec<u64>,
    pub session: Session,
}

/// The answer of a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteAnswer {
    /// Points that were there and are gone.
    pub deleted: u64,
    pub session: Session,
}

/// A page of points, in id order.
#[derive(Clone, Debug, PartialEq)]
pub struct ListRequest {
    /// 1 to [`limits::LIST_LIMIT_MAX`].
    pub limit: usize,
    pub cursor: Option<Cursor>,
    pub filter: Option<Filter>,
    pub with_vector: bool,
    pub with_payload: bool,
}

/// The place where the next page begins: after this id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The last id of the page before.
    pub after: super::PointId,
}

impl Cursor {
    /// Opaque text.
    pub fn to_text(self) -> String {
        let mut bytes = self.after.to_key().to_vec();
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes()[..2]);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The inverse of [`Cursor::to_text`].
    ///
    /// # Errors
    /// `bad_cursor`.
    pub fn from_text(text: &str) -> Result<Cursor> {
        let bad = || {
            Error::invalid("bad_cursor", "this is not a cursor this server gave out")
                .at("cursor")
                .expected("the cursor of the page before, unchanged")
        };
        let bytes = from_hex(text).ok_or_else(bad)?;
        let (key, sum) = bytes.split_at_checked(super::PointId::KEY_LEN).ok_or_else(bad)?;
        if crc32c::crc32c(key).to_be_bytes()[..2] != *sum {
            return Err(bad());
        }
        Ok(Cursor { after: super::PointId::from_key(key).ok_or_else(bad)? })
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() > 2 * (super::PointId::KEY_LEN + 2) || !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect()
}

/// What a listing shows: of one shard, or merged over all.
#[derive(Clone, Debug, PartialEq)]
pub struct ListAnswer {
    pub points: Vec<StoredPoint>,
    /// `None` on the last page.
    pub cursor: Option<Cursor>,
}

/// The answer of reading one point.
#[derive(Clone, Debug, PartialEq)]
pub struct GetAnswer {
    pub point: StoredPoint,
    pub session: Session,
}

/// A page over all shards. With [`OnUnavailable::Partial`] the points of shards that failed are missing, and the cursor passes
/// over them.
#[derive(Clone, Debug, PartialEq)]
pub struct PageAnswer {
    pub page: ListAnswer,
    pub shards: ShardsAnswer,
    pub session: Session,
}

/// A delete by ids or by filter.
#[derive(Clone, Debug, PartialEq)]
pub enum DeleteRequest {
    Ids(Vec<DocumentId>),
    Filter(Filter),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PointId;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cursors_round_trip(number: u64, text in "[a-z]{1,8}") {
            for after in [PointId::Num(number), PointId::from_text(&text)] {
                let cursor = Cursor { after };
                prop_assert_eq!(Cursor::from_text(&cursor.to_text()).unwrap(), cursor);
            }
        }

        #[test]
        fn garbage_is_no_cursor(text in "\\PC{0,50}|[0-9a-f]{38}") {
            if let Ok(cursor) = Cursor::from_text(&text) {
                prop_assert_eq!(cursor.to_text(), text);
            }
        }
    }

    #[test]
    fn searches_are_bounded() {
        let good = Search::nearest(Vector::new(vec![1.0]).unwrap(), 10);
        let code = |change: fn(&mut Search)| {
            let mut search = good.clone();
            change(&mut search);
            search.check().map_err(|e| e.code())
        };
        assert_eq!(code(|_| ()), Ok(()));
        assert_eq!(code(|s| s.top_k = 0), Err("bad_top_k"));
        assert_eq!(code(|s| s.top_k = limits::TOP_K_MAX + 1), Err("bad_top_k"));
        assert_eq!(code(|s| s.nprobe = Some(0)), Err("bad_nprobe"));
        assert_eq!(code(|s| s.recall_target = Some(1.5)), Err("bad_recall_target"));
        assert_eq!(code(|s| s.recall_target = Some(f32::NAN)), Err("bad_recall_target"));
        assert_eq!(code(|s| s.threshold = Some(f32::INFINITY)), Err("bad_threshold"));
    }
}
