//! The configuration of a node: what there is to set, where it is read from, and what is wrong with it.
//!
//! Layers, each over the one before: defaults, the `--config` file (YAML, TOML or the seeds' INI), the environment's
//! file beside it, `VECTORSPHERE__SECTION__KEY` variables, flags. Promise: [`load`] either gives a valid [`Config`] with
//! the origin of every key, or every problem at once; an unknown key is an error, never ignored. The roof
//! (`cli`, `node.rs`, `embedded.rs`) calls it; rooms below receive plain values and never see this module.

mod default_file;
mod document;
mod error;
mod keys;
mod load;
mod model;
mod seeds;
mod units;
mod validate;
mod value;
mod words;

pub use default_file::DEFAULT_YAML;
pub use document::FILE_BYTES_MAX;
pub use error::{ConfigError, Origin, Problem};
pub use keys::{Effect, KEYS, Key, find, is_section};
pub use load::{Assignment, Loaded, Notice, Sources, load, suggest};
pub use model::{
    Advertise, Cluster, Config, Dev, Etcd, EtcdTls, Gateway, Index, Limits, Listen, Log, Raft, Security, Select,
    Storage,
};
pub use units::{BadQuantity, ByteSize, parse_duration, show_duration};
pub use validate::validate;
pub use value::Value;
pub use words::{Authority, BadName, Balance, HIDDEN, LogFormat, Mode, Name, Secret, Sticky};
