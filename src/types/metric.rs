//! The metrics a vector can be searched by. Called by `index` (distances), `shard` (exact rerank) and `api` (names, scores).

use serde::{Deserialize, Serialize};

/// How near two vectors are. Inside, every metric is a *distance*: smaller is nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// 1 − cosine similarity; vectors are normalised when they are written, so this is a dot product on unit vectors.
    Cosine,
    /// Squared L2 inside, L2 at the API.
    Euclidean,
    /// Negated inner product inside, inner product at the API.
    Dot,
    /// L1.
    Manhattan,
}

impl Metric {
    /// Every metric, in the order it is listed to users.
    pub const ALL: [Metric; 4] = [Metric::Cosine, Metric::Euclidean, Metric::Dot, Metric::Manhattan];

    /// The name used in requests, answers and files.
    pub const fn name(self) -> &'static str {
        match self {
            Metric::Cosine => "cosine",
            Metric::Euclidean => "euclidean",
            Metric::Dot => "dot",
            Metric::Manhattan => "manhattan",
        }
    }

    /// Whether a higher API score is better (cosine, dot) or a lower one (euclidean, manhattan).
    pub const fn higher_is_better(self) -> bool {
        matches!(self, Metric::Cosine | Metric::Dot)
    }

    /// Turns an inside distance into the score of the API.
    pub fn score(self, distance: f32) -> f32 {
        match self {
            Metric::Cosine => 1.0 - distance,
            Metric::Dot => -distance,
            Metric::Euclidean => distance.max(0.0).sqrt(),
            Metric::Manhattan => distance,
        }
    }
}
