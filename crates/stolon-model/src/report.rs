//! Reports: the small documents that each process publishes about itself (wire: `info`).

use std::collections::BTreeMap;

use std::sync::Arc;

use crate::challenge::WitnessReport;
use crate::cluster::{PostgresVersion, Quorum, TimelineHistoryEntry};
use crate::json::{document, text_enum};
use crate::lsn::{Lsn, Timeline};
use crate::spec::Parameters;
use crate::switchover::SwitchoverReport;
use crate::time::{GoDuration, Timestamp};
use crate::uid::{BootUuid, ClusterUid, InfoUid, InstanceUid, KeeperUid, ProxyUid, SentinelUid};

document! {
    /// What a keeper says about itself and its PostgreSQL.
    pub struct KeeperReport {
        /// Identity of this publication: new each time, and the only sign of life.
        info_uid: InfoUid = "infoUID", omit;
        /// Uid of the keeper.
        uid: KeeperUid = "uid", omit;
        /// The cluster that the keeper takes itself to belong to.
        cluster_uid: ClusterUid = "clusterUID", omit;
        /// The run of the keeper process that reports.
        boot_uuid: BootUuid = "bootUUID", omit;
        /// Version of the PostgreSQL binaries that the keeper starts.
        postgres_binary_version: PostgresVersion = "postgresBinaryVersion", keep;
        /// State of PostgreSQL; absent until the keeper has looked once.
        postgres_state: Option<PostgresState> = "postgresState", omit;
        /// Whether the instance may be elected; absent counts as true.
        can_be_primary: Option<bool> = "canBeMaster", omit;
        /// Whether the instance may be a synchronous standby; absent counts as true.
        can_be_synchronous_replica: Option<bool> = "canBeSynchronousReplica", omit;
        /// Ours, unknown to Stolon: what the keeper is doing and what troubles it.
        activity: Option<KeeperActivity> = "activity", omit;
    }
}

document! {
    /// What a keeper says about its PostgreSQL.
    pub struct PostgresState {
        /// Uid of the instance.
        uid: InstanceUid = "uid", omit;
        /// The generation of the instance that the keeper has reached.
        generation: i64 = "generation", omit;
        /// Advertised address.
        listen_address: String = "listenAddress", omit;
        /// Advertised port.
        port: String = "port", omit;
        /// Whether every query of the last look succeeded.
        healthy: bool = "healthy", omit;
        /// PostgreSQL system identifier in decimal.
        system_identifier: String = "systemID", omit;
        /// Timeline of PostgreSQL.
        timeline: Timeline = "timelineID", omit;
        /// Position in the WAL: flushed on a primary, received on a standby.
        lsn: Lsn = "xLogPos", omit;
        /// The last two entries of the timeline history.
        timelines_history: Option<Vec<TimelineHistoryEntry>> = "timelinesHistory", omit;
        /// PostgreSQL parameters, except the managed ones.
        pg_parameters: Option<Arc<Parameters>> = "pgParameters", omit;
        /// Standbys that PostgreSQL shows in sync and that have caught up; null when not looked at.
        synchronous_standbys: Option<Vec<InstanceUid>> = "synchronousStandbys", keep;
        /// Name of the oldest WAL file that is still there.
        older_wal_file: String = "olderWalFile", omit;
        /// Whether a password of the superuser or the replication user is stored for MD5. Stolon ignores it.
        stores_md5: bool = "storesMD5", omit;
        /// Of a primary's slots for consumers outside of the cluster, up to where each has let WAL go. Stolon ignores it.
        slot_positions: Option<BTreeMap<String, Lsn>> = "slotPositions", omit;
    }
}

document! {
    /// What a keeper is doing and what troubles it, for people. Stolon ignores it.
    pub struct KeeperActivity {
        /// The step under way in words, for example `base backup`.
        step: String = "step", omit;
        /// Bytes copied so far by that step.
        bytes_done: u64 = "bytesDone", omit;
        /// Bytes to copy in all; 0 when unknown.
        bytes_total: u64 = "bytesTotal", omit;
        /// Why the last pass did not reach its goal: one sentence, with what to do about it.
        problem: String = "problem", omit;
        /// Why a standby receives nothing from the instance that it follows: one sentence.
        replication_problem: String = "replicationProblem", omit;
        /// Parameters that were left out or need attention, one sentence each.
        parameter_problems: Option<Vec<String>> = "parameterProblems", omit;
        /// Whether PostgreSQL must be restarted before all its parameters are in force.
        pending_restart: bool = "pendingRestart", omit;
        /// The parameters that wait for that restart.
        pending_parameters: Option<Vec<PendingParameter>> = "pendingParameters", omit;
        /// When PostgreSQL was started; absent while it does not answer.
        started: Option<Timestamp> = "startedAt", omit;
        /// How often PostgreSQL ended unexpectedly within the last minute.
        restarts: u32 = "restarts", omit;
        /// How many looks at PostgreSQL the keeper process has completed, this report's included. Of two reports the positions
        /// are as old as the looks.
        looks: u64 = "looks", omit;
        /// What keeps PostgreSQL from the wanted generation although it works, where a successor would meet the same.
        hindrance: Option<Hindrance> = "hindrance", omit;
        /// Whether the instance is asked to be a standby while its data are a primary's: it cannot be one before it is made anew.
        holds_primary_data: bool = "holdsMasterData", omit;
        /// The replication slots of this server, those that hold most first; absent while it does not answer.
        slots: Option<Vec<SlotReport>> = "slots", omit;
        /// What is wrong with its disks.
        disk: Option<DiskReport> = "disk", omit;
        /// How the archiving of WAL goes; absent where the server archives none.
        archiver: Option<ArchiverReport> = "archiver", omit;
        /// The file systems that PostgreSQL uses.
        file_systems: Option<Vec<FileSystemReport>> = "fileSystems", omit;
        /// The newest cluster data that this keeper ever served under, from its own disk. A sentinel that reads older cluster data
        /// than this knows that its store went back in time.
        served: Option<Served> = "served", omit;
        /// What the keeper says to challenges of a sentinel; absent in reports of keepers that do not answer any.
        witness: Option<WitnessReport> = "witness", omit;
        /// How each standby of a primary keeps up; absent on a standby, and in reports of keepers that do not tell.
        standby_pace: Option<BTreeMap<InstanceUid, StandbyPace>> = "standbyPace", omit;
        /// Where the keeper can be asked for a pledge, `host:port`; empty: nowhere.
        http_address: String = "httpAddress", omit;
        /// What each standby that streams from a primary lacks of it.
        standby_lag: Option<Vec<StandbyLagReport>> = "standbyLag", omit;
        /// Whether the keeper knows planned changes of the primary.
        hands_over: bool = "handsOver", omit;
        /// Whether the keeper was told to end, and has the primary that another one is to have first.
        leaving: bool = "leaving", omit;
        /// The answer to the planned change of the primary that is under way.
        switchover: Option<SwitchoverReport> = "switchover", omit;
        /// The last request to have PostgreSQL read its files again that was carried out; empty: there was none.
        reloaded: String = "reloaded", omit;
        /// Where the keeper stands; empty: it does not say.
        zone: String = "zone", omit;
        /// Who is preferred among those that are equally fit to be the primary; absent: as by default.
        failover_priority: Option<u32> = "failoverPriority", omit;
        /// The generation of a fenced primary whose ordinary clients are out; 0: there is none. Absent in reports of keepers that know no fence.
        fenced: Option<i64> = "fenced", omit;
        /// The last time that ordinary clients of a primary were locked out because its lease was over. Told for a while after its end.
        locked_out: Option<LockoutReport> = "lockedOut", omit;
        /// By which quorum every commit of this primary that anybody was told of is on its standbys.
        quorum: Option<QuorumReport> = "quorum", omit;
        /// The generation of a standby that was told to receive nothing, once nothing can come any more and its position is final; 0: there is
        /// none. Absent in reports of keepers that know no quorum.
        stopped: Option<i64> = "stopped", omit;
    }
}

document! {
    /// A quorum that is in force on a primary, and has acknowledged everything that was written before.
    pub struct QuorumReport {
        /// The generation of the primary for which it was found.
        generation: i64 = "generation", omit;
        /// How many of whom.
        quorum: Quorum = "quorum", keep;
    }
}

document! {
    /// A primary had locked its ordinary clients out because its lease was over.
    pub struct LockoutReport {
        /// The instance.
        instance: InstanceUid = "dbUID", omit;
        /// How often that has ended in this run of the keeper, this time included: with the run it is told from all others.
        number: u64 = "number", omit;
        /// Why nobody could know whether it was the primary: a clause.
        why: String = "why", omit;
        /// For how long its lease was over, in nanoseconds.
        lasted: GoDuration = "lasted", keep;
        /// Whether it ended because another instance was elected.
        replaced: bool = "replaced", omit;
    }
}

text_enum! {
    /// How a standby keeps up with its primary.
    pub enum StandbyPace {
        /// It has confirmed what the primary had flushed one look before the last.
        InStep => "inStep",
        /// It has not confirmed that yet.
        Behind => "behind",
        /// It has not confirmed for seconds what the primary had flushed then: a commit that waits for it waits as long.
        Stalled => "stalled",
    }
}

document! {
    /// What a standby lacks of its primary: what would be lost if it had to take over.
    pub struct StandbyLagReport {
        /// The standby.
        instance: InstanceUid = "dbUID", omit;
        /// Bytes of WAL that the primary has flushed and the standby has not confirmed.
        unflushed_bytes: u64 = "unflushedBytes", omit;
        /// For how many seconds it has lacked the oldest of that, rounded up; 0: it had everything of the look before.
        behind_seconds: u64 = "behindSeconds", omit;
    }
}

document! {
    /// What the writing of a few bytes shows of a disk.
    pub struct DiskReport {
        /// What is wrong.
        fault: Option<DiskFault> = "fault", omit;
        /// What PostgreSQL has there: `data`, `wal`, or a tablespace.
        place: String = "place", omit;
        /// The words of the operating system; empty: there are none.
        words: String = "words", omit;
        /// Whether it has lasted for longer than `failInterval`.
        lasting: bool = "lasting", omit;
    }
}

text_enum! {
    /// What is wrong with a disk.
    pub enum DiskFault {
        /// There is no room.
        Full => "full",
        /// What is written does not arrive, and does not fail either.
        Hangs => "hangs",
        /// What is written fails.
        Fails => "fails",
    }
}

document! {
    /// How the archiving of WAL goes.
    pub struct ArchiverReport {
        /// What is wrong.
        fault: Option<ArchiverFault> = "fault", omit;
        /// Files that are ready and not archived, as far as they were counted: 10000 stands for more, too.
        waiting_files: u64 = "waitingFiles", omit;
        /// Which of them comes first; empty: none waits.
        first_waiting: String = "firstWaiting", omit;
        /// Since when that one has been ready.
        waiting_since: Option<Timestamp> = "waitingSince", omit;
        /// How often archiving failed since PostgreSQL's statistics began.
        failures: u64 = "failures", omit;
        /// The file for which it failed last; empty: it never did.
        last_failed: String = "lastFailed", omit;
        /// When a file was archived last; absent: none since the statistics began.
        last_archived_at: Option<Timestamp> = "lastArchivedAt", omit;
    }
}

text_enum! {
    /// What is wrong with the archiving of WAL.
    pub enum ArchiverFault {
        /// It fails.
        Fails => "fails",
        /// A file has waited for minutes, and nothing failed: the command hangs, is slow, or is not set.
        Waits => "waits",
    }
}

document! {
    /// A file system that PostgreSQL uses.
    pub struct FileSystemReport {
        /// What for: `data`, `wal`, or a tablespace.
        uses: Option<Vec<String>> = "uses", omit;
        /// Bytes in all.
        total_bytes: u64 = "totalBytes", omit;
        /// Bytes that PostgreSQL can have yet.
        free_bytes: u64 = "freeBytes", omit;
    }
}

document! {
    /// A replication slot, and the WAL that it keeps the server from removing.
    pub struct SlotReport {
        /// Its name; `stolon_` and the instance's uid for a standby of the cluster.
        name: String = "name", keep;
        /// Whether it is a logical one.
        logical: bool = "logical", omit;
        /// Whether it is a logical one that survives a failover (PostgreSQL 17 and newer).
        failover: bool = "failover", omit;
        /// Whether it is a standby's copy of the primary's, ready to take its place.
        synced: bool = "synced", omit;
        /// Whether somebody streams from it now.
        active: bool = "active", omit;
        /// WAL from what its user has taken to the server's present position, in bytes; absent: it reserves none.
        held_bytes: Option<u64> = "heldBytes", omit;
        /// How many more bytes may be written before its WAL is removed all the same; absent: there is no bound, or PostgreSQL does not
        /// tell (before version 13).
        left_bytes: Option<u64> = "leftBytes", omit;
        /// PostgreSQL's own word, from version 13 on: `reserved`, `extended`, `unreserved`, `lost`.
        wal_status: String = "walStatus", omit;
    }
}

document! {
    /// A parameter that has another value in the configuration than in the running PostgreSQL.
    pub struct PendingParameter {
        /// Its name.
        name: String = "name", keep;
        /// The value that PostgreSQL runs with.
        in_force: String = "inForce", keep;
        /// The value that it would start with; absent: its default.
        wanted: Option<String> = "wanted", omit;
    }
}

text_enum! {
    /// What keeps an instance that works from reaching its generation, and is no reason to replace it.
    pub enum Hindrance {
        /// A replication slot cannot be made.
        Slot => "slot",
        /// A file of the keeper cannot be written.
        StateFile => "stateFile",
    }
}

document! {
    /// The highest point that a keeper served at: its PostgreSQL worked, as a primary or as a standby, in the charge of this
    /// document. Values are ordered by epoch, then generation, timeline and position; one of another cluster replaces it.
    pub struct Served {
        /// The cluster.
        cluster_uid: ClusterUid = "clusterUID", omit;
        /// The highest epoch that the data of this cluster have had; 0 if they never had one. Data that lost theirs, because a program of
        /// Stolon wrote them, follow those that had it.
        epoch: u64 = "epoch", omit;
        /// The instance.
        instance: InstanceUid = "dbUID", omit;
        /// The highest epoch under which the instance was the elected primary; absent if it never was.
        primary_epoch: Option<u64> = "masterEpoch", omit;
        /// The generation of the instance.
        generation: i64 = "generation", omit;
        /// Timeline of PostgreSQL.
        timeline: Timeline = "timelineID", omit;
        /// Position in the WAL: flushed on a primary, received on a standby.
        lsn: Lsn = "xLogPos", omit;
    }
}

document! {
    /// What a sentinel says about itself.
    pub struct SentinelReport {
        /// Uid of the sentinel.
        uid: SentinelUid = "UID", keep;
        /// Ours, unknown to Stolon: why the leader's last round left things as they are, one sentence each.
        /// Absent when there is nothing to say, and in the reports of sentinels that do not lead.
        holds: Option<Vec<String>> = "holds", omit;
        /// Ours, unknown to Stolon: what the leader knows of newer cluster data than those in the store. Present for as long as it
        /// decides nothing because of them, for `stolonctl settle`.
        newer: Option<NewerData> = "newer", omit;
    }
}

document! {
    /// What a sentinel knows of newer cluster data than those in the store.
    pub struct NewerData {
        /// The cluster.
        cluster_uid: ClusterUid = "clusterUID", omit;
        /// The highest epoch that the sentinel has seen in the store.
        epoch: u64 = "epoch", omit;
        /// The keepers that have served under newer data, also those that do not report any more.
        keepers: Option<BTreeMap<KeeperUid, Served>> = "keepers", omit;
    }
}

document! {
    /// What a proxy says about itself.
    pub struct ProxyReport {
        /// Identity of this publication: new each time.
        info_uid: InfoUid = "infoUID", omit;
        /// Uid of the proxy.
        uid: ProxyUid = "UID", keep;
        /// The generation that it has applied.
        generation: i64 = "Generation", keep;
        /// Nanoseconds after which it closes everything by itself.
        proxy_timeout: i64 = "ProxyTimeout", keep;
        /// Ours, absent in Stolon's reports: the address to which its last connection for a client could not be made.
        unreachable: String = "unreachable", omit;
    }
}

impl KeeperReport {
    /// True when two reports differ in nothing but what moves all the time and calls for nothing by itself: their own uids,
    /// positions, bytes copied.
    pub fn says_the_same_as(&self, other: &KeeperReport) -> bool {
        let KeeperReport {
            info_uid: _,
            uid,
            cluster_uid,
            boot_uuid,
            postgres_binary_version,
            postgres_state,
            can_be_primary,
            can_be_synchronous_replica,
            activity,
        } = self;
        both(postgres_state, &other.postgres_state, PostgresState::says_the_same_as)
            && both(activity, &other.activity, KeeperActivity::says_the_same_as)
            && (uid, cluster_uid, boot_uuid) == (&other.uid, &other.cluster_uid, &other.boot_uuid)
            && *postgres_binary_version == other.postgres_binary_version
            && *can_be_primary == other.can_be_primary
            && *can_be_synchronous_replica == other.can_be_synchronous_replica
    }
}

impl PostgresState {
    fn says_the_same_as(&self, other: &PostgresState) -> bool {
        let PostgresState {
            uid,
            generation,
            listen_address,
            port,
            healthy,
            system_identifier,
            timeline,
            lsn: _,
            timelines_history,
            pg_parameters,
            synchronous_standbys,
            older_wal_file: _,
            stores_md5,
            slot_positions: _,
        } = self;
        (healthy, generation, timeline) == (&other.healthy, &other.generation, &other.timeline)
            && (uid, system_identifier) == (&other.uid, &other.system_identifier)
            && (listen_address, port) == (&other.listen_address, &other.port)
            && *stores_md5 == other.stores_md5
            && *synchronous_standbys == other.synchronous_standbys
            && *timelines_history == other.timelines_history
            && *pg_parameters == other.pg_parameters
    }
}

impl KeeperActivity {
    fn says_the_same_as(&self, other: &KeeperActivity) -> bool {
        let KeeperActivity {
            step,
            bytes_done: _,
            bytes_total,
            problem,
            replication_problem,
            parameter_problems,
            pending_restart,
            pending_parameters,
            started,
            restarts,
            looks: _,
            hindrance,
            holds_primary_data,
            slots,
            disk,
            archiver,
            file_systems: _,
            served,
            witness,
            standby_pace,
            http_address,
            standby_lag: _,
            hands_over,
            leaving,
            switchover,
            reloaded,
            zone,
            failover_priority,
            fenced,
            locked_out,
            quorum,
            stopped,
        } = self;
        (step, problem, replication_problem) == (&other.step, &other.problem, &other.replication_problem)
            && (bytes_total, restarts, pending_restart)
                == (&other.bytes_total, &other.restarts, &other.pending_restart)
            && (hindrance, parameter_problems) == (&other.hindrance, &other.parameter_problems)
            && (holds_primary_data, started) == (&other.holds_primary_data, &other.started)
            && (witness, http_address) == (&other.witness, &other.http_address)
            && stalled(standby_pace) == stalled(&other.standby_pace)
            && *pending_parameters == other.pending_parameters
            && *disk == other.disk
            && archiver_fault(archiver) == archiver_fault(&other.archiver)
            && both(slots, &other.slots, |ours, theirs| same_slots(ours, theirs))
            && (fenced, locked_out) == (&other.fenced, &other.locked_out)
            && (quorum, stopped) == (&other.quorum, &other.stopped)
            && (hands_over, leaving, switchover) == (&other.hands_over, &other.leaving, &other.switchover)
            && (zone, failover_priority, reloaded) == (&other.zone, &other.failover_priority, &other.reloaded)
            && both(served, &other.served, Served::says_the_same_as)
    }
}

/// Whether a standby is in step changes all the time on a busy server; that commits wait for it is news.
fn stalled(paces: &Option<BTreeMap<InstanceUid, StandbyPace>>) -> Vec<&InstanceUid> {
    let stalled = paces.iter().flatten().filter(|(_, pace)| **pace == StandbyPace::Stalled);
    stalled.map(|(uid, _)| uid).collect()
}

/// What waits for the archive moves all the time; that it waits in vain is news.
fn archiver_fault(archiver: &Option<ArchiverReport>) -> Option<&ArchiverFault> {
    archiver.as_ref()?.fault.as_ref()
}

/// What the slots hold moves all the time.
fn same_slots(ours: &[SlotReport], theirs: &[SlotReport]) -> bool {
    let said = |slots: &[SlotReport]| -> BTreeMap<String, (bool, String)> {
        let of = |slot: &SlotReport| (slot.active || slot.synced, slot.wal_status.clone());
        slots.iter().map(|slot| (slot.name.clone(), of(slot))).collect()
    };
    said(ours) == said(theirs)
}

impl Served {
    fn says_the_same_as(&self, other: &Served) -> bool {
        let Served { cluster_uid, epoch, instance, generation, timeline, lsn: _, primary_epoch } = self;
        (epoch, generation, timeline) == (&other.epoch, &other.generation, &other.timeline)
            && *primary_epoch == other.primary_epoch
            && (cluster_uid, instance) == (&other.cluster_uid, &other.instance)
    }
}

fn both<T>(one: &Option<T>, other: &Option<T>, same: impl FnOnce(&T, &T) -> bool) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => same(one, other),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_say_the_same_when_only_positions_moved() {
        let mut report = KeeperReport {
            uid: "k".into(),
            postgres_state: Some(PostgresState::default()),
            activity: Some(KeeperActivity {
                served: Some(Served::default()),
                slots: Some(vec![
                    SlotReport { name: "a".into(), ..SlotReport::default() },
                    SlotReport::default(),
                ]),
                ..KeeperActivity::default()
            }),
            ..KeeperReport::default()
        };
        let before = report.clone();
        report.info_uid = "new".into();
        let (state, activity) = (report.postgres_state.as_mut().unwrap(), report.activity.as_mut().unwrap());
        (state.lsn, state.older_wal_file) = (Lsn(9), "000000010000000000000001".into());
        (activity.bytes_done, activity.looks) = (7, 8);
        activity.served.as_mut().unwrap().lsn = Lsn(9);
        let slots = activity.slots.as_mut().unwrap();
        (slots[0].held_bytes, slots[0].left_bytes) = (Some(7), Some(8));
        slots.reverse();
        activity.archiver =
            Some(ArchiverReport { waiting_files: 7, failures: 1, ..ArchiverReport::default() });
        assert!(before.says_the_same_as(&report));
        let changes: [fn(&mut KeeperReport); 9] = [
            |report| {
                let archiver = &mut report.activity.as_mut().unwrap().archiver;
                archiver.as_mut().unwrap().fault = Some(ArchiverFault::Fails);
            },
            |report| report.boot_uuid = "another".into(),
            |report| report.postgres_state = None,
            |report| report.postgres_state.as_mut().unwrap().healthy = true,
            |report| report.postgres_state.as_mut().unwrap().pg_parameters = Some(Arc::default()),
            |report| report.activity.as_mut().unwrap().step = "promoting".into(),
            |report| report.activity.as_mut().unwrap().slots.as_mut().unwrap()[0].active = true,
            |report| report.activity.as_mut().unwrap().served.as_mut().unwrap().epoch = 2,
            |report| report.activity.as_mut().unwrap().witness = Some(WitnessReport::default()),
        ];
        for (index, change) in changes.iter().enumerate() {
            let mut other = report.clone();
            change(&mut other);
            assert!(!before.says_the_same_as(&other), "change {index}");
        }
    }
}
