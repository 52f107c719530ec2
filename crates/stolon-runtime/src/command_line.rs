//! Command lines as Go programs read them, on top of clap.

use std::any::TypeId;
use std::ffi::OsString;
use std::io::Write as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args as _, Command};
use stolon_model::Explained;

use crate::common_args::CommonArgs;
use crate::program::{Program, version};
use crate::shutdown::show;
use crate::usage::UsageError;
use crate::values::go_bool;

/// Parse the command line and the environment of this process.
///
/// * Every flag of the root command can be given as `<PREFIX>_<FLAG>` in the environment; an empty variable is
///   no variable, and the command line wins.
/// * A flag of type `bool` is `--flag` or `--flag=false`, never `--flag false`.
/// * The last of several occurrences of a flag counts. A value may begin with a hyphen.
/// * Daemons ignore positional arguments; `stolonctl` takes its root flags before and after the subcommand.
/// * Deprecated flags of the program (`--debug`, `--id`) are hidden, and say so when used on the command line.
///
/// Bad input prints one sentence and a hint, and exits with status 2. `--help` and `--version` exit with 0.
pub fn parse<T: clap::Parser>(program: Program) -> T {
    match try_parse_from(program, std::env::args_os()) {
        Ok(flags) => flags,
        Err(Stop::Show(text)) => {
            // A reader that closed the pipe has seen enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            std::process::exit(0)
        }
        Err(Stop::Usage(UsageError { message, hint })) => {
            show(program, &Explained { sentence: message, hint });
            std::process::exit(2)
        }
    }
}

/// Why there are no flags to work with.
#[derive(Debug)]
pub enum Stop {
    /// Help or version was asked for.
    Show(String),
    /// Bad input.
    Usage(UsageError),
}

/// [`parse`] without the exit: with these arguments (the first one is the program's name).
///
/// # Errors
/// Help or version was asked for, or the input is bad.
pub fn try_parse_from<T, A>(program: Program, arguments: impl IntoIterator<Item = A>) -> Result<T, Stop>
where
    T: clap::Parser,
    A: Into<OsString> + Clone,
{
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let mut command = prepared(program, T::command());
    let matches =
        command.try_get_matches_from_mut(&arguments).map_err(|error| explain(program, &arguments, &error))?;
    note_deprecated(program, &matches);
    for sentence in ignored_words(&command, &arguments, &matches) {
        eprintln!("{sentence}");
    }
    T::from_arg_matches(&matches).map_err(|error| explain(program, &arguments, &error))
}

/// Where daemons put what is no flag.
const IGNORED: &str = "ignored arguments";

/// One sentence about each word that a daemon ignores. Most were meant as the value of the switch before them.
fn ignored_words(command: &Command, arguments: &[OsString], matches: &ArgMatches) -> Vec<String> {
    let words = matches.try_get_many::<OsString>(IGNORED).ok().flatten().into_iter().flatten();
    let is_switch = |flag: &str| {
        let of_that_name = |arg: &&Arg| arg.get_long() == flag.strip_prefix("--");
        command.get_arguments().find(of_that_name).is_some_and(Arg::is_require_equals_set)
    };
    words
        .map(|word| {
            let pairs = arguments.windows(2).filter(|pair| &pair[1] == word);
            let switch = pairs.filter_map(|pair| pair[0].to_str()).find(|before| is_switch(before));
            let word = word.to_string_lossy();
            match switch {
                Some(switch) => format!("The word {word:?} is ignored: write {switch}={word}"),
                None => format!("The word {word:?} is ignored: it is no flag, nor the value of one"),
            }
        })
        .collect()
}

/// The help of a program, for reference documentation.
pub fn help_text<T: clap::Parser>(program: Program) -> String {
    prepared(program, T::command()).render_long_help().to_string()
}

/// The command of a program as [`parse`] reads it, for shell completion and reference documentation.
pub fn command<T: clap::CommandFactory>(program: Program) -> Command {
    prepared(program, T::command())
}

/// Make clap behave as documented at [`parse`].
fn prepared(program: Program, command: Command) -> Command {
    let mut command = like_go(command)
        .name(program.name())
        .version(format!("version {}", version()))
        .disable_version_flag(true)
        .mut_args(|arg| with_environment(program, own_heading(arg)))
        .arg(Arg::new("version").long("version").action(ArgAction::Version).help("Print version"))
        .after_help(format!(
            "Every option above can also be given in the environment: --cluster-name as {}.",
            program.environment_variable("cluster-name")
        ));
    if program == Program::Ctl {
        command = command.mut_args(|arg| match arg.get_long() {
            Some("version") | None => arg,
            Some(_) => arg.global(true),
        });
    } else {
        let ignored = Arg::new(IGNORED).num_args(0..).hide(true).action(ArgAction::Append);
        command = command.arg(ignored.value_parser(clap::value_parser!(OsString)));
    }
    command
}

/// clap lets the heading of a flattened group reach to the end of all flags; this ends it where the common flags end.
fn own_heading(arg: Arg) -> Arg {
    let common = CommonArgs::augment_args(Command::new("common"));
    match common.get_arguments().any(|flag| flag.get_id() == arg.get_id()) {
        true => arg,
        false => arg.help_heading(None),
    }
}

fn like_go(command: Command) -> Command {
    command.args_override_self(true).mut_args(flag_like_go).mut_subcommands(like_go)
}

fn flag_like_go(arg: Arg) -> Arg {
    let is_bool = match arg.get_action() {
        ArgAction::SetTrue => true,
        ArgAction::Set => arg.get_value_parser().type_id() == TypeId::of::<bool>(),
        _ => return arg,
    };
    if arg.is_positional() {
        return arg;
    }
    if !is_bool {
        return arg.allow_hyphen_values(true);
    }
    let was_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let arg = match was_switch && arg.get_default_values().is_empty() {
        true => arg.default_value("false"),
        false => arg,
    };
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_parser(go_bool)
        .value_name("BOOL")
        .hide_default_value(was_switch)
        .hide_possible_values(true)
}

/// clap takes an empty variable for a value, so only variables with a value are named to it.
fn with_environment(program: Program, arg: Arg) -> Arg {
    let Some(flag) = arg.get_long().map(str::to_owned) else { return arg };
    let is_deprecated = program.deprecated_flags().iter().any(|(name, _)| *name == flag);
    let arg = if is_deprecated { arg.hide(true) } else { arg };
    let variable = program.environment_variable(&flag);
    match std::env::var_os(&variable).is_some_and(|value| !value.is_empty()) {
        true => arg.env(variable).hide_env(true),
        false => arg,
    }
}

fn note_deprecated(program: Program, matches: &ArgMatches) {
    for (flag, advice) in program.deprecated_flags() {
        let id = flag.replace('-', "_");
        let given = matches.try_contains_id(&id).is_ok()
            && matches.value_source(&id) == Some(ValueSource::CommandLine);
        if given {
            eprintln!("Flag --{flag} has been deprecated, {advice}");
        }
    }
}

/// One sentence with a hint, made from an error of clap.
fn explain(program: Program, arguments: &[OsString], error: &clap::Error) -> Stop {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        Some(ContextValue::StyledStr(text)) => text.to_string(),
        Some(ContextValue::StyledStrs(texts)) => texts.first().map(ToString::to_string).unwrap_or_default(),
        _ => String::new(),
    };
    let argument = text(ContextKind::InvalidArg);
    let value = text(ContextKind::InvalidValue);
    let flag = argument.split([' ', '=', '[', '<']).next().unwrap_or_default().to_owned();
    let see_help = format!("see {} --help", program.name());
    let usage = match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return Stop::Show(error.render().to_string());
        }
        ErrorKind::UnknownArgument if !argument.starts_with('-') => UsageError::new("too many arguments")
            .hint(format!("{argument:?} is more than the command takes; {see_help}")),
        ErrorKind::UnknownArgument => unknown_flag(&argument, &text(ContextKind::SuggestedArg), see_help),
        ErrorKind::InvalidSubcommand => {
            let command = text(ContextKind::InvalidSubcommand);
            let similar = text(ContextKind::SuggestedSubcommand);
            let hint = match program.answer_to_foreign_command(&command) {
                Some(answer) => answer.to_owned(),
                None if similar.is_empty() => see_help,
                None => format!("did you mean {similar}?"),
            };
            UsageError::new(format!("unknown command {command:?} for {:?}", program.name())).hint(hint)
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation if value.is_empty() => {
            UsageError::new(format!("flag needs an argument: {flag}")).hint(see_help)
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let cause = std::error::Error::source(error)
                .map(ToString::to_string)
                .unwrap_or_else(|| format!("the values are {}", text(ContextKind::ValidValue)));
            invalid_value(program, arguments, &flag, &value, &cause).hint(see_help)
        }
        ErrorKind::TooManyValues | ErrorKind::NoEquals => {
            UsageError::new(format!("bad use of {flag}")).hint(format!("write {flag}=VALUE; {see_help}"))
        }
        ErrorKind::MissingRequiredArgument => {
            UsageError::new(format!("{argument} is required")).hint(see_help)
        }
        _ => {
            let rendered = error.render().to_string();
            let sentence = rendered.lines().next().unwrap_or_default().trim_start_matches("error: ");
            UsageError::new(sentence).hint(see_help)
        }
    };
    Stop::Usage(usage)
}

fn unknown_flag(argument: &str, similar: &str, see_help: String) -> UsageError {
    let sentence = match argument.starts_with("--") {
        true => format!("unknown flag: {}", argument.split('=').next().unwrap_or(argument)),
        false => format!("unknown shorthand flag: {argument}"),
    };
    UsageError::new(sentence).hint(if similar.is_empty() {
        see_help
    } else {
        format!("did you mean {similar}?")
    })
}

/// The error about a value; it names the variable if the value came from the environment.
fn invalid_value(
    program: Program,
    arguments: &[OsString],
    flag: &str,
    value: &str,
    cause: &str,
) -> UsageError {
    let variable = program.environment_variable(flag.trim_start_matches('-'));
    let on_command_line = arguments.iter().skip(1).any(|argument| {
        let argument = argument.to_string_lossy();
        argument == flag || argument.strip_prefix(flag).is_some_and(|rest| rest.starts_with('='))
    });
    let from_environment =
        !on_command_line && std::env::var_os(&variable).is_some_and(|found| found == *value);
    match from_environment {
        true => UsageError::new(format!("invalid value {value:?} for {variable}: {cause}")),
        false => UsageError::new(format!("invalid argument {value:?} for {flag:?} flag: {cause}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Daemon {
        #[command(flatten)]
        common: CommonArgs,
        #[arg(long, default_value_t = true)]
        stop_listening: bool,
        #[arg(long, short = 'y')]
        yes: bool,
        #[arg(long, short = 'p', default_value = "")]
        patch: String,
    }

    #[derive(Debug, Parser)]
    struct Ctl {
        #[command(flatten)]
        common: CommonArgs,
        #[command(subcommand)]
        command: Option<Sub>,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Sub {
        Update {
            #[arg(long, short = 'p')]
            patch: bool,
            spec: Option<String>,
        },
    }

    fn daemon(arguments: &[&str]) -> Result<Daemon, String> {
        parse_as(Program::Proxy, arguments)
    }

    fn ctl(arguments: &[&str]) -> Result<Ctl, String> {
        parse_as(Program::Ctl, arguments)
    }

    fn parse_as<T: Parser>(program: Program, arguments: &[&str]) -> Result<T, String> {
        let arguments = std::iter::once(program.name()).chain(arguments.iter().copied());
        try_parse_from(program, arguments).map_err(|stop| match stop {
            Stop::Show(text) => text,
            Stop::Usage(UsageError { message, hint }) => match hint {
                Some(hint) => format!("{message}\nhint: {hint}"),
                None => message,
            },
        })
    }

    #[test]
    fn the_flags_of_a_program_stand_apart_from_the_common_ones() {
        let help = help_text::<Daemon>(Program::Proxy);
        let (own, common) = help.split_once("Common options:").expect("a heading");
        assert!(own.contains("--stop-listening") && !common.contains("--stop-listening"), "{help}");
        assert!(common.contains("--store-prefix") && !own.contains("--store-prefix"), "{help}");
    }

    #[test]
    fn switches_are_gos() {
        for (arguments, expected) in [
            (&[][..], (true, false)),
            (&["--stop-listening=false", "--yes"], (false, true)),
            (&["--stop-listening=F", "--yes=1"], (false, true)),
            (&["--stop-listening", "-y"], (true, true)),
            (&["--stop-listening", "false"], (true, false)),
            (&["--yes", "--yes=false"], (true, false)),
        ] {
            let flags = daemon(arguments).unwrap();
            assert_eq!((flags.stop_listening, flags.yes), expected, "{arguments:?}");
        }
        assert_eq!(
            daemon(&["--yes=maybe"]).unwrap_err(),
            "invalid argument \"maybe\" for \"--yes\" flag: not one of true, false\nhint: see stolon-proxy --help"
        );
    }

    #[test]
    fn values_may_be_joined_repeated_and_begin_with_a_hyphen() {
        assert_eq!(daemon(&["-p", "a", "--patch=b", "--patch", "-c"]).unwrap().patch, "-c");
        assert_eq!(daemon(&["-pa"]).unwrap().patch, "a");
        assert_eq!(daemon(&["-p=a"]).unwrap().patch, "a");
        let joined = daemon(&["-ypa"]).unwrap();
        assert!(joined.yes);
        assert_eq!(joined.patch, "a");
    }

    #[test]
    fn daemons_ignore_arguments_wherever_they_stand() {
        let flags = daemon(&["one", "--yes", "two", "--cluster-name", "c", "--", "--three"]).unwrap();
        assert!(flags.yes);
        assert_eq!(flags.common.cluster_name, "c");
    }

    #[test]
    fn the_flags_of_logging_mean_what_they_always_did() {
        use crate::logging::{LogColor, LogLevel};
        for (arguments, expected) in [
            (&[][..], (LogLevel::Info, LogColor::OnTerminal)),
            (&["--debug"], (LogLevel::Debug, LogColor::OnTerminal)),
            (&["--debug", "--log-level=error"], (LogLevel::Debug, LogColor::OnTerminal)),
            (&["--log-level=warn", "--log-color"], (LogLevel::Warn, LogColor::Always)),
            (&["--log-color=false"], (LogLevel::Info, LogColor::Never)),
        ] {
            assert_eq!(daemon(arguments).unwrap().common.logging(), expected, "{arguments:?}");
        }
    }

    #[test]
    fn words_that_daemons_ignore_are_named_with_the_right_form() {
        for (words, expected) in [
            (
                &["--stop-listening", "false"][..],
                &["The word \"false\" is ignored: write --stop-listening=false"][..],
            ),
            (
                &["--patch", "x", "start", "--yes"],
                &["The word \"start\" is ignored: it is no flag, nor the value of one"],
            ),
            (&["--yes=false", "--cluster-name", "false"], &[]),
        ] {
            let mut command = prepared(Program::Proxy, <Daemon as clap::CommandFactory>::command());
            let arguments: Vec<OsString> =
                std::iter::once("stolon-proxy").chain(words.iter().copied()).map(Into::into).collect();
            let matches = command.try_get_matches_from_mut(&arguments).unwrap();
            assert_eq!(ignored_words(&command, &arguments, &matches), expected, "{words:?}");
        }
    }

    #[test]
    fn mistakes_are_one_sentence_and_a_hint() {
        for (arguments, expected) in [
            (&["--foo"][..], "unknown flag: --foo\nhint: see stolon-proxy --help"),
            (&["--cluster-nam=x"], "unknown flag: --cluster-nam\nhint: did you mean --cluster-name?"),
            (&["-x"], "unknown shorthand flag: -x\nhint: see stolon-proxy --help"),
            (&["--patch"], "flag needs an argument: --patch\nhint: see stolon-proxy --help"),
            (
                &["--store-timeout", "5"],
                "invalid argument \"5\" for \"--store-timeout\" flag: time: missing unit in duration \"5\"\n\
                 hint: see stolon-proxy --help",
            ),
            (
                &["--log-level=loud"],
                "invalid argument \"loud\" for \"--log-level\" flag: the levels are debug, info, warn and error\n\
                 hint: see stolon-proxy --help",
            ),
        ] {
            assert_eq!(daemon(arguments).unwrap_err(), expected, "{arguments:?}");
        }
        assert_eq!(
            ctl(&["updat"]).unwrap_err(),
            "unknown command \"updat\" for \"stolonctl\"\nhint: did you mean update?"
        );
        assert!(ctl(&["update", "a", "b"]).unwrap_err().starts_with("too many arguments"));
    }

    #[test]
    fn common_flags_stand_before_or_after_the_subcommand() {
        for arguments in [
            &["--cluster-name", "c", "--store-skip-tls-verify", "update", "-p", "{}"][..],
            &["update", "--cluster-name=c", "-p", "{}", "--store-skip-tls-verify"],
        ] {
            let flags = ctl(arguments).unwrap();
            assert_eq!(flags.common.cluster_name, "c");
            assert!(flags.common.store_skip_tls_verify);
            let Some(Sub::Update { patch, spec }) = flags.command else { panic!("no subcommand") };
            assert!(patch);
            assert_eq!(spec.as_deref(), Some("{}"));
        }
        assert_eq!(ctl(&["--version"]).unwrap_err(), format!("stolonctl version {}\n", version()));
    }

    #[test]
    fn the_store_is_checked_in_the_documented_order() {
        let message =
            |arguments: &[&str]| daemon(arguments).unwrap().common.store_options().unwrap_err().message;
        assert_eq!(message(&[]), "cluster name required");
        assert_eq!(message(&["--cluster-name=c"]), "store backend type required");
        let kubernetes = ["--cluster-name=c", "--store-backend=kubernetes"];
        assert_eq!(message(&kubernetes), "unspecified kubernetes resource kind");
        assert_eq!(
            message(&[kubernetes[0], kubernetes[1], "--kube-resource-kind=x"]),
            "wrong kubernetes resource kind: \"x\""
        );
        assert_eq!(message(&["--cluster-name=c", "--store-backend=b"]), "Unknown store backend: \"b\"");
        assert!(
            daemon(&["--cluster-name=c", "--store-backend=sqlite"]).unwrap().common.store_options().is_ok()
        );
    }
}
