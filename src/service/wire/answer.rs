//! What a node answers for one shard of a read. A refusal travels as the outcome of a refused write does. Called through `wire`.

use super::{bad, from_bytes, point::Point, to_bytes};
use crate::{
    cluster::ShardId,
    service::{
        figures::ShardFigures,
        read::{Answer, Seen},
    },
    shard::Outcome,
    types::{
        Error, PointId, Result, SlotRange, limits,
        operation::{self, Cursor, ListAnswer, SearchHit},
    },
};
use serde::{Deserialize, Serialize};

/// Largest answer for one shard: a full page of a listing, and room for what is around its points.
pub const ANSWER_BYTES_MAX: usize = limits::LIST_BYTES_MAX + (16 << 20);

#[derive(Serialize, Deserialize)]
struct ShardAnswer {
    shard: u64,
    answered: Answered,
}

/// The variants keep their order for ever.
#[derive(Serialize, Deserialize)]
enum Answered {
    /// An encoded [`Outcome::Refused`].
    Refused(#[serde(with = "serde_bytes")] Vec<u8>),
    Point {
        index: u64,
        point: Point,
    },
    Page {
        index: u64,
        points: Vec<Point>,
        after: Option<PointId>,
    },
    Found {
        index: u64,
        answers: Vec<Found>,
    },
    Figures {
        index: u64,
        figures: ShardFigures,
    },
    /// Any of those before but a refusal, of a shard whose slots have moved.
    OfSlots {
        slots: SlotRange,
        answered: Box<Answered>,
    },
}

/// The answer of one search.
#[derive(Serialize, Deserialize)]
struct Found {
    hits: Vec<(f32, Point)>,
    explain: Option<Explain>,
}

#[derive(Serialize, Deserialize)]
struct Explain {
    plan: String,
    recall_target: Option<f32>,
    estimated_recall: f32,
    nprobe: u64,
    candidates: u64,
    lists_total: u64,
    lists_probed: u64,
    codes_scanned: u64,
    tail_scanned: u64,
    reranked: u64,
    records_read: u64,
    filter_matches: Option<u64>,
    not_indexed: Vec<String>,
    building: Vec<String>,
    scan_us: u64,
    rerank_us: u64,
}

/// The names of plans: one of another node is shown as one of these.
const PLANS: [&str; 7] = ["exact", "flat", "ivf", "filter_gather", "filter_flat", "filter_ivf", "filter_scan"];

/// A shard's answer for the wire. One that is larger than [`ANSWER_BYTES_MAX`] becomes the refusal `answer_too_large`.
pub fn encode_answer(shard: ShardId, answer: Result<Seen>) -> Vec<u8> {
    let bytes = to_bytes(&ShardAnswer { shard, answered: Answered::from(answer) });
    if bytes.len() <= ANSWER_BYTES_MAX {
        return bytes;
    }
    let error = Error::invalid("answer_too_large", "the answer is too large; ask for less, or without vectors")
        .expected(format!("at most {ANSWER_BYTES_MAX} bytes a shard"))
        .got(format!("{} bytes", bytes.len()));
    to_bytes(&ShardAnswer { shard, answered: Answered::from(Err(error)) })
}

/// The inverse of [`encode_answer`].
///
/// # Errors
/// `bad_peer_message`, and those of the parts.
pub fn decode_answer(bytes: &[u8]) -> Result<(ShardId, Result<Seen>)> {
    let ShardAnswer { shard, answered } = from_bytes(bytes)?;
    let (slots, answered) = match answered {
        Answered::OfSlots { slots, answered } => {
            let range = SlotRange::new(slots.first, slots.end).ok_or_else(|| bad("no range of slots"))?;
            (Some(range), *answered)
        }
        answered => (None, answered),
    };
    let (index, answer) = match answered {
        Answered::OfSlots { .. } => return Err(bad("slots of slots")),
        Answered::Refused(outcome) => {
            return match Outcome::decode(&outcome).map_err(bad)? {
                Outcome::Refused(error) => Ok((shard, Err(error))),
                Outcome::Applied(_) => Err(bad("a refusal refuses nothing")),
            };
        }
        Answered::Point { index, point } => (index, Answer::Point(point.into_point()?)),
        Answered::Page { index, points, after } => {
            let points = points.into_iter().map(Point::into_point).collect::<Result<_>>()?;
            (index, Answer::Page(ListAnswer { points, cursor: after.map(|after| Cursor { after }) }))
        }
        Answered::Found { index, answers } => {
            (index, Answer::Found(answers.into_iter().map(Found::into_answer).collect::<Result<_>>()?))
        }
        Answered::Figures { index, figures } => (index, Answer::Figures(figures)),
    };
    Ok((shard, Ok(Seen { index, slots, answer })))
}

impl From<Result<Seen>> for Answered {
    fn from(answer: Result<Seen>) -> Answered {
        let Seen { index, slots, answer } = match answer {
            Ok(seen) => seen,
            Err(error) => return Answered::Refused(Outcome::Refused(error).encode()),
        };
        let answered = match answer {
            Answer::Point(point) => Answered::Point { index, point: point.into() },
            Answer::Page(page) => {
                let points = page.points.into_iter().map(Point::from).collect();
                Answered::Page { index, points, after: page.cursor.map(|cursor| cursor.after) }
            }
            Answer::Found(answers) => {
                Answered::Found { index, answers: answers.into_iter().map(Found::from).collect() }
            }
            Answer::Figures(figures) => Answered::Figures { index, figures },
        };
        match slots {
            Some(slots) => Answered::OfSlots { slots, answered: Box::new(answered) },
            None => answered,
        }
    }
}

impl From<operation::SearchAnswer> for Found {
    fn from(answer: operation::SearchAnswer) -> Found {
        let hits = answer.hits.into_iter().map(|hit| (hit.score, hit.point.into())).collect();
        Found { hits, explain: answer.explain.map(Explain::from) }
    }
}

impl Found {
    fn into_answer(self) -> Result<operation::SearchAnswer> {
        let hit = |(score, point): (f32, Point)| Ok(SearchHit { point: point.into_point()?, score });
        let hits = self.hits.into_iter().map(hit).collect::<Result<_>>()?;
        Ok(operation::SearchAnswer { hits, explain: self.explain.map(Explain::into_explain) })
    }
}

impl From<operation::Explain> for Explain {
    fn from(explain: operation::Explain) -> Explain {
        Explain {
            plan: explain.plan.to_owned(),
            recall_target: explain.recall_target,
            estimated_recall: explain.estimated_recall,
            nprobe: explain.nprobe,
            candidates: explain.candidates,
            lists_total: explain.lists_total,
            lists_probed: explain.lists_probed,
            codes_scanned: explain.codes_scanned,
            tail_scanned: explain.tail_scanned,
            reranked: explain.reranked,
            records_read: explain.records_read,
            filter_matches: explain.filter_matches,
            not_indexed: explain.not_indexed,
            building: explain.building,
            scan_us: explain.scan_us,
            rerank_us: explain.rerank_us,
        }
    }
}

impl Explain {
    fn into_explain(self) -> operation::Explain {
        operation::Explain {
            plan: PLANS.into_iter().find(|plan| *plan == self.plan).unwrap_or("unknown"),
            recall_target: self.recall_target,
            estimated_recall: self.estimated_recall,
            nprobe: self.nprobe,
            candidates: self.candidates,
            lists_total: self.lists_total,
            lists_probed: self.lists_probed,
            codes_scanned: self.codes_scanned,
            tail_scanned: self.tail_scanned,
            reranked: self.reranked,
            records_read: self.records_read,
            filter_matches: self.filter_matches,
            not_indexed: self.not_indexed,
            building: self.building,
            scan_us: self.scan_us,
            rerank_us: self.rerank_us,
        }
    }
}
