//! The list in `--store-endpoints`, and the parts of it that are used.

use crate::StoreError;

/// What the list says of itself where it says nothing, or nonsense.
pub struct Usual {
    /// The default list, which is the example as well.
    pub endpoint: &'static str,
    /// What to use instead of a user in an endpoint.
    pub instead_of_users: &'static str,
}

impl Usual {
    fn example(&self) -> String {
        format!("an endpoint looks like {}", self.endpoint)
    }
}

/// Of etcd.
pub const ETCD: Usual = Usual { endpoint: "http://127.0.0.1:2379", instead_of_users: "client certificates" };
/// Of Consul.
pub const CONSUL: Usual = Usual { endpoint: "http://127.0.0.1:8500", instead_of_users: "CONSUL_HTTP_TOKEN" };

/// How to speak to the endpoints; all of a list alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The endpoints, each as `<scheme>://<host>:<port>`; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The scheme of all endpoints.
    pub scheme: Scheme,
    /// In the order of the flag.
    pub urls: Vec<String>,
}

impl Endpoints {
    /// Read the list: items separated by commas, blanks around them are ignored, `http` is the default scheme.
    ///
    /// # Errors
    /// [`StoreError::Configuration`], in Stolon's words where it has some.
    pub fn parse(list: &str, usual: &Usual) -> Result<Self, StoreError> {
        let list = if list.trim().is_empty() { usual.endpoint } else { list };
        let items: Vec<(&str, &str)> =
            list.split(',').map(str::trim).filter(|item| !item.is_empty()).map(scheme_and_rest).collect();
        let Some(&(word, _)) = items.first() else {
            return Err(refuse(
                "there is no endpoint in the list",
                &format!("give at least one, for example {}", usual.endpoint),
            ));
        };
        if items.iter().any(|&(other, _)| other != word) {
            return Err(refuse(
                "all the endpoints must have the same scheme",
                "write http:// or https:// in front of each endpoint, the same for all",
            ));
        }
        let scheme = match word {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => {
                return Err(refuse("endpoints scheme must be http or https", &usual.example()));
            }
        };
        let urls = items.iter().map(|&(_, rest)| url(scheme, rest, usual)).collect::<Result<_, _>>()?;
        Ok(Endpoints { scheme, urls })
    }
}

fn refuse(problem: &str, hint: &str) -> StoreError {
    StoreError::configuration(problem.to_owned(), format!("--store-endpoints: {hint}"))
}

/// A scheme is a letter, then letters, digits, `+`, `-` and `.`, then `://`; without one it is `http`.
fn scheme_and_rest(item: &str) -> (&str, &str) {
    match item.split_once("://") {
        Some((scheme, rest))
            if scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')) =>
        {
            (scheme, rest)
        }
        _ => ("http", item),
    }
}

/// Only host and port are used; a path and user information are left out with a warning.
fn url(scheme: Scheme, rest: &str, usual: &Usual) -> Result<String, StoreError> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let host_and_port = authority.rsplit('@').next().unwrap_or("");
    if host_and_port.len() != authority.len() {
        tracing::warn!(
            endpoint = host_and_port,
            instead = usual.instead_of_users,
            "the user in this endpoint is not used"
        );
    }
    if rest.len() > authority.len() + 1 {
        tracing::warn!(endpoint = host_and_port, "the path in this endpoint is not used");
    }
    let has_port = host_and_port
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
    if !has_port {
        return Err(refuse(
            &format!("the endpoint {host_and_port:?} is not a host with a port"),
            &usual.example(),
        ));
    }
    Ok(format!("{}://{host_and_port}", scheme.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let urls = |list: &str| Endpoints::parse(list, &ETCD).map(|endpoints| endpoints.urls.join(" "));
        for (list, expected) in [
            ("", "http://127.0.0.1:2379"),
            ("10.0.0.1:2379", "http://10.0.0.1:2379"),
            ("http://a:1,http://b:2", "http://a:1 http://b:2"),
            ("https://a:1, https://b:2 ,", "https://a:1 https://b:2"),
            ("a:1,http://b:2", "http://a:1 http://b:2"),
            ("http://user:secret@a:1/path", "http://a:1"),
            ("http://[::1]:2379", "http://[::1]:2379"),
        ] {
            assert_eq!(urls(list).as_deref(), Ok(expected), "{list}");
        }
        for (list, expected) in [
            ("http://a:1,https://b:2", "all the endpoints must have the same scheme"),
            ("https://a:1,b:2", "all the endpoints must have the same scheme"),
            ("unix://a:1", "endpoints scheme must be http or https"),
            (",", "there is no endpoint in the list"),
            ("http://a", "the endpoint \"a\" is not a host with a port"),
            ("http://a:x", "the endpoint \"a:x\" is not a host with a port"),
        ] {
            let error = urls(list).expect_err(list);
            assert!(error.to_string().starts_with(expected), "{list}: {error}");
            assert!(stolon_model::Advise::hint(&error).is_some(), "{list}: {error}");
        }
    }
}
