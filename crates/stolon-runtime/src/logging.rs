//! Log lines: `<time>⇥<LEVEL>⇥<file:line>⇥<message>⇥<fields as JSON>` on stderr (docs: "Logs").

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::OnceLock;

use crate::log_queue::emit;
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

/// Lowest level of the lines that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What happens.
    Info,
    /// What may need attention.
    Warn,
    /// What failed.
    Error,
}

impl std::str::FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "debug" => Ok(LogLevel::Debug),
            "info" => Ok(LogLevel::Info),
            "warn" => Ok(LogLevel::Warn),
            "error" => Ok(LogLevel::Error),
            _ => Err("the levels are debug, info, warn and error".to_owned()),
        }
    }
}

impl LogLevel {
    fn least(self) -> Level {
        match self {
            LogLevel::Debug => Level::DEBUG,
            LogLevel::Info => Level::INFO,
            LogLevel::Warn => Level::WARN,
            LogLevel::Error => Level::ERROR,
        }
    }
}

/// Whether levels are coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogColor {
    /// When stderr is a terminal.
    OnTerminal,
    /// Always.
    Always,
    /// Never.
    Never,
}

static STYLE: OnceLock<Style> = OnceLock::new();

/// What lines look like, and which are written.
#[derive(Clone, Debug)]
struct Style {
    least: Level,
    colored: bool,
    zone: jiff::tz::TimeZone,
}

/// Write log lines from now on. Only the first call has an effect.
pub fn init_logging(level: LogLevel, color: LogColor) {
    let colored = match color {
        LogColor::Always => true,
        LogColor::Never => false,
        LogColor::OnTerminal => std::io::stderr().is_terminal(),
    };
    let style = Style { least: level.least(), colored, zone: local_zone() };
    if STYLE.set(style.clone()).is_ok() {
        // Only a test that made a subscriber of its own is here before us; it keeps it.
        let _ = tracing::subscriber::set_global_default(Lines { form: Form::Log(style) });
    }
}

/// Write warnings and errors from now on, bare, for people who typed a command. Only the first call has an effect.
pub fn init_bare_logging() {
    // Only a test that made a subscriber of its own is here before us; it keeps it.
    let _ = tracing::subscriber::set_global_default(Lines { form: Form::Bare });
}

pub(crate) fn is_set_up() -> bool {
    STYLE.get().is_some()
}

/// Write a line of level FATAL. The program ends with status 1 or 2 after it.
#[track_caller]
pub fn fatal(message: &str, hint: Option<&str>) {
    let place = std::panic::Location::caller();
    let mut fields = Fields { message: message.to_owned(), json: String::new() };
    if let Some(hint) = hint {
        fields.add("hint", &json_string(hint));
    }
    let style = STYLE.get().cloned().unwrap_or(Style {
        least: Level::INFO,
        colored: false,
        zone: jiff::tz::TimeZone::UTC,
    });
    emit(style.line("FATAL", "31", &place_name(place.file(), place.line()), &fields));
}

/// Our subscriber. `tracing-subscriber` is not used: its formatter writes other lines than Stolon's, and nothing here has spans.
struct Lines {
    form: Form,
}

/// What a line looks like, and which lines are written.
enum Form {
    /// A line of a log, with its time and place.
    Log(Style),
    /// What a command that somebody typed shows: warnings and errors, and only our own.
    Bare,
}

impl Form {
    fn least(&self) -> Level {
        match self {
            Form::Log(style) => style.least,
            Form::Bare => Level::WARN,
        }
    }
}

impl Subscriber for Lines {
    /// Of libraries only warnings and errors are written: the rest is not about what this program does.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let of_libraries = matches!(self.form, Form::Log(_)) && *metadata.level() <= Level::WARN;
        metadata.is_event()
            && *metadata.level() <= self.form.least()
            && (of_libraries || metadata.target().starts_with("stolon"))
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.form.least().into())
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields { message: String::new(), json: String::new() };
        event.record(&mut fields);
        let metadata = event.metadata();
        let style = match &self.form {
            Form::Log(style) => style,
            Form::Bare => {
                let word = if *metadata.level() == Level::WARN { "warning" } else { "error" };
                let details =
                    if fields.json.is_empty() { String::new() } else { format!(" {{{}}}", fields.json) };
                return emit(redact(&format!("{word}: {}{details}\n", fields.message)).into_owned());
            }
        };
        let place = place_name(metadata.file().unwrap_or(metadata.target()), metadata.line().unwrap_or(0));
        let (level, color) = match *metadata.level() {
            Level::ERROR => ("ERROR", "31"),
            Level::WARN => ("WARN", "33"),
            Level::INFO => ("INFO", "34"),
            _ => ("DEBUG", "35"),
        };
        emit(style.line(level, color, &place, &fields));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl Style {
    fn line(&self, level: &str, color: &str, place: &str, fields: &Fields) -> String {
        let now = jiff::Timestamp::now();
        let mut line = local_time(now, self.zone.to_offset(now));
        match self.colored {
            true => _ = write!(line, "\t\u{1b}[{color}m{level}\u{1b}[0m"),
            false => _ = write!(line, "\t{level}"),
        }
        _ = write!(line, "\t{place}\t{}", redact(&fields.message));
        if !fields.json.is_empty() {
            _ = write!(line, "\t{{{}}}", redact(&fields.json));
        }
        line.push('\n');
        line
    }
}

/// The zone of this machine. Where no variable names one its rules are read from where they are: only to learn their name, jiff would
/// list all zones of the world and keep them.
fn local_zone() -> jiff::tz::TimeZone {
    if std::env::var_os("TZ").is_some() {
        return jiff::tz::TimeZone::system();
    }
    let rules = std::fs::read("/etc/localtime").ok();
    let zone = rules.and_then(|rules| jiff::tz::TimeZone::tzif("local", &rules).ok());
    zone.unwrap_or(jiff::tz::TimeZone::UTC)
}

/// `2026-11-22T08:39:05.614Z`, and `+0100` where that is the offset.
fn local_time(now: jiff::Timestamp, offset: jiff::tz::Offset) -> String {
    let local = offset.to_datetime(now);
    let mut text = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}",
        local.year(),
        local.month(),
        local.day(),
        local.hour(),
        local.minute(),
        local.second(),
        local.subsec_nanosecond() / 1_000_000
    );
    match offset.seconds() {
        0 => text.push('Z'),
        seconds => {
            let sign = if seconds < 0 { '-' } else { '+' };
            let minutes = seconds.unsigned_abs() / 60;
            _ = write!(text, "{sign}{:02}{:02}", minutes / 60, minutes % 60);
        }
    }
    text
}

/// The last directory and the file; the crate's name stands for its `src`.
fn place_name(file: &str, line: u32) -> String {
    let parts: Vec<&str> = file.split('/').filter(|part| *part != "src").collect();
    format!("{}:{line}", parts[parts.len().saturating_sub(2)..].join("/"))
}

struct Fields {
    message: String,
    json: String,
}

impl Fields {
    fn add(&mut self, name: &str, json: &str) {
        if !self.json.is_empty() {
            self.json.push_str(", ");
        }
        _ = write!(self.json, "{}: {json}", json_string(name));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            name => self.add(name, &json_string(&text)),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            name => self.add(name, &json_string(value)),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), &value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), &value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), &value.to_string());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        let json = serde_json::Number::from_f64(value).map(|number| number.to_string());
        self.add(field.name(), &json.unwrap_or_else(|| json_string(&value.to_string())));
    }

    /// The message of an error, followed by its causes.
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field.name(), &json_string(&stolon_model::with_causes(value)));
    }
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The text with `***` in place of what follows `password=` (also in quotes) and of the password in a URI.
pub fn redact(text: &str) -> std::borrow::Cow<'_, str> {
    let lower = text.to_ascii_lowercase();
    if !lower.contains("password") && !text.contains("://") {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(start) = secret_start(&lower[at..]) {
        let start = at + start;
        out.push_str(&text[at..start]);
        out.push_str("***");
        at = start + secret_length(&text[start..], text[..start].ends_with(':'));
    }
    out.push_str(&text[at..]);
    out.into()
}

/// Where the next secret begins.
fn secret_start(lower: &str) -> Option<usize> {
    let parameter = ["password=", "password ="]
        .iter()
        .filter_map(|key| lower.find(key).map(|found| found + key.len()))
        .map(|after| after + (lower[after..].len() - lower[after..].trim_start_matches(' ').len()));
    parameter.chain(uri_password(lower)).min()
}

/// Where the password of a URI with user and password begins.
fn uri_password(lower: &str) -> Option<usize> {
    let mut from = 0;
    while let Some(found) = lower[from..].find("://") {
        let authority = from + found + 3;
        let end = lower[authority..]
            .find(|c: char| c == '/' || c == '?' || c == '"' || c.is_whitespace())
            .map_or(lower.len(), |end| authority + end);
        let part = &lower[authority..end];
        if let (Some(colon), Some(at)) = (part.find(':'), part.rfind('@'))
            && colon < at
            && !part[colon + 1..at].starts_with("***")
        {
            return Some(authority + colon + 1);
        }
        from = authority;
    }
    None
}

/// How long the secret is that begins the text.
fn secret_length(text: &str, in_uri: bool) -> usize {
    let quote = text.chars().next().filter(|first| matches!(first, '\'' | '"'));
    if in_uri {
        let end = text.find(|c: char| c == '/' || c.is_whitespace()).unwrap_or(text.len());
        return text[..end].rfind('@').unwrap_or(end);
    }
    let Some(quote) = quote else {
        return text.find(|c: char| c.is_whitespace() || matches!(c, '&' | '\'' | '"')).unwrap_or(text.len());
    };
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_do_not_reach_the_log() {
        for (text, safe) in [
            ("host=a password=xyz user=b", "host=a password=*** user=b"),
            ("password='a \\' b' port=1", "password=*** port=1"),
            ("PASSWORD = secret", "PASSWORD = ***"),
            ("postgres://u:p@ss@host/db", "postgres://u:***@host/db"),
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379"),
            ("the superuser password is empty", "the superuser password is empty"),
            ("password=a password=b", "password=*** password=***"),
            ("password=", "password=***"),
        ] {
            assert_eq!(redact(text), safe);
        }
    }

    #[test]
    fn time_is_local_with_milliseconds() {
        let now: jiff::Timestamp = "2026-11-22T08:39:05.614999Z".parse().unwrap();
        assert_eq!(local_time(now, jiff::tz::Offset::UTC), "2026-11-22T08:39:05.614Z");
        let offset = jiff::tz::Offset::from_seconds(-12_600).unwrap();
        assert_eq!(local_time(now, offset), "2026-11-22T05:09:05.614-0330");
    }

    #[test]
    fn a_place_is_the_last_directory_and_the_file() {
        assert_eq!(place_name("crates/stolon-proxy/src/lib.rs", 7), "stolon-proxy/lib.rs:7");
        assert_eq!(place_name("crates/stolon-core/src/sentinel/sync.rs", 8), "sentinel/sync.rs:8");
        assert_eq!(place_name("main.rs", 9), "main.rs:9");
    }

    #[test]
    fn a_line_has_the_parts_that_scripts_cut() {
        let style = Style { least: Level::INFO, colored: true, zone: jiff::tz::TimeZone::UTC };
        let mut fields = Fields { message: "electing".to_owned(), json: String::new() };
        fields.add("db", "\"85ac816c\"");
        fields.add("count", "2");
        let line = style.line("INFO", "34", "a/b.rs:1", &fields);
        let parts: Vec<&str> = line.split('\t').collect();
        assert_eq!(
            parts[1..],
            ["\u{1b}[34mINFO\u{1b}[0m", "a/b.rs:1", "electing", "{\"db\": \"85ac816c\", \"count\": 2}\n"]
        );
    }
}
