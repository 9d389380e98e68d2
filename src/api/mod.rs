//! The faces of the server: native REST ([`rest`]), gRPC ([`grpc`]) and the operators' port ([`monitoring`]).
//!
//! Promise: a face decodes, converts into `types`, calls one function of `service`, and encodes the answer. What a
//! request means is decided below; what an error is called outside is decided in [`errors`], once. Called by the roof.

pub mod errors;
pub mod grpc;
pub mod monitoring;
pub mod rest;
