//! Addresses and ports as flags give them. What can never work is refused before anything begins; whether a name can be resolved
//! shows later, since name servers come and go.

use std::net::{IpAddr, Ipv6Addr};

/// The longest name of the domain name system (RFC 1035, section 2.3.4).
const LONGEST_NAME: usize = 253;

/// A port that PostgreSQL listens on, 1 to 65535; empty where the flag may be left out.
///
/// # Errors
/// It is none.
pub fn postgres_port(text: &str) -> Result<String, String> {
    match text.parse::<u16>() {
        Ok(1..) => Ok(text.to_owned()),
        _ if text.is_empty() => Ok(String::new()),
        _ => Err("a port is a number from 1 to 65535".to_owned()),
    }
}

/// The name or the address of a host, without a port; an address of IP version 6 may stand in brackets. Empty: none.
///
/// # Errors
/// It is neither.
pub fn host(text: &str) -> Result<String, String> {
    check_host(text).map(|()| text.to_owned())
}

/// Several of them, separated by commas, as PostgreSQL's `listen_addresses` has them: `*` stands for all.
///
/// # Errors
/// One of them is neither a name nor an address.
pub fn hosts(text: &str) -> Result<String, String> {
    text.split(',').map(str::trim).filter(|one| *one != "*").try_for_each(check_host)?;
    Ok(text.to_owned())
}

/// An address to listen on: `host:port`, or `:port` for all addresses. Empty: none.
///
/// # Errors
/// It is no such address.
pub fn host_and_port(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let Some((name, port)) = text.rsplit_once(':') else {
        return Err("it has no port: write host:port".to_owned());
    };
    if name.contains(':') && !name.starts_with('[') {
        return Err("an address of IP version 6 stands in brackets: [::1]:8080".to_owned());
    }
    check_host(name)?;
    check_port_or_service(port)?;
    Ok(text.to_owned())
}

fn check_host(text: &str) -> Result<(), String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(bare) = bare {
        return match bare.parse::<Ipv6Addr>() {
            Ok(_) => Ok(()),
            Err(_) => Err("only an address of IP version 6 stands in brackets".to_owned()),
        };
    }
    if text.is_empty() || text.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    if text.contains(':') {
        return Err("it is not an address, and the port has a flag of its own".to_owned());
    }
    let is_odd = |letter: char| letter.is_whitespace() || letter.is_control() || "/@,[]".contains(letter);
    match text.len() > LONGEST_NAME || text.contains(is_odd) {
        true => Err("it is neither an address nor the name of a host".to_owned()),
        false => Ok(()),
    }
}

/// Names of services consist of letters, digits and hyphens, with a letter among them (RFC 6335, section 5.1).
fn check_port_or_service(text: &str) -> Result<(), String> {
    let is_name = text.contains(|letter: char| letter.is_ascii_alphabetic())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-');
    match text.parse::<u16>() {
        Ok(_) => Ok(()),
        Err(_) if is_name => Ok(()),
        Err(_) => Err("a port is a number from 0 to 65535".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_postgresql() {
        for text in ["1", "5432", "65535", ""] {
            assert_eq!(postgres_port(text).as_deref(), Ok(text));
        }
        for text in ["0", "65536", "-1", "x", "54 32", "5432,5433", "0x10"] {
            assert!(postgres_port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for text in ["", "db1", "db-1.example.com", "db_1", "10.0.0.1", "::1", "[fe80::1]", "дб"] {
            assert!(host(text).is_ok(), "{text}");
        }
        let long = "x".repeat(254);
        for text in
            ["a b", "db1:5432", "::::", "[db1]", "10.0.0.1:5432", "a,b", "http://db1", "a\n", long.as_str()]
        {
            assert!(host(text).is_err(), "{text}");
        }
        for text in ["*", "127.0.0.1,::1", "localhost, db1", ""] {
            assert!(hosts(text).is_ok(), "{text}");
        }
        assert!(hosts("db1,a b").is_err());
    }

    #[test]
    fn addresses_to_listen_on_have_a_port() {
        for text in ["", ":9090", "127.0.0.1:0", "[::]:9090", "localhost:http-alt", "db1:65535"] {
            assert!(host_and_port(text).is_ok(), "{text}");
        }
        for text in ["9090", "db1", "::1:9090", "::::", "a b:80", "db1:65536", "db1:", "db1:-1", "db1:8 0"] {
            assert!(host_and_port(text).is_err(), "{text}");
        }
    }
}
