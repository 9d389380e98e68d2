//! gRPC face.
