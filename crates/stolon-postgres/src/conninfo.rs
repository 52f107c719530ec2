//! A connection string that an operator wrote: its password goes into a file, since everybody who may read settings can read the string
//! (PostgreSQL manual, "Connection Strings", "The Password File").

use std::ops::Range;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::quote;

/// A connection string without its password.
#[derive(PartialEq, Eq)]
pub struct Parted {
    /// Reads the password from the file.
    pub conninfo: String,
    /// The password.
    pub password: String,
}

/// Takes the password out of a connection string, and names the password file `file` in its place. None where there is no password,
/// or where PostgreSQL could not read the string either.
pub fn part(conninfo: &str, file: &str) -> Option<Parted> {
    match ["postgresql://", "postgres://"].into_iter().find(|scheme| conninfo.starts_with(scheme)) {
        Some(scheme) => part_uri(scheme, &conninfo[scheme.len()..], file),
        None => part_pairs(conninfo, file),
    }
}

fn part_pairs(conninfo: &str, file: &str) -> Option<Parted> {
    let pairs = pairs(conninfo)?;
    // Of two the later one counts.
    let password = pairs.iter().rfind(|pair| pair.key == "password")?.value.clone();
    let kept = pairs.iter().filter(|pair| !matches!(pair.key, "password" | "passfile"));
    let mut words: Vec<String> = kept.map(|pair| conninfo[pair.place.clone()].to_owned()).collect();
    words.push(quote::conninfo([("passfile", file)]));
    Some(Parted { conninfo: words.join(" "), password })
}

struct Pair<'a> {
    key: &'a str,
    value: String,
    place: Range<usize>,
}

/// The pairs of `key = 'value' …`; none where something else stands there.
fn pairs(conninfo: &str) -> Option<Vec<Pair<'_>>> {
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        at = conninfo.len() - conninfo[at..].trim_start().len();
        if at == conninfo.len() {
            return Some(found);
        }
        let equals = at + conninfo[at..].find('=')?;
        let key = conninfo[at..equals].trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return None;
        }
        let begins = conninfo.len() - conninfo[equals + 1..].trim_start().len();
        let (value, length) = value(&conninfo[begins..])?;
        found.push(Pair { key, value, place: at..begins + length });
        at = begins + length;
    }
}

/// The value at the beginning of `text`, and how many bytes it takes there.
fn value(text: &str) -> Option<(String, usize)> {
    let is_quoted = text.starts_with('\'');
    let (mut value, mut characters) = (String::new(), text.char_indices().skip(usize::from(is_quoted)));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.push(characters.next()?.1),
            '\'' if is_quoted => return Some((value, at + 1)),
            blank if !is_quoted && blank.is_whitespace() => return Some((value, at)),
            other => value.push(other),
        }
    }
    (!is_quoted).then_some((value, text.len()))
}

fn part_uri(scheme: &str, rest: &str, file: &str) -> Option<Parted> {
    let (user, rest) = match rest.split('/').next()?.split_once('@') {
        Some((user, _)) => (user, &rest[user.len() + 1..]),
        None => ("", rest),
    };
    let (name, mut password) = match user.split_once(':') {
        Some((name, password)) => (name, decoded(password)?),
        None => (user, String::new()),
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut kept: Vec<String> = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match decoded(parameter.split('=').next()?)?.as_str() {
            "password" => password = decoded(parameter.split_once('=')?.1)?,
            "passfile" => {}
            _ => kept.push(parameter.to_owned()),
        }
    }
    if password.is_empty() {
        return None;
    }
    kept.push(format!("passfile={}", utf8_percent_encode(file, NON_ALPHANUMERIC)));
    let at = if user.is_empty() { "" } else { "@" };
    Some(Parted { conninfo: format!("{scheme}{name}{at}{place}?{}", kept.join("&")), password })
}

fn decoded(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_leaves_the_string_and_everything_else_stays() {
        for (conninfo, without, password) in [
            ("host=a password=x", "host=a passfile=/f", "x"),
            (
                "host = 'a b'  password = 'it\\'s \\\\ x' user=u",
                "host = 'a b' user=u passfile=/f",
                "it's \\ x",
            ),
            ("password=a\\ b passfile=/mine host=h", "host=h passfile=/f", "a b"),
            ("password=old password=new", "passfile=/f", "new"),
            ("postgresql://u:p%40ss@h:1,i:2/db", "postgresql://u@h:1,i:2/db?passfile=%2Ff", "p@ss"),
            (
                "postgres://u@h?sslmode=require&password=a%26b&passfile=x",
                "postgres://u@h?sslmode=require&passfile=%2Ff",
                "a&b",
            ),
            ("postgresql:///db?password=x", "postgresql:///db?passfile=%2Ff", "x"),
        ] {
            let parted = part(conninfo, "/f").map(|parted| (parted.conninfo, parted.password));
            assert_eq!(parted, Some((without.to_owned(), password.to_owned())), "{conninfo}");
        }
    }

    #[test]
    fn what_has_no_password_or_cannot_be_read_stays_as_it_is() {
        for conninfo in [
            "",
            "host=a user=u",
            "host=a passfile=/mine",
            "password",
            "a b=c password=x",
            "password='open",
            "postgresql://u@h/db?application_name=password",
            "postgresql://h",
        ] {
            assert!(part(conninfo, "/f").is_none(), "{conninfo}");
        }
    }
}
