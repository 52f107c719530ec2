//! The keeper program.

use std::process::ExitCode;

use stolon_runtime::{Program, parse, run};

fn main() -> ExitCode {
    run(Program::Keeper, async |shutdown| {
        let flags: stolon_keeper::Flags = parse(Program::Keeper);
        stolon_keeper::run(flags, shutdown).await
    })
}
