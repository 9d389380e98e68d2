//! Build script: turns `proto/` into Rust, with a protobuf compiler written in Rust, so that no machine needs `protoc`.
//!
//! Leaves four files in `OUT_DIR`:
//! - `vectorsphere.v1.rs`: the API's messages, client and server, for `tonic::include_proto!("vectorsphere.v1")`. No transport is
//!   generated: `rt::rpc` supplies it, real or simulated.
//! - `vectorsphere_v1_descriptor.bin`: the API's file descriptor set that gRPC reflection serves, for
//!   `tonic::include_file_descriptor_set!("vectorsphere_v1_descriptor")`.
//! - `vectorsphere.peer.v1.rs`: the same for what nodes say to each other, which no reflection tells.
//! - `etcdserverpb.rs`: the part of etcd's API that the coordinator uses; its server is for the simulation.
//!
//! Called by cargo, again whenever a file under `proto/` changes.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

const PROTO_ROOT: &str = "proto";
const API_FILES: &[&str] = &["vectorsphere/v1/vector_service.proto"];
const PEER_FILES: &[&str] = &["vectorsphere/peer/v1/peer.proto"];
const ETCD_FILES: &[&str] = &["etcd/v3.proto"];
const DESCRIPTOR_FILE: &str = "vectorsphere_v1_descriptor.bin";

/// Fields decoded as `bytes::Bytes`: a slice of the request's buffer instead of a copy of it.
const SHARED_BYTES: &[&str] = &[".vectorsphere.v1", ".vectorsphere.peer.v1"];

fn main() -> Result<(), Box<dyn Error>> {
    // Declared here and not left to the generator, which only knows the files it was given, not their imports.
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={PROTO_ROOT}");

    let api = compile(API_FILES)?;
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join(DESCRIPTOR_FILE), api.encode_file_descriptor_set())?;
    generate(&api)?;
    generate(&compile(PEER_FILES)?)?;
    generate(&compile(ETCD_FILES)?)
}

fn compile(files: &[&str]) -> Result<protox::Compiler, Box<dyn Error>> {
    let mut compiler = protox::Compiler::new([PROTO_ROOT])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(files)?;
    Ok(compiler)
}

fn generate(compiled: &protox::Compiler) -> Result<(), Box<dyn Error>> {
    let mut builder = tonic_prost_build::configure().build_transport(false).emit_rerun_if_changed(false);
    for path in SHARED_BYTES {
        builder = builder.bytes(path);
    }
    builder.compile_fds(compiled.file_descriptor_set())?;
    Ok(())
}
