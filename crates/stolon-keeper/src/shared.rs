//! What the activities of a keeper share.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use stolon_core::keeper::{Identity, ReplicationRow, RewindCredentials, User, instances_of};
use stolon_model::{
    BootUuid, ClusterUid, InstanceUid, KeeperActivity, KeeperState, KeeperUid, Lsn, Parameters,
    PostgresState, PostgresVersion,
};
use stolon_postgres::sync_gate::names_in;
use stolon_postgres::{Credentials, LocalPostgres, SyncGate};
use stolon_runtime::Readiness;
use stolon_store::ClusterStore;
use tokio::sync::{Notify, watch};

use crate::flags::Settings;
use crate::metrics::Metrics;

/// The store must not be flooded when somebody sets the interval to nothing.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// What the activities of a keeper share. One thread: nothing here is locked across an await.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) uid: KeeperUid,
    pub(crate) boot: BootUuid,
    pub(crate) store: Arc<dyn ClusterStore>,
    pub(crate) postgres: LocalPostgres,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    /// What is to be published.
    pub(crate) news: watch::Sender<News>,
    /// How often things are done.
    pub(crate) pace: watch::Sender<Pace>,
    /// Somebody changed PostgreSQL: look at it now.
    pub(crate) look: Notify,
    sync_gate: RefCell<SyncGate>,
}

/// What is to be published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Empty until a cluster is known; nothing is published before.
    pub(crate) cluster_uid: ClusterUid,
    /// Of the binaries.
    pub(crate) version: PostgresVersion,
    /// The instance in `dbstate`.
    pub(crate) instance: InstanceUid,
    /// Nothing runs, and nothing is left of the instance's data.
    pub(crate) data_is_gone: bool,
    /// The generation that was reached.
    pub(crate) generation: i64,
    /// The last look; none before the first.
    pub(crate) state: Option<PostgresState>,
    /// For people.
    pub(crate) activity: KeeperActivity,
    /// Where a standby's WAL comes from, when that is an instance of this cluster.
    pub(crate) upstream: Option<String>,
    /// What the specification sets by name, for the report of parameters.
    pub(crate) specified: Rc<Parameters>,
}

/// How often things are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// `sleepInterval`, not below what the store can bear.
    pub(crate) sleep: Duration,
    /// `requestTimeout`.
    pub(crate) request: Duration,
}

impl Pace {
    pub(crate) fn new(sleep: Duration, request: Duration) -> Self {
        Pace { sleep: sleep.max(LEAST_INTERVAL), request: request.max(LEAST_INTERVAL) }
    }
}

impl Shared {
    pub(crate) fn new(
        settings: Settings,
        state: KeeperState,
        boot: BootUuid,
        store: Arc<dyn ClusterStore>,
        postgres: LocalPostgres,
        metrics: Metrics,
        readiness: Readiness,
    ) -> Self {
        let news = News { cluster_uid: state.cluster_uid, ..News::default() };
        let pace = Pace::new(Duration::from_secs(5), Duration::from_secs(10));
        metrics.set_sleep_interval(pace.sleep);
        Shared {
            settings,
            uid: state.uid,
            boot,
            store,
            postgres,
            metrics,
            readiness,
            news: watch::Sender::new(news),
            pace: watch::Sender::new(pace),
            look: Notify::new(),
            sync_gate: RefCell::default(),
        }
    }

    pub(crate) fn pace(&self) -> Pace {
        *self.pace.borrow()
    }

    /// What plans need to know about us.
    pub(crate) fn identity(&self) -> Identity {
        let user = |credentials: &Credentials| User {
            name: credentials.username.clone(),
            method: credentials.auth.as_str().to_owned(),
        };
        let superuser = &self.settings.superuser;
        Identity {
            keeper: self.uid.clone(),
            boot: self.boot.clone(),
            listen_address: self.settings.listen_address.clone(),
            port: self.settings.port.clone(),
            superuser: user(superuser),
            rewind_credentials: match superuser.password_to_send() {
                Some(_) if !superuser.username.is_empty() => RewindCredentials::Present,
                _ => RewindCredentials::Absent,
            },
            replication: user(&self.settings.replication),
        }
    }

    /// Changes what is published; unchanged news wake nobody.
    pub(crate) fn tell(&self, change: impl FnOnce(&mut News)) {
        self.news.send_if_modified(|news| {
            let before = news.clone();
            change(news);
            *news != before
        });
    }

    /// The standbys that are in sync and hold all that was acknowledged before they were named.
    pub(crate) fn in_sync(&self, names: &str, rows: &[ReplicationRow], flushed: Lsn) -> Vec<InstanceUid> {
        let mut gate = self.sync_gate.borrow_mut();
        gate.observe(&names_in(names), flushed);
        instances_of(&gate.in_sync(rows))
    }

    /// The server was started or promoted: every standby has to catch up anew before it counts.
    pub(crate) fn reset_sync_gate(&self) {
        self.sync_gate.borrow_mut().reset();
    }
}
