//! Manual pages, one for each program and each command of `stolonctl`.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Command;
use stolon_runtime::Program;

/// Where they are.
pub const DIRECTORY: &str = "docs/man";

/// The pages by their names.
///
/// # Errors
/// A page cannot be made.
pub fn pages() -> Result<BTreeMap<String, String>> {
    let mut pages = BTreeMap::new();
    let daemons = [
        stolon_runtime::command::<stolon_keeper::Flags>(Program::Keeper),
        stolon_runtime::command::<stolon_sentinel::Flags>(Program::Sentinel),
        stolon_runtime::command::<stolon_proxy::Flags>(Program::Proxy),
    ];
    let mut ctl = stolonctl::command();
    ctl.build();
    for command in daemons.into_iter().chain([ctl]) {
        let name = command.get_name().to_owned();
        add(&mut pages, &name, command)?;
    }
    Ok(pages)
}

fn add(pages: &mut BTreeMap<String, String>, name: &str, command: Command) -> Result<()> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help")
    {
        add(pages, &format!("{name}-{}", inner.get_name()), inner.clone())?;
    }
    let mut page = Vec::new();
    // Without a date: the same code makes the same page.
    let title = command.name(name.to_owned()).disable_help_subcommand(true);
    clap_mangen::Man::new(title).date("").source("").render(&mut page)?;
    pages.insert(format!("{name}.1"), String::from_utf8(page)?);
    Ok(())
}
