//! `stolon-proxy`

use std::process::ExitCode;

fn main() -> ExitCode {
    stolon_runtime::run(stolon_runtime::Program::Proxy, stolon_proxy::program)
}
