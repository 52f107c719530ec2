//! `cargo xtask docs`: the parts of `docs/` that are made from tables in the code.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Arg, Command, Parser};
use stolon_model::json::{Decode, Shape};
use stolon_model::{ClusterSpec, Presence, SpecField};
use stolon_runtime::Program;

mod man;

/// Make the parts of docs/ anew that come from tables in the code
#[derive(Parser)]
#[command(name = "cargo xtask docs")]
struct Options {
    /// Change nothing; fail if a page is stale
    #[arg(long)]
    check: bool,
}

fn main() -> Result<()> {
    run(if Options::parse().check { Mode::Check } else { Mode::Write })
}

/// What is done about stale pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Write those that are stale.
    Write,
    /// Only say which are stale.
    Check,
}

const SPECIFICATION: &str = "docs/cluster-specification.md";
const COMMAND_LINES: &str = "docs/command-lines.md";

const BEGIN: &str = "<!-- Made by `cargo xtask docs`; what stands here is replaced. -->";
const END: &str = "<!-- End of what `cargo xtask docs` made. -->";

/// Make the pages, or check them.
///
/// # Errors
/// A page cannot be read or written; with [`Mode::Check`] also a page that is stale.
fn run(mode: Mode) -> Result<()> {
    let mut stale = Vec::new();
    for (page, made) in [(SPECIFICATION, specification()?), (COMMAND_LINES, command_lines()?)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(page);
        if replace_made_part(&path, &made, mode).with_context(|| page.to_owned())? == Found::Stale {
            stale.push(page.to_owned());
        }
    }
    stale.extend(write_manual(mode)?);
    match mode {
        Mode::Write if stale.is_empty() => println!("nothing to do"),
        Mode::Write => println!("wrote {}", stale.join(", ")),
        Mode::Check => ensure!(stale.is_empty(), "stale: {}; run `cargo xtask docs`", stale.join(", ")),
    }
    Ok(())
}

/// Make the manual pages, and remove those of what is gone; gives the stale ones.
fn write_manual(mode: Mode) -> Result<Vec<String>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(man::DIRECTORY);
    let made = man::pages()?;
    let mut stale = Vec::new();
    for (name, text) in &made {
        if std::fs::read_to_string(directory.join(name)).ok().as_ref() != Some(text) {
            stale.push(name.clone());
            if mode == Mode::Write {
                std::fs::create_dir_all(&directory)?;
                std::fs::write(directory.join(name), text)?;
            }
        }
    }
    for entry in std::fs::read_dir(&directory).with_context(|| man::DIRECTORY.to_owned())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !made.contains_key(&name) {
            if mode == Mode::Write {
                std::fs::remove_file(directory.join(&name))?;
            }
            stale.push(name);
        }
    }
    Ok(stale)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Fresh,
    Stale,
}

fn replace_made_part(path: &PathBuf, made: &str, mode: Mode) -> Result<Found> {
    let page = std::fs::read_to_string(path)?;
    let (before, rest) = page.split_once(BEGIN).context("the marker of the beginning is gone")?;
    let (_, after) = rest.split_once(END).context("the marker of the end is gone")?;
    let made = made.trim().replace("\n\n\n", "\n\n");
    let fresh = format!("{before}{BEGIN}\n\n{made}\n\n{END}{after}");
    if fresh == page {
        return Ok(Found::Fresh);
    }
    if mode == Mode::Write {
        std::fs::write(path, fresh)?;
    }
    Ok(Found::Stale)
}

/// The tables of the cluster specification: the outermost object, then each object within it.
fn specification() -> Result<String> {
    let mut text = String::from("| Field | Type | Default | Rules | What it does |\n|---|---|---|---|---|\n");
    for field in ClusterSpec::FIELDS {
        writeln!(
            text,
            "| `{}` | {} | {} | {} | {} |",
            field.name,
            type_of(field.name, field.shape),
            field.default_json().map_or_else(String::new, |default| format!("`{default}`")),
            rules(field),
            cell(field.doc)
        )?;
    }
    write_inner_objects(&mut text, "", ClusterSpec::SHAPE)?;
    Ok(text)
}

fn write_inner_objects(text: &mut String, path: &str, shape: Shape) -> Result<()> {
    let Shape::Document(fields) = shape else { return Ok(()) };
    for field in fields {
        let Shape::Document(inner) = field.shape else { continue };
        let path = if path.is_empty() { field.name.to_owned() } else { format!("{path}.{}", field.name) };
        writeln!(text, "\n### `{path}`\n\n| Field | Type | What it does |\n|---|---|---|")?;
        for field in inner {
            let kind = type_of(&format!("{path}.{}", field.name), field.shape);
            writeln!(text, "| `{}` | {kind} | {} |", field.name, cell(field.doc))?;
        }
        write_inner_objects(text, &path, field.shape)?;
    }
    Ok(())
}

fn type_of(path: &str, shape: Shape) -> String {
    match shape {
        Shape::Bool => "boolean".to_owned(),
        Shape::Integer => "whole number".to_owned(),
        Shape::Text => "string".to_owned(),
        Shape::Word(words) => {
            words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" or ")
        }
        Shape::Duration => "span of time".to_owned(),
        Shape::Timestamp => "point in time".to_owned(),
        Shape::List(_) => "list of strings".to_owned(),
        Shape::Map(_) => "object of strings".to_owned(),
        Shape::Document(_) => format!("[object](#{})", path.to_lowercase().replace('.', "")),
    }
}

fn rules(field: &SpecField) -> String {
    let mut rules: Vec<String> = field.rules.iter().map(|rule| (*rule).to_owned()).collect();
    if field.presence == Presence::Required {
        rules.push("required".to_owned());
    }
    if let Some(condition) = field.read_with {
        rules.push(format!("read only with `{condition}`"));
    }
    rules.join("; ")
}

/// Text within a cell of a table.
fn cell(text: &str) -> String {
    text.trim().trim_end_matches('.').replace('|', "\\|").replace('\n', " ")
}

/// The options of the four programs.
fn command_lines() -> Result<String> {
    let keeper = stolon_runtime::command::<stolon_keeper::Flags>(Program::Keeper);
    let sentinel = stolon_runtime::command::<stolon_sentinel::Flags>(Program::Sentinel);
    let proxy = stolon_runtime::command::<stolon_proxy::Flags>(Program::Proxy);
    let mut ctl = stolonctl::command();
    ctl.build();

    let mut text = String::from("## Common options\n\n");
    write_options(&mut text, keeper.get_arguments().filter(|arg| is_common(arg)), Some("…"))?;
    write_hidden(&mut text, keeper.get_arguments().filter(|arg| is_common(arg)))?;
    for (program, command) in
        [(Program::Keeper, keeper), (Program::Sentinel, sentinel), (Program::Proxy, proxy)]
    {
        writeln!(text, "\n## `{}`\n\n{}.\n", program.name(), about(&command))?;
        let own = || command.get_arguments().filter(|arg| !is_common(arg));
        write_options(&mut text, own(), Some(program.environment_prefix()))?;
        write_hidden(&mut text, own())?;
    }
    writeln!(text, "\n## `stolonctl`\n\n{}.", about(&ctl))?;
    write_commands(&mut text, "stolonctl", &ctl)?;
    Ok(text)
}

fn write_commands(text: &mut String, path: &str, command: &Command) -> Result<()> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help")
    {
        let path = format!("{path} {}", inner.get_name());
        writeln!(text, "\n### `{path}`\n\n{}.\n", about(inner))?;
        write_options(text, inner.get_arguments().filter(|arg| !is_common(arg)), None)?;
        write_commands(text, &path, inner)?;
    }
    Ok(())
}

fn about(command: &Command) -> String {
    command.get_about().map(|about| about.to_string().trim_end_matches('.').to_owned()).unwrap_or_default()
}

fn is_common(arg: &Arg) -> bool {
    arg.get_help_heading() == Some(stolon_runtime::COMMON_OPTIONS)
}

fn is_described(arg: &Arg) -> bool {
    !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str())
}

/// One table; `prefix` is what the names of environment variables begin with, if there are any.
fn write_options<'a>(
    text: &mut String,
    arguments: impl Iterator<Item = &'a Arg>,
    prefix: Option<&str>,
) -> Result<()> {
    let arguments: Vec<&Arg> = arguments.filter(|arg| is_described(arg)).collect();
    if arguments.is_empty() {
        return Ok(());
    }
    match prefix {
        Some(_) => {
            text.push_str("| Option | Environment | Default | What it does |\n|---|---|---|---|\n");
        }
        None => text.push_str("| Option | Default | What it does |\n|---|---|---|\n"),
    }
    for arg in arguments {
        let environment = match (prefix, arg.get_long()) {
            (Some(prefix), Some(long)) => {
                format!(" `{prefix}_{}` |", long.to_uppercase().replace('-', "_"))
            }
            (Some(_), None) => " |".to_owned(),
            (None, _) => String::new(),
        };
        writeln!(text, "| {} |{environment} {} | {} |", name(arg), default(arg), meaning(arg))?;
    }
    Ok(())
}

/// Options that are accepted and not shown.
fn write_hidden<'a>(text: &mut String, arguments: impl Iterator<Item = &'a Arg>) -> Result<()> {
    let hidden: Vec<String> = arguments
        .filter(|arg| arg.is_hide_set())
        .filter_map(|arg| Some(format!("`--{}`", arg.get_long()?)))
        .collect();
    if !hidden.is_empty() {
        writeln!(text, "\nAccepted for the sake of old scripts: {}.", hidden.join(", "))?;
    }
    Ok(())
}

fn name(arg: &Arg) -> String {
    let value = arg
        .get_value_names()
        .filter(|_| arg.get_action().takes_values() && !arg.is_require_equals_set())
        .map(|names| names.iter().map(|name| name.to_string()).collect::<Vec<_>>().join(" "));
    let Some(long) = arg.get_long() else { return format!("`{}`", value.unwrap_or_default()) };
    let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    match value {
        Some(value) => format!("{short}`--{long} {value}`"),
        None => format!("{short}`--{long}`"),
    }
}

fn default(arg: &Arg) -> String {
    let values: Vec<String> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    let text = values.join(",");
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}

fn meaning(arg: &Arg) -> String {
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    cell(&help)
}
