//! Logical slots that survive a failover: a consumer is never sent what nobody has who may be elected.

use stolon_core::keeper::*;
use stolon_core::postgres::Version;
use stolon_model::{ClusterData, FAKE_STANDBY, InstanceInitMode as Init, Role};

use crate::given::*;

const V17: Version = Version { major: 17, minor: 2 };
const NAMES: &str = "synchronized_standby_slots";

fn asked_for(mut cluster: ClusterData) -> ClusterData {
    let spec = &mut cluster.cluster.spec;
    spec.sync_logical_slots = Some(true);
    ours(&mut cluster).spec.pg_parameters =
        Some(std::sync::Arc::new([("wal_level".to_owned(), "logical".to_owned())].into_iter().collect()));
    cluster
}

fn configured(cluster: &ClusterData, seen: &Observation) -> Vec<Config> {
    let steps = plan(&goal(cluster), seen).steps;
    let config = |step: Step| match step {
        Step::Configure { config, .. } => Some(*config),
        _ => None,
    };
    steps.into_iter().filter_map(config).collect()
}

fn seen(kind: DataKind, version: Version) -> Observation {
    let mut seen = here(kind);
    seen.version = version;
    if let Data::Present(present) = &mut seen.data {
        present.version = version;
    }
    seen
}

fn names(cluster: &ClusterData) -> Option<String> {
    configured(cluster, &seen(DataKind::Primary, V17)).last()?.parameters.get(NAMES).cloned()
}

#[test]
fn consumers_wait_for_exactly_those_that_commits_wait_for() {
    assert_eq!(names(&synchronous()), None, "nobody asked for it");
    let mut cluster = asked_for(synchronous());
    assert_eq!(names(&cluster).as_deref(), Some("stolon_bb"));
    // A standby that may be elected stays on the list although it does not work.
    cluster.instances.get_mut(&"bb".into()).unwrap().status.healthy = false;
    assert_eq!(names(&cluster).as_deref(), Some("stolon_bb"));
    // Commits wait in vain: a former primary may come back, and has nothing of what is flushed here.
    let spec = &mut ours(&mut cluster).spec;
    spec.synchronous_standbys = Some(Vec::new());
    spec.external_synchronous_standbys = Some(vec![FAKE_STANDBY.to_owned(), "backup".to_owned()]);
    assert_eq!(names(&cluster).as_deref(), Some(FAKE_STANDBY));
}

#[test]
fn the_list_is_in_force_before_the_promotion() {
    let cluster = asked_for(synchronous());
    let mut seen = seen(DataKind::Standby, V17);
    let live = Live { in_recovery: true, ..Live::default() };
    seen.server = Server::Running(Some(live));
    seen.applied = Some(Config::default());
    let steps = plan(&goal(&cluster), &seen).steps;
    let promote = steps.iter().position(|step| *step == Step::Promote).unwrap();
    let config = configured(&cluster, &seen).remove(0);
    assert_eq!(config.parameters.get(NAMES).map(String::as_str), Some("stolon_bb"));
    assert!(matches!(steps[..promote], [Step::Configure { .. }, Step::Reload]), "{steps:?}");
}

#[test]
fn a_standby_copies_slots_and_drops_its_own_of_the_same_kind() {
    let cluster = asked_for(asked(Role::Standby, Init::None));
    let config = configured(&cluster, &seen(DataKind::Standby, V17)).remove(0);
    for name in ["sync_replication_slots", "hot_standby_feedback"] {
        assert_eq!(config.parameters.get(name).map(String::as_str), Some("on"));
    }
    assert_eq!(config.recovery.upstream.unwrap().slots, UpstreamSlots::Copied);
    let mut running = seen(DataKind::Standby, V17);
    let slot = |name: &str, failover, active| SlotRow {
        name: name.to_owned(),
        kind: SlotKind::Logical,
        failover,
        active,
        restart_lsn: None,
        wal_status: None,
        safe_wal_size: None,
    };
    let slots = vec![
        slot("own", Failover::Wanted, false),
        slot("copy", Failover::Copied, false),
        slot("plain", Failover::No, false),
        slot("used", Failover::Wanted, true),
    ];
    running.server = Server::Running(Some(Live { in_recovery: true, slots, ..Live::default() }));
    let dropped = Step::DropStaleSlots(["own".to_owned()].into());
    let steps = plan(&goal(&cluster), &running).steps;
    assert!(steps.contains(&dropped), "{steps:?}");
    let steps = plan(&goal(&asked(Role::Standby, Init::None)), &running).steps;
    assert!(!steps.contains(&dropped), "nobody asked for it: {steps:?}");
}

#[test]
fn before_version_17_and_without_logical_wal_nothing_is_set_and_the_reason_said() {
    let cluster = asked_for(synchronous());
    let config = configured(&cluster, &seen(DataKind::Primary, V15)).remove(0);
    assert_eq!(config.parameters.get(NAMES), None);
    assert!(
        config.problems.iter().any(|problem| problem.name == "syncLogicalSlots"),
        "{:?}",
        config.problems
    );
    let mut cluster = cluster;
    ours(&mut cluster).spec.pg_parameters = None;
    let config = configured(&cluster, &seen(DataKind::Primary, V17)).remove(0);
    assert_eq!(config.parameters.get(NAMES), None);
    assert!(
        config.problems.iter().any(|problem| problem.sentence.contains("wal_level")),
        "{:?}",
        config.problems
    );
}
