//! Sentences for people.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use stolon_core::proxy::{ClosedBecause, Version};
use stolon_model::{Advise, GoDuration};
use stolon_store::StoreError;

/// Why an effect could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("{0}")]
    Store(StoreError),
    #[error("{0}")]
    Io(io::Error),
    #[error("no answer within {}", GoDuration::from(*.0))]
    Silence(Duration),
    #[error("cannot listen on {place}: {cause}")]
    Listen { place: String, cause: io::Error },
}

impl Advise for Trouble {
    fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Io(_) | Self::Silence(_) | Self::Listen { .. } => None,
        }
    }
}

/// Why clients go nowhere.
pub(crate) fn closed(why: &ClosedBecause) -> String {
    match why {
        ClosedBecause::NoClusterData => "the store holds no cluster data".to_owned(),
        ClosedBecause::BadClusterData(bad) => bad.to_string(),
        ClosedBecause::HandingOver(_) => {
            "another keeper gets the primary, new clients wait for it".to_owned()
        }
        ClosedBecause::NoPrimary => "the cluster has no primary for clients now".to_owned(),
        ClosedBecause::UnknownPrimary(uid) => format!("the primary {uid} does not exist"),
        ClosedBecause::NoAddress(uid) => format!("the primary {uid} has not published its address yet"),
        ClosedBecause::NotEnabled { .. } => "the sentinel has not admitted this proxy yet".to_owned(),
        ClosedBecause::Moved => "the primary moved".to_owned(),
        ClosedBecause::Expired => "no check succeeded within the proxy timeout".to_owned(),
        ClosedBecause::OlderThanSeen { seen, found } => older(seen, found),
        ClosedBecause::Stopping => "the proxy stops".to_owned(),
    }
}

/// The sentence about a store that has gone back in time.
pub(crate) fn older(seen: &Version, found: &Version) -> String {
    let version = |version: &Version| match version.epoch {
        Some(epoch) => format!("epoch {epoch}, proxy generation {}", version.generation),
        None => format!("proxy generation {}", version.generation),
    };
    format!(
        "the cluster data in the store ({}) are older than what this proxy has seen ({}); if they are meant, restart the proxy",
        version(found),
        version(seen)
    )
}
