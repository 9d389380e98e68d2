//! The replicated operations of a shard, as they stand in its log. The bytes are stored data: the variants keep their
//! order for ever, and golden tests hold them. A command that a client gave a request id is preceded by it. Called by
//! `commands` (encoding), `round` (decoding).

use crate::types::{Error, ErrorKind, Point, PointId, PointPatch, RequestId, Result, SlotRange, VectorName, limits};
use serde::{Deserialize, Serialize};

/// Format of a command alone; its first byte.
const FORMAT: u8 = 1;
/// Format of a command behind its request id.
const FORMAT_WITH_ID: u8 = 2;

/// One operation. Borrows from the log entry it is decoded from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command<'a> {
    /// Write points whole, all of them or none.
    #[serde(borrow)]
    Upsert(Vec<PointWrite<'a>>),
    /// Change one existing point: replace the given vectors, merge the payload.
    #[serde(borrow)]
    Patch(PointWrite<'a>),
    /// Remove points by id.
    Delete(Vec<PointId>),
    /// Remove the points that pass a filter (its JSON).
    #[serde(borrow)]
    DeleteWhere(&'a str),
    /// Give slots at an edge of the shard, or none, and the requests that shard `to` does not know yet, as a cargo for that; decided by
    /// the shard table of `epoch`.
    Release { slots: SlotRange, to: u64, epoch: u64 },
    /// Take the cargo called `number` of shard `from`: `slots` with what is in them, and requests.
    Receive {
        from: u64,
        number: u64,
        slots: SlotRange,
        /// An encoded `cargo::Cargo`.
        cargo: &'a [u8],
    },
    /// The cargo called `number` has arrived.
    Forget { number: u64 },
    /// The collection is being deleted: from here on the shard takes and answers nothing.
    Close,
}

impl Command<'_> {
    /// Whether it adds to what the shard holds. The others may free room, or are steps of something that will.
    pub fn needs_room(&self) -> bool {
        match self {
            Command::Upsert(_) | Command::Patch(_) | Command::Receive { .. } => true,
            Command::Delete(_) | Command::DeleteWhere(_) => false,
            Command::Release { .. } | Command::Forget { .. } | Command::Close => false,
        }
    }
}

/// One point of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PointWrite<'a> {
    pub id: PointId,
    /// The caller's spelling of the id, if it has to be kept.
    pub spelling: Option<&'a str>,
    pub if_version: Option<u64>,
    /// Name and little-endian f32 components.
    #[serde(borrow)]
    pub vectors: Vec<VectorBytes<'a>>,
    /// JSON of the payload; empty for the empty object.
    pub payload: &'a [u8],
}

/// A named vector as bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VectorBytes<'a> {
    pub name: &'a str,
    pub components: &'a [u8],
}

impl<'a> Command<'a> {
    /// Bytes for the log: of the command alone, or as what the request called `id` asks for.
    ///
    /// # Errors
    /// `command_too_large` over [`limits::COMMAND_BYTES_MAX`].
    pub fn encode(&self, id: Option<RequestId>) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(64 + self.size_hint());
        match id {
            None => out.push(FORMAT),
            Some(id) => {
                out.push(FORMAT_WITH_ID);
                out.extend_from_slice(id.as_bytes());
            }
        }
        let out = postcard::to_extend(self, out).map_err(|error| Error::internal(format!("encoding: {error}")))?;
        if out.len() > limits::COMMAND_BYTES_MAX {
            return Err(Error::invalid("command_too_large", "the write is too large for one request")
                .expected(format!("at most {} bytes", limits::COMMAND_BYTES_MAX))
                .got(format!("{} bytes", out.len())));
        }
        Ok(out)
    }

    /// The inverse of [`Command::encode`].
    ///
    /// # Errors
    /// `Corrupt` for bytes no version of this program wrote, or a newer one did.
    pub fn decode(bytes: &'a [u8]) -> Result<(Option<RequestId>, Command<'a>)> {
        let corrupt = |why: String| Error::new(ErrorKind::Corrupt, "bad_command", why);
        let (id, rest) = match bytes.split_first() {
            Some((&FORMAT, rest)) => (None, rest),
            Some((&FORMAT_WITH_ID, rest)) => {
                let cut = rest.split_first_chunk().ok_or_else(|| corrupt("a log entry ends in its request id".into()));
                let (id, rest) = cut?;
                (Some(RequestId::from_bytes(*id)), rest)
            }
            Some((format, _)) => return Err(corrupt(format!("a log entry has the unknown format {format}"))),
            None => return Err(corrupt("a log entry is empty".to_owned())),
        };
        let command = postcard::from_bytes(rest);
        Ok((id, command.map_err(|error| corrupt(format!("a log entry is no command: {error}")))?))
    }

    /// Whether it is what a client asked for; others are for the shard itself.
    pub fn is_clients(&self) -> bool {
        match self {
            Command::Upsert(_) | Command::Patch(_) | Command::Delete(_) | Command::DeleteWhere(_) => true,
            Command::Release { .. } | Command::Receive { .. } | Command::Forget { .. } | Command::Close => false,
        }
    }

    fn size_hint(&self) -> usize {
        let write = |write: &PointWrite<'_>| {
            write.payload.len()
                + 64
                + write.vectors.iter().map(|v| v.components.len() + v.name.len() + 8).sum::<usize>()
        };
        match self {
            Command::Upsert(writes) => writes.iter().map(write).sum(),
            Command::Patch(one) => write(one),
            Command::Delete(ids) => ids.len() * 18,
            Command::DeleteWhere(filter) => filter.len(),
            Command::Receive { cargo, .. } => cargo.len() + 32,
            Command::Release { .. } | Command::Forget { .. } | Command::Close => 32,
        }
    }
}

/// Owned bytes of points, from which a [`Command`] can borrow.
pub struct WriteBuffers {
    ids: Vec<(PointId, Option<String>, Option<u64>)>,
    vectors: Vec<Vec<(String, Vec<u8>)>>,
    payloads: Vec<Vec<u8>>,
}

impl WriteBuffers {
    /// Takes the bytes of points to be written whole.
    pub fn of_points(points: Vec<Point>) -> WriteBuffers {
        let mut buffers = WriteBuffers::with_capacity(points.len());
        for point in points {
            let (id, spelling) = (point.id.point_id(), point.id.spelling().map(str::to_owned));
            buffers.push((id, spelling, point.if_version), point.vectors, point.payload.to_json());
        }
        buffers
    }

    /// Takes the bytes of one change.
    pub fn of_patch(patch: PointPatch) -> WriteBuffers {
        let mut buffers = WriteBuffers::with_capacity(1);
        let (id, spelling) = (patch.id.point_id(), patch.id.spelling().map(str::to_owned));
        buffers.push((id, spelling, patch.if_version), patch.vectors, patch.payload.to_json());
        buffers
    }

    fn with_capacity(n: usize) -> WriteBuffers {
        WriteBuffers { ids: Vec::with_capacity(n), vectors: Vec::with_capacity(n), payloads: Vec::with_capacity(n) }
    }

    fn push(
        &mut self,
        id: (PointId, Option<String>, Option<u64>),
        vectors: Vec<(VectorName, crate::types::Vector)>,
        payload: Vec<u8>,
    ) {
        self.ids.push(id);
        let bytes = |(name, vector): (VectorName, crate::types::Vector)| {
            (name.as_str().to_owned(), to_bytes(vector.as_slice()))
        };
        self.vectors.push(vectors.into_iter().map(bytes).collect());
        self.payloads.push(payload);
    }

    /// The points, borrowed.
    pub fn writes(&self) -> Vec<PointWrite<'_>> {
        let parts = self.ids.iter().zip(&self.vectors).zip(&self.payloads);
        parts
            .map(|(((id, spelling, if_version), vectors), payload)| PointWrite {
                id: *id,
                spelling: spelling.as_deref(),
                if_version: *if_version,
                vectors: vectors.iter().map(|(name, components)| VectorBytes { name, components }).collect(),
                payload,
            })
            .collect()
    }
}

/// Little-endian bytes of components.
pub fn to_bytes(components: &[f32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(components.len() * 4);
    components.iter().for_each(|c| out.extend_from_slice(&c.to_le_bytes()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{DocumentId, Payload, Vector};
    use proptest::prelude::*;

    fn point() -> Point {
        Point {
            id: DocumentId::Text("doc1".into()),
            vectors: vec![(VectorName::default(), Vector::new(vec![1.0, -2.0]).unwrap())],
            payload: Payload::from_json(br#"{"a":1}"#).unwrap(),
            if_version: Some(3),
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = |command: Command<'_>| command.encode(None).unwrap();
        let hex = |command| bytes(command).iter().map(|b| format!("{b:02x}")).collect::<String>();
        let buffers = WriteBuffers::of_points(vec![point()]);
        let write = "0110e15dea2e93995332883ca45aed6312e20104646f63310103010008 0000803f000000c0 077b2261223a317d"
            .replace(' ', "");
        assert_eq!(hex(Command::Upsert(buffers.writes())), format!("010001{write}"));
        assert_eq!(hex(Command::Patch(buffers.writes().remove(0))), format!("0101{write}"));
        assert_eq!(hex(Command::Delete(vec![PointId::Num(300)])), "01020100ac02");
        assert_eq!(hex(Command::DeleteWhere("{}")), "0103027b7d");
        let slots = SlotRange { first: 1, end: 300 };
        assert_eq!(hex(Command::Release { slots, to: 9, epoch: 7 }), "010401ac020907");
        assert_eq!(hex(Command::Receive { from: 8, number: 300, slots, cargo: b"ab" }), "010508ac0201ac02026162");
        assert_eq!(hex(Command::Forget { number: 300 }), "0106ac02");
        assert_eq!(hex(Command::Close), "0107");
        let with_id = Command::DeleteWhere("{}").encode(Some(RequestId::from_bytes([7; 16]))).unwrap();
        assert_eq!(with_id, [&[2][..], &[7; 16], &[3, 2, b'{', b'}']].concat());
    }

    #[test]
    fn commands_round_trip() {
        let buffers = WriteBuffers::of_points(vec![point(), point()]);
        let command = Command::Upsert(buffers.writes());
        for id in [None, Some(RequestId::from_bytes([0xfe; 16]))] {
            assert_eq!(Command::decode(&command.encode(id).unwrap()).unwrap(), (id, command.clone()));
        }
        assert_eq!(Command::decode(&[2; 16]).unwrap_err().code(), "bad_command");
        assert_eq!(Command::decode(&[]).unwrap_err().code(), "bad_command");
        assert_eq!(Command::decode(&[9, 0]).unwrap_err().code(), "bad_command");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = Command::decode(&bytes);
        }
    }
}
