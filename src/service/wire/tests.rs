//! Reads and answers cross the wire whole; their bytes never change; what another node may send never panics.

use super::{answer::ANSWER_BYTES_MAX, *};
use crate::{
    service::{
        figures::{FieldFigures, ShardFigures, VectorFigures},
        gather::SHARDS_PER_ASK_MAX,
        read::{Answer, Operation, Seen, ShardsRead},
    },
    types::{
        DocumentId, Filter, Payload, PayloadIndexKind, PointId, StoredPoint, Vector, VectorName,
        operation::{Consistency, Cursor, Explain, ListAnswer, ListRequest, Search, SearchAnswer, SearchHit},
        path::Path,
    },
};
use proptest::prelude::*;
use serde_json::json;

fn filter() -> Filter {
    Filter::from_json(&json!({"must": [{"key": "a", "range": {"gte": 1}}]})).unwrap()
}

fn search() -> Search {
    Search {
        vector_name: VectorName::new("v").unwrap(),
        threshold: Some(0.5),
        filter: Some(filter()),
        with_payload: false,
        with_vector: true,
        exact: true,
        nprobe: Some(3),
        recall_target: Some(0.9),
        explain: true,
        ..Search::nearest(Vector::new(vec![1.0, -2.0]).unwrap(), 10)
    }
}

fn list() -> ListRequest {
    ListRequest {
        limit: 300,
        cursor: Some(Cursor { after: PointId::Num(7) }),
        filter: Some(filter()),
        with_vector: true,
        with_payload: false,
    }
}

fn point() -> StoredPoint {
    let payload = json!({"a": [1, 2.5, null], "b": {"c": "ü"}});
    StoredPoint {
        id: DocumentId::Text("a document".to_owned()),
        version: 300,
        vectors: Some(vec![(VectorName::default(), vec![0.5, f32::MIN_POSITIVE / 2.0])]),
        payload: Some(Payload::new(payload.as_object().unwrap().clone()).unwrap()),
    }
}

fn bare(id: u64) -> StoredPoint {
    StoredPoint { id: DocumentId::Num(id), version: 1, vectors: None, payload: None }
}

fn figures() -> ShardFigures {
    ShardFigures {
        node: 1,
        leader: Some(2),
        points: 3,
        applied: 4,
        memory_bytes: 5,
        disk_bytes: 6,
        training: true,
        vectors: vec![VectorFigures {
            name: VectorName::default(),
            trained: true,
            rows: 7,
            tail_rows: 8,
            dead_rows: 9,
            lists: 10,
            memory_bytes: 11,
        }],
        fields: vec![FieldFigures {
            field: Path::parse("a.b").unwrap(),
            kind: PayloadIndexKind::Text,
            ready: false,
            points: 12,
            distinct: 13,
            memory_bytes: 14,
        }],
    }
}

fn reads() -> Vec<ShardsRead> {
    let read = |operation, consistency| ShardsRead { operation, consistency, shards: vec![(1, 0), (300, 9)] };
    vec![
        read(Operation::Get(DocumentId::Num(5)), Consistency::Linearizable),
        read(Operation::Get(DocumentId::Text("x y".to_owned())), Consistency::Session),
        read(Operation::List(list()), Consistency::Eventual),
        read(
            Operation::Search(vec![search(), Search::nearest(Vector::new(vec![1.0]).unwrap(), 1)].into()),
            Consistency::Session,
        ),
        read(Operation::Figures, Consistency::Linearizable),
    ]
}

fn answers() -> Vec<Result<Seen>> {
    let seen = |answer| Ok(Seen { index: 300, slots: None, answer });
    let explain = Explain { plan: "ivf", not_indexed: vec!["a".to_owned()], lists_total: 4, ..Explain::default() };
    let hits = vec![SearchHit { point: point(), score: -0.0 }, SearchHit { point: bare(2), score: 1.5 }];
    let cursor = Some(Cursor { after: PointId::from_text("a document") });
    vec![
        seen(Answer::Point(point())),
        seen(Answer::Page(ListAnswer { points: vec![bare(1), point()], cursor })),
        seen(Answer::Page(ListAnswer { points: vec![], cursor: None })),
        seen(Answer::Found(vec![
            SearchAnswer { hits, explain: Some(explain) },
            SearchAnswer { hits: vec![], explain: None },
        ])),
        seen(Answer::Figures(figures())),
        Err(Error::new(ErrorKind::NotFound, "document_not_found", "no such").at("document_id").got("x").document("x")),
        Err(Error::new(ErrorKind::Unavailable, "no_quorum", "")),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_is_sent_is_what_is_read() {
    for read in reads() {
        let bytes = encode_read(&read);
        assert_eq!(decode_read(&bytes).unwrap(), read);
        for end in 0..bytes.len() {
            assert!(decode_read(&bytes[..end]).is_err());
        }
        assert_eq!(decode_read(&[&bytes[..], &[0]].concat()).unwrap_err().code(), "bad_peer_message");
    }
    for answer in answers() {
        let bytes = encode_answer(7, answer.clone());
        assert_eq!(decode_answer(&bytes).unwrap(), (7, answer));
        for end in 0..bytes.len() {
            assert!(decode_answer(&bytes[..end]).is_err());
        }
    }
}

#[test]
fn an_answer_to_another_question_is_none() {
    let (reads, answers) = (reads(), answers());
    let fits = |read: &ShardsRead| {
        answers
            .iter()
            .map(|answer| answer.as_ref().is_ok_and(|s| read.operation.is_answered_by(&s.answer)))
            .collect::<Vec<_>>()
    };
    let at = |places: &[usize]| (0..7).map(|at| places.contains(&at)).collect::<Vec<_>>();
    let expected = [at(&[0]), at(&[0]), at(&[1, 2]), at(&[3]), at(&[4])];
    assert_eq!(reads.iter().map(fits).collect::<Vec<_>>(), expected);
    let one = Operation::Search(vec![search()].into());
    assert!(!one.is_answered_by(&answers[3].as_ref().unwrap().answer), "one search, two answers");
}

#[test]
fn golden_bytes() {
    let all: Vec<String> = reads().iter().map(|read| hex(&encode_read(read))).collect();
    assert_eq!(all, include_str!("reads.golden").lines().collect::<Vec<_>>());
    let all: Vec<String> = answers().into_iter().map(|answer| hex(&encode_answer(7, answer))).collect();
    assert_eq!(all, include_str!("answers.golden").lines().collect::<Vec<_>>());
}

#[test]
fn a_message_is_held_to_the_bounds_of_a_request() {
    let shards: Vec<(u64, u64)> = (0..=SHARDS_PER_ASK_MAX as u64).map(|shard| (shard, 0)).collect();
    let read = ShardsRead { operation: Operation::Figures, consistency: Consistency::Eventual, shards };
    assert_eq!(decode_read(&encode_read(&read)).unwrap_err().code(), "bad_peer_message");
    let of = |operation| encode_read(&ShardsRead { operation, consistency: Consistency::Eventual, shards: vec![] });
    let bad = |operation| decode_read(&of(operation)).unwrap_err().code();
    assert_eq!(bad(Operation::List(ListRequest { limit: 0, ..list() })), "bad_limit");
    assert_eq!(bad(Operation::Search(vec![Search { top_k: 0, ..search() }].into())), "bad_top_k");
    assert_eq!(bad(Operation::Search(vec![search(); 1_001].into())), "bad_peer_message");
    assert_eq!(bad(Operation::Get(DocumentId::Text(String::new()))), "bad_document_id");
    assert_eq!(decode_read(&[9, 0]).unwrap_err().code(), "bad_peer_message");
    assert_eq!(decode_answer(&[]).unwrap_err().kind(), ErrorKind::Unavailable);
}

#[test]
fn an_answer_that_is_too_large_is_refused() {
    let large =
        StoredPoint { vectors: Some(vec![(VectorName::default(), vec![0.0; ANSWER_BYTES_MAX / 4])]), ..bare(1) };
    let bytes = encode_answer(7, Ok(Seen { index: 1, slots: None, answer: Answer::Point(large) }));
    assert_eq!(decode_answer(&bytes).unwrap().1.unwrap_err().code(), "answer_too_large");
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes: Vec<u8>) {
        let formed = [vec![FORMAT], bytes.clone()].concat();
        for bytes in [bytes, formed] {
            let _ = (decode_read(&bytes).is_ok(), decode_answer(&bytes).is_ok());
        }
    }

    #[test]
    fn a_changed_message_never_panics(which in 0_usize..7, at: prop::sample::Index, flip in 1_u8..) {
        let mut read = encode_read(&reads()[which % 5]);
        let mut answer = encode_answer(7, answers().swap_remove(which));
        for bytes in [&mut read, &mut answer] {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        let _ = (decode_read(&read).is_ok(), decode_answer(&answer).is_ok());
    }
}
