//! The `vectorsphere` binary: hands its arguments to the command line.

fn main() -> std::process::ExitCode {
    vectorsphere::cli::main(std::env::args_os().collect())
}
