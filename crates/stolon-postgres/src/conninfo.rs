//! A connection string that an operator wrote: its password goes into a file, since everybody who may read settings can read the string
//! (PostgreSQL manual, "Connection Strings", "The Password File").

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use stolon_model::Advise;

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

/// A connection string that holds no password, and says who connects and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conninfo {
    pairs: BTreeMap<String, String>,
}

/// Why a connection string is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadConninfo {
    /// Neither pairs nor a URI.
    #[error("PostgreSQL could not read it")]
    Syntax,
    /// It holds a secret.
    #[error("it holds a password, which everybody could read who sees the command or the store")]
    Password,
    /// It names no user.
    #[error("it names no user")]
    NoUser,
    /// It names no server.
    #[error("it names no host")]
    NoHost,
    /// Not one port for all, and not one for each.
    #[error("it does not name a port for each host")]
    Ports,
}

impl Advise for BadConninfo {
    fn hint(&self) -> Option<Cow<'static, str>> {
        Some(Cow::Borrowed(match self {
            Self::Syntax => {
                "it looks like this: 'host=legacy port=5432 user=postgres passfile=/run/secrets/legacy'"
            }
            Self::Password => {
                "put the password into a file that only you can read, in a line host:port:*:user:password, and name it: passfile=/path/of/it"
            }
            Self::NoUser => "add user=…",
            Self::NoHost => "add host=…, or several separated by commas",
            Self::Ports => "give one port for all hosts, or one for each",
        }))
    }
}

/// One of the servers that a connection string names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name or address, or the directory of a socket.
    pub host: String,
    /// Port.
    pub port: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Conninfo {
    /// Read pairs or a URI.
    ///
    /// # Errors
    /// It cannot be read, holds a password, or lacks the user or the host.
    pub fn parse(text: &str) -> Result<Conninfo, BadConninfo> {
        let pairs = match ["postgresql://", "postgres://"].iter().find_map(|scheme| text.strip_prefix(scheme))
        {
            Some(rest) => uri_pairs(rest),
            None => pairs(text)
                .map(|pairs| pairs.into_iter().map(|pair| (pair.key.to_owned(), pair.value)).collect()),
        };
        let mut pairs: BTreeMap<String, String> = pairs.ok_or(BadConninfo::Syntax)?;
        pairs.retain(|_, value| !value.is_empty());
        let conninfo = Conninfo { pairs };
        if conninfo.get("password").is_some() || conninfo.get("sslpassword").is_some() {
            return Err(BadConninfo::Password);
        }
        if conninfo.get("user").is_none() {
            return Err(BadConninfo::NoUser);
        }
        conninfo.checked_places()?;
        Ok(conninfo)
    }

    /// The value of a key; none where it is absent or empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.get(key).map(String::as_str)
    }

    /// The same with another value for a key; an empty one removes it.
    #[must_use]
    pub fn with(&self, key: &str, value: &str) -> Conninfo {
        let mut pairs = self.pairs.clone();
        match value {
            "" => pairs.remove(key),
            value => pairs.insert(key.to_owned(), value.to_owned()),
        };
        Conninfo { pairs }
    }

    /// The servers, in their order.
    pub fn places(&self) -> Vec<Place> {
        self.checked_places().unwrap_or_default()
    }

    fn checked_places(&self) -> Result<Vec<Place>, BadConninfo> {
        let hosts = self.get("hostaddr").or_else(|| self.get("host")).ok_or(BadConninfo::NoHost)?;
        let hosts: Vec<&str> = hosts.split(',').collect();
        let ports: Vec<&str> = self.get("port").unwrap_or_default().split(',').collect();
        let place = |(at, host): (usize, &&str)| {
            let port = if ports.len() == 1 { ports.first() } else { ports.get(at) };
            let port = port.filter(|port| !port.is_empty()).unwrap_or(&"5432");
            Place { host: (*host).to_owned(), port: (*port).to_owned() }
        };
        match ports.len() == 1 || ports.len() == hosts.len() {
            true => Ok(hosts.iter().enumerate().map(place).collect()),
            false => Err(BadConninfo::Ports),
        }
    }
}

/// As pairs, which libpq reads wherever it reads a connection string.
impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quote::conninfo(self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))))
    }
}

fn uri_pairs(rest: &str) -> Option<BTreeMap<String, String>> {
    let mut pairs = BTreeMap::new();
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    for (key, value) in [("user", name), ("password", password), ("dbname", database)] {
        pairs.insert(key.to_owned(), decoded(value)?);
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        // An IPv6 address stands in brackets.
        let (name, port) = match host.strip_prefix('[') {
            Some(address) => {
                let (name, rest) = address.split_once(']')?;
                (name, rest.strip_prefix(':').unwrap_or_default())
            }
            None => host.split_once(':').unwrap_or((host, "")),
        };
        names.push(decoded(name)?);
        ports.push(port);
    }
    pairs.insert("host".to_owned(), names.join(","));
    if ports.iter().any(|port| !port.is_empty()) {
        pairs.insert("port".to_owned(), ports.join(","));
    }
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=')?;
        pairs.insert(decoded(key)?, decoded(value)?);
    }
    Some(pairs)
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
    #[test]
    fn strings_of_operators_are_read_with_their_servers() {
        let parse = |text: &str| Conninfo::parse(text).map(|conninfo| conninfo.to_string());
        for (text, read) in [
            ("host=a user=u", "host=a user=u"),
            ("host=a user=u dbname='' passfile='/a b'", r"host=a passfile=/a\ b user=u"),
            (
                "postgresql://u@h:1,i/d%20b?sslmode=require",
                r"dbname=d\ b host=h,i port=1, sslmode=require user=u",
            ),
            ("postgres://u@[::1]:5/", "host=::1 port=5 user=u"),
        ] {
            assert_eq!(parse(text), Ok(read.to_owned()), "{text}");
        }
        for (text, why) in [
            ("host=a user=u password=x", BadConninfo::Password),
            ("postgresql://u:x@h/d", BadConninfo::Password),
            ("postgresql://u@h/d?password=x", BadConninfo::Password),
            ("host=a", BadConninfo::NoUser),
            ("user=u", BadConninfo::NoHost),
            ("host=a,b,c port=1,2 user=u", BadConninfo::Ports),
            ("legacy", BadConninfo::Syntax),
        ] {
            assert_eq!(parse(text), Err(why), "{text}");
        }
        let places = Conninfo::parse("host=a,b port=1,2 user=u").unwrap().places();
        assert_eq!(places.iter().map(Place::to_string).collect::<Vec<_>>(), ["a:1", "b:2"]);
    }
}
