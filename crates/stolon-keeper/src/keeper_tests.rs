//! The real loop, on a fake PostgreSQL and a store in memory. The rules have their tests beside the machine; these show that the loop
//! carries out what it is asked, and tells what happens, whatever else is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use stolon_core::keeper::{Data, DataKind, FailureKind, LocalState};
use stolon_fake::{FakeInstance, LOOK, given};
use stolon_model::{ClusterData, GoDuration, InstanceInitMode, Keeper, Role, Switchover, SwitchoverStage};
use stolon_store::{
    Contender, Entry, Expected, Key, KvClusterStore, KvStore, MemoryStore, Publication, Revision, Selector,
    Version, Watch,
};
use tokio::task::{JoinHandle, LocalSet};

use super::*;

const DEADLINE: Duration = Duration::from_secs(30);

/// A store in memory that can go away: then nothing is answered before the keeper gives up, as where the network swallows everything.
struct AbsentAtTimes {
    store: MemoryStore,
    away: Arc<AtomicBool>,
}

impl AbsentAtTimes {
    async fn answers(&self) -> Result<(), StoreError> {
        if !self.away.load(Ordering::SeqCst) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        Err(StoreError::Unreachable { cause: "nobody answers".into(), hint: String::new() })
    }
}

#[async_trait]
impl KvStore for AbsentAtTimes {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.answers().await?;
        self.store.get(key).await
    }

    async fn list(&self, parent: &Key) -> Result<Vec<Entry>, StoreError> {
        self.answers().await?;
        self.store.list(parent).await
    }

    async fn look(&self, selector: &Selector, since: Version) -> Result<stolon_store::Look, StoreError> {
        self.answers().await?;
        self.store.look(selector, since).await
    }

    async fn publish(&self, publication: Publication) -> Result<stolon_store::Look, StoreError> {
        self.answers().await?;
        self.store.publish(publication).await
    }

    async fn put(&self, key: &Key, value: Vec<u8>, ttl: Option<Duration>) -> Result<(), StoreError> {
        self.answers().await?;
        self.store.put(key, value, ttl).await
    }

    async fn compare_and_put(
        &self,
        key: &Key,
        value: Vec<u8>,
        expected: Expected,
    ) -> Result<Revision, StoreError> {
        self.answers().await?;
        self.store.compare_and_put(key, value, expected).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.answers().await?;
        self.store.delete(key).await
    }

    fn watch(&self, selectors: Vec<Selector>) -> Watch {
        self.store.watch(selectors)
    }

    async fn leader(&self, place: &Key) -> Result<Option<String>, StoreError> {
        self.answers().await?;
        self.store.leader(place).await
    }

    fn contender(&self, place: &Key, name: &str) -> Box<dyn Contender> {
        self.store.contender(place, name)
    }

    fn requests(&self) -> u64 {
        self.store.requests()
    }
}

/// A keeper at work, and everything around it.
struct Kept {
    instance: FakeInstance,
    server: watch::Sender<ServerState>,
    /// As others reach it, whether the keeper does or not.
    store: KvClusterStore<MemoryStore>,
    away: Arc<AtomicBool>,
    cluster: ClusterData,
    stop: CancellationToken,
    at_once: CancellationToken,
    depart: CancellationToken,
    ended: JoinHandle<anyhow::Result<Ending>>,
    _directory: tempfile::TempDir,
}

impl Kept {
    async fn new(mut cluster: ClusterData, local: LocalState, instance: FakeInstance) -> Self {
        cluster.cluster.spec.sleep_interval = Some(GoDuration::from(Duration::from_millis(200)));
        let memory = MemoryStore::new();
        let (away, directory) = (Arc::new(AtomicBool::new(false)), tempfile::tempdir().unwrap());
        let absent = AbsentAtTimes { store: memory.another_client(), away: Arc::clone(&away) };
        let (server, seen) = watch::channel(ServerState::Stopped);
        let hands = Hands {
            pictures: watch::Sender::default(),
            instance: instance.clone(),
            server: seen,
            store: Arc::new(KvClusterStore::new(absent, "c")),
            directory: KeeperDirectory::new(directory.path()),
            metrics: Metrics::default(),
            readiness: Readiness::default(),
            asker: stolon_runtime::Asker::plain(),
        };
        let [stop, at_once, depart] = [(); 3].map(|()| CancellationToken::new());
        let patience = Duration::from_secs(600);
        let summons =
            Summons { end: stop.clone(), patience, at_once: at_once.clone(), depart: depart.clone() };
        let beginning = given::beginning(local);
        let ended = tokio::task::spawn_local(async move {
            run(&hands, beginning, Found::Nothing, pledges::channel().1, &summons).await
        });
        let store = KvClusterStore::new(memory, "c");
        let _directory = directory;
        let kept = Kept { instance, server, store, away, cluster, stop, at_once, depart, ended, _directory };
        kept.publish().await;
        kept
    }

    /// A keeper whose instance is complete.
    async fn serving(role: Role, kind: DataKind) -> Self {
        let instance = FakeInstance::with(given::present(kind));
        let cluster = given::asked(role, InstanceInitMode::None);
        let kept = Kept::new(cluster, given::complete("us"), instance).await;
        kept.reports("a healthy server", |report| is_healthy(report) == Some(true)).await;
        kept
    }

    async fn publish(&self) {
        self.store.put_cluster_document(&ClusterDocument::from(self.cluster.clone())).await.unwrap();
    }

    async fn change(&mut self, change: impl FnOnce(&mut ClusterData)) {
        change(&mut self.cluster);
        self.publish().await;
    }

    async fn report(&self) -> Option<KeeperReport> {
        self.store.keeper_reports().await.unwrap().remove(&KeeperUid::from("k1"))
    }

    /// Until a report is as wanted.
    async fn reports(&self, what: &str, wanted: impl Fn(&KeeperReport) -> bool) -> KeeperReport {
        self.eventually(what, async || self.report().await.filter(|report| wanted(report))).await
    }

    /// Until this many of these steps were begun.
    async fn begun(&self, step: &str, times: usize) {
        let begun = || self.instance.postgres().begun.iter().filter(|begun| *begun == step).count();
        self.eventually(step, async || (begun() >= times).then_some(())).await;
    }

    async fn eventually<T>(&self, what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            let steps = self.instance.postgres().steps();
            assert!(
                Instant::now() < deadline,
                "no {what}; steps: {steps}; report: {:#?}",
                self.report().await
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The keeper is told to end, and does.
    async fn stopped(self) -> anyhow::Result<Ending> {
        self.stop.cancel();
        self.end().await
    }

    async fn end(self) -> anyhow::Result<Ending> {
        tokio::time::timeout(DEADLINE, self.ended).await.expect("it ends").expect("without a panic")
    }

    /// The server ends by itself, and its parent sees it.
    fn server_dies(&self) {
        self.instance.change().dies();
        let (status, explanation) = ("signal 9".to_owned(), "somebody killed it".to_owned());
        self.server.send_replace(ServerState::Died { status, explanation, tail: Vec::new() });
    }
}

fn is_healthy(report: &KeeperReport) -> Option<bool> {
    report.postgres_state.as_ref().map(|state| state.healthy)
}

fn generation(report: &KeeperReport) -> i64 {
    report.postgres_state.as_ref().map_or(0, |state| state.generation)
}

fn problem(report: &KeeperReport) -> &str {
    report.activity.as_ref().map_or("", |activity| &activity.problem)
}

fn scenario(body: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LocalSet::new().run_until(body()));
}

/// A standby that is being copied, without end.
async fn copying() -> Kept {
    let instance = FakeInstance::with(Data::Absent);
    instance.change().hanging.insert("copy".into());
    let cluster = given::asked(Role::Standby, InstanceInitMode::Resync);
    let kept = Kept::new(cluster, LocalState::default(), instance).await;
    kept.begun("copy", 1).await;
    kept
}

#[test]
fn a_look_that_hangs_is_reported_and_keeps_nobody_from_ending() {
    scenario(async || {
        let kept = Kept::serving(Role::Primary, DataKind::Primary).await;
        kept.instance.change().hanging.insert(LOOK.into());
        kept.reports("an unhealthy server", |report| is_healthy(report) == Some(false)).await;
        kept.instance.let_go();
        kept.reports("a healthy server", |report| is_healthy(report) == Some(true)).await;
        kept.instance.change().hanging.insert(LOOK.into());
        kept.reports("an unhealthy server", |report| is_healthy(report) == Some(false)).await;
        kept.stopped().await.unwrap();
    });
}

#[test]
fn a_step_that_fails_is_told_and_tried_again() {
    scenario(async || {
        let mut kept = Kept::serving(Role::Primary, DataKind::Primary).await;
        kept.instance.change().failures.insert("reload".into(), FailureKind::Other);
        kept.change(|cluster| {
            let ours = given::ours(cluster);
            ours.spec.pg_parameters = Some(Arc::new([("work_mem".into(), "9MB".into())].into()));
            ours.generation += 1;
        })
        .await;
        kept.reports("a problem", |report| problem(report) == "reload failed").await;
        kept.begun("reload", 2).await;
        kept.instance.change().failures.clear();
        let done = kept.reports("generation 4", |report| generation(report) == 4).await;
        assert_eq!(problem(&done), "");
        assert_eq!(kept.instance.postgres().in_force("work_mem"), Some("9MB"));
        kept.stopped().await.unwrap();
    });
}

#[test]
fn reports_go_out_while_a_step_runs_and_other_cluster_data_call_it_off() {
    scenario(async || {
        let mut kept = copying().await;
        let under_way = |report: &KeeperReport| {
            report
                .activity
                .as_ref()
                .is_some_and(|activity| activity.step == "base backup" && activity.bytes_total == 2)
        };
        let first = kept.reports("the copy", under_way).await;
        let another = |report: &KeeperReport| under_way(report) && report.info_uid != first.info_uid;
        kept.reports("another report", another).await;
        // What does not concern the copy leaves it alone.
        kept.change(|cluster| given::ours(cluster).generation += 1).await;
        // Its source has moved.
        kept.change(|cluster| cluster.instances.get_mut(&"pp".into()).unwrap().status.port = "9".into())
            .await;
        kept.begun("copy", 2).await;
        kept.instance.let_go();
        kept.reports("the standby", |report| is_healthy(report) == Some(true) && generation(report) == 4)
            .await;
        assert_eq!(kept.instance.postgres().steps().matches("copy").count(), 2);
        kept.stopped().await.unwrap();
    });
}

#[test]
fn a_signal_ends_a_step_that_never_ends() {
    scenario(async || {
        let kept = copying().await;
        let instance = kept.instance.clone();
        kept.stopped().await.unwrap();
        assert!(instance.postgres().steps().ends_with("copy"), "{}", instance.postgres().steps());
    });
}

#[test]
fn a_server_that_dies_is_reported_and_started_again() {
    scenario(async || {
        let kept = Kept::serving(Role::Primary, DataKind::Primary).await;
        kept.instance.change().hanging.insert("start".into());
        kept.server_dies();
        let report = kept.reports("an unhealthy server", |report| is_healthy(report) == Some(false)).await;
        assert_eq!(report.activity.map(|activity| activity.restarts), Some(1));
        kept.begun("start", 2).await;
        kept.instance.let_go();
        kept.reports("a healthy server", |report| is_healthy(report) == Some(true)).await;
        kept.stopped().await.unwrap();
    });
}

#[test]
fn a_server_that_dies_while_it_is_waited_for_is_started_again() {
    scenario(async || {
        let instance = FakeInstance::with(given::present(DataKind::Primary));
        instance.change().hanging.insert("ready".into());
        let cluster = given::asked(Role::Primary, InstanceInitMode::None);
        let kept = Kept::new(cluster, given::complete("us"), instance).await;
        kept.begun("ready", 1).await;
        kept.server_dies();
        kept.instance.let_go();
        kept.begun("start", 2).await;
        kept.reports("a healthy server", |report| is_healthy(report) == Some(true)).await;
        kept.stopped().await.unwrap();
    });
}

#[test]
fn a_store_that_goes_away_stops_nothing_and_is_told_everything_when_it_is_back() {
    scenario(async || {
        let kept = Kept::serving(Role::Standby, DataKind::Standby).await;
        let before = kept.report().await.unwrap();
        kept.away.store(true, Ordering::SeqCst);
        // A report that was under way when it went arrives, or does not; afterwards none does.
        kept.server_dies();
        kept.begun("start", 2).await;
        kept.eventually("its server", async || kept.instance.postgres().running.then_some(())).await;
        kept.away.store(false, Ordering::SeqCst);
        let after = kept
            .reports("a report of the second server", |report| {
                is_healthy(report) == Some(true)
                    && report.info_uid != before.info_uid
                    && report.activity.as_ref().is_some_and(|activity| activity.restarts == 1)
            })
            .await;
        assert_eq!(problem(&after), "");
        kept.away.store(true, Ordering::SeqCst);
        kept.stopped().await.expect("nor does a store that is away keep it from ending");
    });
}

/// Its data are where a primary's server is ended with every client, so that the order has to get through to it at once.
#[test]
fn cluster_data_that_change_while_a_server_is_waited_for_lock_its_clients_out() {
    scenario(async || {
        let instance = FakeInstance::with(given::present(DataKind::Primary));
        instance.change().hanging.insert("ready".into());
        let cluster = given::asked(Role::Primary, InstanceInitMode::None);
        let mut kept = Kept::new(cluster, given::complete("us"), instance).await;
        kept.begun("ready", 1).await;
        kept.change(given::is_deposed).await;
        kept.begun("terminate", 1).await;
        assert!(!kept.instance.postgres().admits_clients(), "{}", kept.instance.postgres().steps());
        kept.stopped().await.unwrap();
    });
}

/// A primary whose keeper was told to end, and has said so.
async fn leaving() -> Kept {
    let instance = FakeInstance::with(given::present(DataKind::Primary));
    let mut cluster = given::asked(Role::Primary, InstanceInitMode::None);
    given::add(&mut cluster, "bb", "k3", Role::Standby, InstanceInitMode::None);
    let mut keeper = Keeper { uid: "k3".into(), ..Keeper::default() };
    keeper.status.healthy = true;
    cluster.keepers.insert("k3".into(), keeper);
    cluster.instances.get_mut(&"bb".into()).unwrap().status.healthy = true;
    let kept = Kept::new(cluster, given::complete("us"), instance).await;
    kept.reports("a healthy server", |report| is_healthy(report) == Some(true)).await;
    kept.stop.cancel();
    kept.reports("that it leaves", |report| report.activity.as_ref().is_some_and(|it| it.leaving)).await;
    kept
}

async fn begin_to_relieve(kept: &mut Kept) {
    let boot = kept.report().await.unwrap().boot_uuid.to_string();
    kept.change(|cluster| {
        cluster.cluster.status.switchover = Some(Switchover {
            uid: boot,
            from: Some("us".into()),
            successor: Some("bb".into()),
            stage: Some(SwitchoverStage::Checkpoint),
            ..Switchover::default()
        });
    })
    .await;
    kept.begun("checkpoint", 1).await;
}

#[test]
fn a_keeper_that_is_told_to_end_is_at_work_until_its_primary_has_another_one() {
    scenario(async || {
        let mut kept = leaving().await;
        begin_to_relieve(&mut kept).await;
        kept.change(|cluster| cluster.cluster.status.primary = Some("bb".into())).await;
        assert_eq!(kept.end().await.unwrap(), Ending::InOrder);
    });
}

#[test]
fn a_second_summons_ends_the_waiting() {
    scenario(async || {
        let mut kept = leaving().await;
        begin_to_relieve(&mut kept).await;
        kept.at_once.cancel();
        assert_eq!(kept.end().await.unwrap(), Ending::CutShort);
    });
}

/// What is half-way is ended, and what takes long is left to the next keeper to begin again.
#[test]
fn a_keeper_that_departs_leaves_no_step_half_way() {
    scenario(async || {
        let mut kept = Kept::serving(Role::Standby, DataKind::Standby).await;
        kept.instance.change().hanging.insert("promote".into());
        kept.change(|cluster| {
            given::ours(cluster).spec.role = Some(Role::Primary);
            cluster.cluster.status.primary = Some("us".into());
        })
        .await;
        kept.begun("promote", 1).await;
        kept.depart.cancel();
        let early = tokio::time::timeout(Duration::from_millis(50), &mut kept.ended).await;
        assert!(early.is_err(), "a promotion is waited for");
        kept.instance.let_go();
        let instance = kept.instance.clone();
        assert_eq!(kept.end().await.unwrap(), Ending::Departure);
        assert!(!instance.postgres().in_recovery && instance.postgres().running);

        let instance = FakeInstance::with(given::present(DataKind::Primary));
        instance.change().hanging.insert("copy".into());
        let cluster = given::asked(Role::Standby, InstanceInitMode::Resync);
        let kept = Kept::new(cluster, given::complete("other"), instance).await;
        kept.begun("copy", 1).await;
        kept.depart.cancel();
        assert_eq!(kept.end().await.unwrap(), Ending::Departure);
    });
}
