//! A uid belongs to one data directory. Two keepers that report under one uid would take turns in the cluster data, and each
//! turn would restart the database; so a keeper that finds a living namesake refuses to go on.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use stolon_model::{BootUuid, ClusterData, KeeperReport};
use stolon_runtime::{Backoff, UsageError};
use stolon_store::WatchScope;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;
use crate::state_files::{StateFileError, replace};

/// Who reported last from a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Predecessor {
    /// No keeper ever worked there: a report under its uid is somebody else's.
    None,
    /// A keeper that left no note of its boot, such as Stolon's.
    Unknown,
    /// This boot.
    Boot(BootUuid),
}

impl Predecessor {
    const FILE: &str = "boot";

    /// What the data directory tells.
    ///
    /// # Errors
    /// The note is there but cannot be read.
    pub(crate) fn of(data_dir: &Path) -> Result<Self, StateFileError> {
        let path = data_dir.join(Self::FILE);
        match std::fs::read_to_string(&path) {
            Ok(boot) => Ok(Predecessor::Boot(BootUuid::from(boot.trim()))),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                match data_dir.join("keeperstate").exists() {
                    true => Ok(Predecessor::Unknown),
                    false => Ok(Predecessor::None),
                }
            }
            Err(cause) => Err(StateFileError::Read { path, cause }),
        }
    }

    /// Leave the note for whoever comes next.
    fn note(data_dir: &Path, boot: &BootUuid) -> Result<(), StateFileError> {
        let path = data_dir.join(Self::FILE);
        replace(&path, boot.as_str().as_bytes()).map_err(|cause| StateFileError::Write { path, cause })
    }

    /// Whether a report may be a namesake's.
    fn is_foreign(&self, report: &KeeperReport) -> bool {
        match self {
            Predecessor::None => true,
            Predecessor::Unknown => false,
            Predecessor::Boot(boot) => report.boot_uuid != *boot,
        }
    }
}

/// Before the first report: a report of somebody else that changes while we look is a living namesake's. One that does not
/// change for two sleep intervals was left by a keeper that is gone.
///
/// # Errors
/// A namesake lives, or the note for the next keeper cannot be written.
pub(crate) async fn before_first_report(
    shared: &Shared,
    predecessor: &Predecessor,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let look = async {
        let mut watch = shared.store.watch(WatchScope::Everything);
        let mut seen: Option<KeeperReport> = None;
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut deadline = Instant::now();
        loop {
            match own_record(shared).await {
                Ok(Some(report)) if predecessor.is_foreign(&report) => match &seen {
                    Some(before) if before.info_uid != report.info_uid => {
                        return Err(refusal(shared, &report));
                    }
                    Some(_) => {}
                    None => {
                        let pause = silence(shared).await;
                        tracing::info!(
                            uid = %shared.uid, within = ?pause,
                            "the store holds a report under our uid that is not ours: waiting whether its writer lives"
                        );
                        deadline = Instant::now() + pause;
                        seen = Some(report);
                    }
                },
                Ok(_) => return Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "cannot look for another keeper with our uid, trying again");
                    tokio::time::sleep(backoff.next_pause()).await;
                    continue;
                }
            }
            tokio::select! {
                () = sleep_until(deadline) => return Ok(()),
                () = watch.changed() => {}
            }
        }
    };
    match stop.run_until_cancelled(look).await {
        None => Ok(()),
        Some(Err(refusal)) => Err(refusal.into()),
        Some(Ok(())) => Ok(Predecessor::note(&shared.settings.data_dir, &shared.boot)?),
    }
}

/// Before the second report: two namesakes that start together have both found nothing before the first. Whoever wrote last
/// finds its own report. One that has an instance does not yield to one that has none.
///
/// # Errors
/// A namesake lives, and we are the one to yield.
pub(crate) async fn before_second_report(shared: &Shared) -> Result<(), UsageError> {
    // Without an answer there is nothing to go by; the report that follows will not reach the store either.
    let Ok(Some(report)) = own_record(shared).await else { return Ok(()) };
    let is_ours = report.boot_uuid == shared.boot;
    let other_has_instance = report.postgres_state.as_ref().is_some_and(|state| !state.uid.is_empty());
    let we_have_instance = !shared.news.borrow().instance.is_empty();
    match is_ours || (we_have_instance && !other_has_instance) {
        true => Ok(()),
        false => Err(refusal(shared, &report)),
    }
}

async fn own_record(shared: &Shared) -> Result<Option<KeeperReport>, stolon_store::StoreError> {
    Ok(shared.store.keeper_reports().await?.remove(&shared.uid))
}

/// How long a living keeper may stay silent: two of its sleep intervals, and a moment.
async fn silence(shared: &Shared) -> Duration {
    let document = shared.store.cluster_document().await.ok().flatten();
    let data = document.and_then(|document| ClusterData::try_from(document.value).ok());
    let sleep = data.map_or(shared.pace().sleep, |data| data.cluster.spec.effective().sleep_interval);
    sleep * 2 + Duration::from_secs(1)
}

fn refusal(shared: &Shared, report: &KeeperReport) -> UsageError {
    let place = match &report.postgres_state {
        Some(state) if !state.listen_address.is_empty() => {
            format!(" (its PostgreSQL: {}:{})", state.listen_address, state.port)
        }
        _ => String::new(),
    };
    UsageError::new(format!("another keeper with the uid \"{}\" is running{place}", shared.uid))
        .hint("give every keeper a --uid of its own; stop the other one first if this is to take its place")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_knows_who_reported_from_it() {
        let directory = tempfile::tempdir().unwrap();
        let report = |boot: &str| KeeperReport { boot_uuid: BootUuid::from(boot), ..KeeperReport::default() };
        let predecessor = Predecessor::of(directory.path()).unwrap();
        assert_eq!(predecessor, Predecessor::None);
        assert!(predecessor.is_foreign(&report("a")), "nobody reported from an empty directory");

        std::fs::write(directory.path().join("keeperstate"), "{}").unwrap();
        let predecessor = Predecessor::of(directory.path()).unwrap();
        assert_eq!(predecessor, Predecessor::Unknown);
        assert!(!predecessor.is_foreign(&report("a")), "a directory of Stolon is taken over without a pause");

        Predecessor::note(directory.path(), &BootUuid::from("a")).unwrap();
        let predecessor = Predecessor::of(directory.path()).unwrap();
        assert!(!predecessor.is_foreign(&report("a")));
        assert!(predecessor.is_foreign(&report("b")));
    }
}
