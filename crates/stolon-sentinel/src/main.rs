//! `stolon-sentinel`: decides who is the primary of a cluster.

use std::process::ExitCode;

use stolon_runtime::Program;

fn main() -> ExitCode {
    stolon_runtime::run(Program::Sentinel, stolon_sentinel::program)
}
