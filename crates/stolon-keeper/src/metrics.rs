//! What a keeper measures (docs: "Metrics").

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use stolon_core::keeper::{
    Archiver, DataKind, FailureKind, Health, Measure, Position, Progress, Room, Step, StepFailure,
    StepOutcome,
};
use stolon_model::{ArchiverFault, DiskFault, SlotReport};

type Number = Gauge<i64, AtomicI64>;
type Labels = Vec<(&'static str, &'static str)>;
type Flags = Family<Labels, Number>;
type Seconds = Gauge<f64, AtomicU64>;
/// Standbys come and go with the instances of the cluster.
type OfStandbys<N> = Family<Vec<(&'static str, String)>, N>;

/// One for each slot, or for each file system.
type Named = Family<Vec<(&'static str, String)>, Number>;

/// Why PostgreSQL is not healthy, by label.
const REASONS: [(&str, Health); 7] = [
    ("stopped", Health::Stopped),
    ("starting", Health::Starting),
    ("silent", Health::Silent),
    ("stranger", Health::Stranger),
    ("no_instance", Health::NoInstance),
    ("disk", Health::Disk),
    ("look_hangs", Health::LookHangs),
];
/// What is wrong with a disk, by label.
const DISK_FAULTS: [(&str, DiskFault); 3] =
    [("full", DiskFault::Full), ("hangs", DiskFault::Hangs), ("fails", DiskFault::Fails)];
/// What is wrong with the archiving of WAL, by label.
const ARCHIVER_FAULTS: [(&str, ArchiverFault); 2] =
    [("fails", ArchiverFault::Fails), ("waits", ArchiverFault::Waits)];
/// How an instance is brought to the data of another one, or of a backup.
const METHODS: [&str; 3] = ["base_backup", "rewind", "restore"];

/// The gauges of a keeper. Cheap to clone; all clones are the same gauges.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    last_valid_update: Number,
    target_role: Flags,
    local_role: Flags,
    needs_reload: Number,
    lease_over: Number,
    needs_restart: Number,
    last_sync_success: Number,
    sleep_interval: Number,
    shutdown: Number,
    healthy: Number,
    unhealthy: Flags,
    timeline: Number,
    lsn: Number,
    receives_wal: Number,
    standby_lag: OfStandbys<Number>,
    standby_replay_lag: OfStandbys<Seconds>,
    slot_held: Named,
    free: Named,
    size: Named,
    disk_fault: Flags,
    archiver: Archiving,
    resync: Resync,
}

/// How the archiving of WAL goes.
#[derive(Clone, Debug, Default)]
struct Archiving {
    waiting: Number,
    age: Number,
    failures: Number,
    fault: Flags,
}

impl Archiving {
    fn register(&self, registry: &mut Registry) {
        let mut add = |name: &str, help: &str, gauge: &Number| registry.register(name, help, gauge.clone());
        add("stolon_keeper_archive_waiting_files", "WAL files that are ready to be archived", &self.waiting);
        add(
            "stolon_keeper_archive_waiting_seconds",
            "For how long the first of them has been ready, 0 when none waits",
            &self.age,
        );
        add(
            "stolon_keeper_archive_failures",
            "How often archiving failed since the statistics of Postgres began",
            &self.failures,
        );
        registry.register(
            "stolon_keeper_archive_fault",
            "Set to 1 for what keeps WAL from the archive",
            self.fault.clone(),
        );
        self.measure(None);
    }

    /// None: the server archives nothing.
    fn measure(&self, archiver: Option<&Archiver>) {
        let backlog = archiver.and_then(|archiver| archiver.backlog.as_ref());
        self.waiting.set(number(backlog.map_or(0, |backlog| backlog.files)));
        self.age.set(number(backlog.map_or(0, |backlog| backlog.age.as_secs())));
        self.failures.set(number(archiver.map_or(0, |archiver| archiver.failures)));
        let fault = archiver.and_then(Archiver::fault);
        for (label, of) in ARCHIVER_FAULTS {
            self.fault.get_or_create(&vec![("fault", label)]).set(i64::from(Some(&of) == fault.as_ref()));
        }
    }
}

/// What a copy, a rewind or a restore is at.
#[derive(Clone, Debug, Default)]
struct Resync {
    under_way: Flags,
    done: Number,
    total: Number,
    ended: Family<Labels, Counter>,
    took: Family<Labels, Seconds>,
}

impl Resync {
    fn register(&self, registry: &mut Registry) {
        let mut add = |name: &str, help: &str, gauge: Number| registry.register(name, help, gauge);
        add(
            "stolon_keeper_resync_done_bytes",
            "Bytes that the copy or restore under way has brought, 0 when none is or they are not known",
            self.done.clone(),
        );
        add(
            "stolon_keeper_resync_size_bytes",
            "Bytes that the copy or restore under way has to bring, 0 when that is not known",
            self.total.clone(),
        );
        registry.register(
            "stolon_keeper_resync_under_way",
            "Set to 1 while data are copied, rewound or restored by the labelled method",
            self.under_way.clone(),
        );
        registry.register(
            "stolon_keeper_resyncs",
            "Copies, rewinds and restores that have ended, by method and result",
            self.ended.clone(),
        );
        registry.register(
            "stolon_keeper_resync_last_duration_seconds",
            "How long the last one took that has succeeded, by method",
            self.took.clone(),
        );
        for method in METHODS {
            self.under_way.get_or_create(&vec![("method", method)]).set(0);
            for result in ["success", "failure", "called_off"] {
                let _ = self.ended.get_or_create(&vec![("method", method), ("result", result)]);
            }
        }
    }
}

/// A copy, rewind or restore that was begun.
#[derive(Debug)]
pub(crate) struct ResyncUnderWay {
    resync: Resync,
    method: &'static str,
    begun: Instant,
}

impl ResyncUnderWay {
    pub(crate) fn progressed(&self, progress: Progress) {
        self.resync.done.set(i64::try_from(progress.bytes_done).unwrap_or(i64::MAX));
        self.resync.total.set(i64::try_from(progress.bytes_total).unwrap_or(i64::MAX));
    }

    pub(crate) fn ended(self, outcome: &StepOutcome) {
        let ResyncUnderWay { resync, method, begun } = self;
        resync.under_way.get_or_create(&vec![("method", method)]).set(0);
        resync.done.set(0);
        resync.total.set(0);
        let result = match outcome {
            StepOutcome::Done(_) => "success",
            StepOutcome::Failed(StepFailure { kind: FailureKind::CalledOff, .. }) => "called_off",
            StepOutcome::Failed(_) => "failure",
        };
        resync.ended.get_or_create(&vec![("method", method), ("result", result)]).inc();
        if result == "success" {
            resync.took.get_or_create(&vec![("method", method)]).set(begun.elapsed().as_secs_f64());
        }
    }
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let m = metrics.clone();
        let mut add = |name: &str, help: &str, gauge: Number| registry.register(name, help, gauge);
        add(
            "stolon_keeper_clusterdata_last_valid_update_seconds",
            "Last time we received a valid clusterdata from our store as seconds since unix epoch",
            m.last_valid_update,
        );
        add("stolon_keeper_needs_reload", "Set to 1 if Postgres requires reload", m.needs_reload);
        add(
            "stolon_keeper_lease_over",
            "Set to 1 while clients are locked out of the primary here because its lease is over",
            m.lease_over,
        );
        add("stolon_keeper_needs_restart", "Set to 1 if Postgres requires restart", m.needs_restart);
        add(
            "stolon_keeper_last_sync_success_seconds",
            "Last time we successfully synced our keeper",
            m.last_sync_success,
        );
        add("stolon_keeper_sleep_interval", "Seconds to sleep between sync loops", m.sleep_interval);
        add(
            "stolon_keeper_shutdown_seconds",
            "Shutdown time (received termination signal) since unix epoch in seconds",
            m.shutdown,
        );
        add("stolon_keeper_healthy", "Set to 1 if the last look at Postgres succeeded", m.healthy);
        metrics.register_server(registry);
        metrics.register_disks(registry);
        metrics.archiver.register(registry);
        metrics.resync.register(registry);
        registry.register("stolon_keeper_target_role", "Keeper last requested target role", m.target_role);
        registry.register("stolon_keeper_local_role", "Keeper current local role", m.local_role);
        for family in [&metrics.target_role, &metrics.local_role] {
            for role in ["undefined", "master", "standby"] {
                family.get_or_create(&vec![("role", role)]).set(0);
            }
        }
        metrics
    }

    /// What PostgreSQL is found to be.
    fn register_server(&self, registry: &mut Registry) {
        let mut add = |name: &str, help: &str, gauge: Number| registry.register(name, help, gauge);
        add(
            "stolon_keeper_timeline",
            "Timeline of Postgres in the last look that it answered",
            self.timeline.clone(),
        );
        add(
            "stolon_keeper_wal_position_bytes",
            "Position in the WAL in the last look that it answered: flushed by a primary, received or replayed by a standby",
            self.lsn.clone(),
        );
        add(
            "stolon_keeper_wal_received",
            "Set to 0 while a standby receives no WAL from the server that it follows",
            self.receives_wal.clone(),
        );
        registry.register(
            "stolon_keeper_unhealthy_reason",
            "Set to 1 for the reason why the last look at Postgres did not succeed",
            self.unhealthy.clone(),
        );
        registry.register(
            "stolon_keeper_standby_lag_bytes",
            "WAL of this Postgres that a standby has not flushed, by its db uid",
            self.standby_lag.clone(),
        );
        registry.register(
            "stolon_keeper_standby_replay_lag_seconds",
            "How long WAL of this Postgres takes until a standby has replayed it, by its db uid",
            self.standby_replay_lag.clone(),
        );
        for (reason, _) in REASONS {
            self.unhealthy.get_or_create(&vec![("reason", reason)]).set(0);
        }
    }

    /// What PostgreSQL keeps, and where.
    fn register_disks(&self, registry: &mut Registry) {
        let mut add = |name: &str, help: &str, family: &Named| registry.register(name, help, family.clone());
        add(
            "stolon_keeper_slot_held_bytes",
            "WAL that a replication slot keeps from being removed",
            &self.slot_held,
        );
        add(
            "stolon_keeper_file_system_free_bytes",
            "Room on the file system that Postgres uses for data, wal, or a tablespace by its oid",
            &self.free,
        );
        add("stolon_keeper_file_system_size_bytes", "Size of that file system", &self.size);
        registry.register(
            "stolon_keeper_disk_fault",
            "Set to 1 for what is wrong with the disks of the data and the WAL",
            self.disk_fault.clone(),
        );
        self.disk(None);
    }

    /// A step begins; none if it resyncs nothing.
    pub(crate) fn resync_begins(&self, step: &Step) -> Option<ResyncUnderWay> {
        let method = match step {
            Step::BaseBackup { .. } => "base_backup",
            Step::Rewind { .. } => "rewind",
            Step::Restore(_) => "restore",
            _ => return None,
        };
        self.resync.under_way.get_or_create(&vec![("method", method)]).set(1);
        Some(ResyncUnderWay { resync: self.resync.clone(), method, begun: Instant::now() })
    }

    fn health(&self, health: Health) {
        self.healthy.set(i64::from(health == Health::Healthy));
        for (reason, of) in REASONS {
            self.unhealthy.get_or_create(&vec![("reason", reason)]).set(i64::from(of == health));
        }
        if matches!(health, Health::Stopped | Health::NoInstance) {
            self.no_standbys();
        }
    }

    fn position(&self, position: &Position) {
        self.timeline.set(number(position.timeline.0));
        self.lsn.set(number(position.lsn.0));
        self.receives_wal.set(i64::from(position.receives_wal));
        self.no_standbys();
        for standby in &position.standbys {
            let labels = vec![("standby", standby.instance.to_string())];
            self.standby_lag.get_or_create(&labels).set(number(standby.unflushed));
            self.standby_replay_lag.get_or_create(&labels).set(standby.replay.as_secs_f64());
        }
    }

    fn slots(&self, slots: &[SlotReport]) {
        self.slot_held.clear();
        for slot in slots {
            let labels = vec![("slot", slot.name.clone())];
            self.slot_held.get_or_create(&labels).set(number(slot.held_bytes.unwrap_or(0)));
        }
    }

    fn room(&self, room: &Room) {
        self.free.clear();
        self.size.clear();
        for file_system in &room.file_systems {
            for used_for in &file_system.uses {
                let labels = vec![("use", used_for.to_string())];
                self.free.get_or_create(&labels).set(number(file_system.free));
                self.size.get_or_create(&labels).set(number(file_system.total));
            }
        }
    }

    fn disk(&self, fault: Option<DiskFault>) {
        for (label, of) in DISK_FAULTS {
            self.disk_fault.get_or_create(&vec![("fault", label)]).set(i64::from(Some(of) == fault));
        }
    }

    /// Those that are gone leave nothing behind.
    fn no_standbys(&self) {
        self.standby_lag.clear();
        self.standby_replay_lag.clear();
        self.slot_held.clear();
    }

    /// A gauge changes.
    pub(crate) fn measure(&self, measure: Measure) {
        let flag = |gauge: &Number, set: bool| _ = gauge.set(i64::from(set));
        match measure {
            Measure::ValidUpdate => _ = self.last_valid_update.set(unix_seconds()),
            Measure::SyncSuccess => _ = self.last_sync_success.set(unix_seconds()),
            Measure::SleepInterval(interval) => {
                self.sleep_interval.set(i64::try_from(interval.as_secs()).unwrap_or(i64::MAX));
            }
            Measure::TargetRole(role) => set_role(&self.target_role, role),
            Measure::LocalRole(role) => set_role(&self.local_role, role),
            Measure::NeedsReload(set) => flag(&self.needs_reload, set),
            Measure::NeedsRestart(set) => flag(&self.needs_restart, set),
            Measure::LeaseOver(set) => flag(&self.lease_over, set),
            Measure::Health(health) => self.health(health),
            Measure::Position(position) => self.position(&position),
            Measure::Slots(slots) => self.slots(&slots),
            Measure::Room(room) => self.room(&room),
            Measure::Disk(fault) => self.disk(fault),
            Measure::Archiver(archiver) => self.archiver.measure(archiver.as_ref()),
            Measure::Ready => {}
        }
    }

    pub(crate) fn shutdown_now(&self) {
        self.shutdown.set(unix_seconds());
    }
}

/// A role as the metrics name it; none: undefined.
fn set_role(family: &Flags, role: Option<DataKind>) {
    for (label, kind) in
        [("undefined", None), ("master", Some(DataKind::Primary)), ("standby", Some(DataKind::Standby))]
    {
        family.get_or_create(&vec![("role", label)]).set(i64::from(kind == role));
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unix_seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}
