//! Chores of this repository.

use clap::Parser;

mod bench;
mod docs;
mod fixtures;
mod settings;

/// Chores of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Chore {
    /// Fetch what the tests run against and Debian's own suite does not hold, into target/fixtures.
    Fixtures,
    /// Make the table of PostgreSQL's parameters anew, from pg_settings of every major.
    Settings,
    /// Make the parts of docs/ anew that come from tables in the code: the cluster specification and all options.
    Docs {
        /// Change nothing; fail if a page is stale
        #[arg(long)]
        check: bool,
    },
    /// Measure whole clusters of release builds.
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> anyhow::Result<()> {
    match Chore::parse() {
        Chore::Fixtures => fixtures::all(),
        Chore::Settings => settings::run(),
        Chore::Docs { check: true } => docs::run(docs::Mode::Check),
        Chore::Docs { check: false } => docs::run(docs::Mode::Write),
        Chore::Bench(bench) => bench::run(&bench),
    }
}
