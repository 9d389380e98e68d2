//! How the vectors of a trained index are encoded, as a user asks for it: the code's size and the last pass over the candidates.
//! Which kind of code is the index type's matter ([`super::IndexType`]). Stored with the table; called by `api`, `shard` and `index`.

use serde::{Deserialize, Serialize};

/// How much smaller than the f32 vectors product codes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// 2 bits a dimension. The default: the fewest candidates have to be looked at twice.
    #[default]
    X16,
    /// 1 bit a dimension.
    X32,
    /// Half a bit a dimension.
    X64,
}

impl Compression {
    /// Every one, the largest codes first.
    pub const ALL: [Compression; 3] = [Compression::X16, Compression::X32, Compression::X64];

    /// The name used in requests and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Compression::X16 => "x16",
            Compression::X32 => "x32",
            Compression::X64 => "x64",
        }
    }

    /// Dimensions that one 4-bit code stands for.
    pub const fn dimensions_per_code(self) -> usize {
        match self {
            Compression::X16 => 2,
            Compression::X32 => 4,
            Compression::X64 => 8,
        }
    }
}

/// The precision of the last pass over a search's candidates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rerank {
    /// The best by int8 are scored again from the stored vectors: exact scores. The default.
    #[default]
    F32,
    /// Int8 decides: no vector is read, scores are those of int8 (about three digits).
    Int8,
}

impl Rerank {
    /// The name used in requests and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Rerank::F32 => "f32",
            Rerank::Int8 => "int8",
        }
    }
}

/// Settings of a vector's codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct CodeSettings {
    /// Of product codes; the default where there are none.
    pub compression: Compression,
    /// The last pass.
    pub rerank: Rerank,
}
