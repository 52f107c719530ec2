//! The whole keeper on a fake PostgreSQL: what it does about what happens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stolon_core::keeper::*;
use stolon_core::postgres::Version;
use stolon_core::settings::MAJORS;
use stolon_model::{
    ClusterData, GoDuration, InstanceInitMode as Init, KeeperActivity, KeeperReport, NewerData, Parameters,
    Role, SentinelReport, Served,
};

use crate::fake::{NEEDS_RESTART, Store, World};
use crate::given::*;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn is_deposed(cluster: &mut ClusterData) {
    cluster.cluster.status.primary = Some("pp".into());
    ours(cluster).generation += 1;
}

fn is_elected_again(cluster: &mut ClusterData) {
    cluster.cluster.status.primary = Some("us".into());
    ours(cluster).generation += 1;
}

/// A synchronous primary with one standby.
fn synchronous() -> ClusterData {
    let mut cluster = asked(Role::Primary, Init::None);
    add(&mut cluster, "bb", "k3", Role::Standby, Init::None);
    let spec = &mut ours(&mut cluster).spec;
    spec.synchronous_replication = true;
    spec.synchronous_standbys = Some(vec!["bb".into()]);
    spec.followers = Some(vec!["bb".into()]);
    cluster
}

/// A primary that serves.
fn serving(cluster: ClusterData) -> World {
    let mut world = World::with(cluster, DataKind::Primary);
    world.postgres.standby_streams("bb");
    world.run(seconds(30));
    assert_eq!(world.reported(), (true, 3), "{:?}", world.log);
    assert!(world.postgres.admits_clients(), "{:?}", world.log);
    world
}

#[test]
fn a_new_primary_is_made_started_and_reported() {
    let cluster = asked(Role::Primary, Init::New);
    let mut world = World::new(cluster, LocalState::default(), Data::Absent);
    world.run(seconds(5));
    let steps: Vec<&str> =
        world.log.iter().map(|(_, word)| word.as_str()).filter(|word| *word != "read").collect();
    assert_eq!(
        steps.join(" "),
        "stop wipe initdb check configure:primary+merged start ready roles stop configure:primary start ready slots"
    );
    assert_eq!(world.reported(), (true, 3));
    assert_eq!(world.problem(), "");
    assert!(world.postgres.admits_clients());
}

#[test]
fn a_backup_is_called_off_when_it_is_of_no_use_any_more() {
    let cluster = asked(Role::Standby, Init::Resync);
    let mut world = World::new(cluster, LocalState::default(), Data::Absent);
    world.run(seconds(10));
    assert!(world.steps_since(0).ends_with("copy read"), "{:?}", world.log);
    assert_eq!(world.report().activity.as_ref().unwrap().step, "base backup");
    world.change(|cluster| ours(cluster).generation += 1);
    world.run(seconds(10));
    assert!(!world.steps_since(0).contains("called-off"), "parameters come later");
    world.change(|cluster| cluster.instances.get_mut(&"pp".into()).unwrap().status.port = "9".into());
    world.run(seconds(1));
    assert!(world.steps_since(0).contains("called-off"), "{:?}", world.log);
    assert_eq!(world.log.iter().filter(|(_, word)| word == "copy").count(), 2, "it begins anew");
}

#[test]
fn without_the_store_a_synchronous_primary_comes_back_behind_its_gate() {
    let mut world = serving(synchronous());
    world.store = Store::Silent;
    world.run(seconds(20));
    world.postgres.replication.clear();
    let mark = world.mark();
    world.server_dies();
    world.run(seconds(20));
    assert!(world.steps_since(mark).contains("start"), "{:?}", &world.log[mark..]);
    assert!(world.postgres.running && !world.postgres.admits_clients(), "its standby is not there yet");
    world.postgres.standby_streams("bb");
    world.run(seconds(5));
    assert!(world.postgres.admits_clients(), "{:?}", &world.log[mark..]);
}

/// Whenever the store comes back, the keepers have reported before a sentinel that has just read it again counts their silence: it leaves
/// two sleep intervals at least, and all of `failInterval` to those that had reported when the store went.
#[test]
fn a_report_that_hung_when_the_store_came_back_is_followed_by_another_one_in_time() {
    for outage in (0..60).map(|step| seconds(20) + Duration::from_millis(137) * step) {
        let mut cluster = synchronous();
        cluster.cluster.spec.sleep_interval = Some(stolon_model::GoDuration::from_seconds(1));
        cluster.cluster.spec.fail_interval = Some(stolon_model::GoDuration::from_seconds(6));
        let mut world = serving(cluster);
        world.store = Store::Silent;
        world.run(outage);
        world.store = Store::Answers;
        let before = world.reports.len();
        world.run(seconds(4) + Duration::from_millis(10));
        assert!(world.reports.len() > before, "after an outage of {outage:?}");
    }
}

#[test]
fn without_the_store_nothing_is_started_that_another_primary_could_stand_beside() {
    let mut world = serving(asked(Role::Primary, Init::None));
    world.store = Store::Silent;
    world.run(seconds(20));
    world.server_dies();
    world.run(seconds(60));
    assert!(!world.postgres.running, "{:?}", world.log);
    world.store = Store::Answers;
    world.run(seconds(10));
    assert!(world.postgres.running && world.postgres.admits_clients());
}

#[test]
fn without_the_store_a_standby_comes_back_and_what_troubles_is_said() {
    let mut world = World::with(asked(Role::Standby, Init::None), DataKind::Standby);
    world.run(seconds(10));
    world.store = Store::Silent;
    world.run(seconds(20));
    world.server_dies();
    world.run(seconds(20));
    assert!(world.postgres.running);
    world.store = Store::Answers;
    world.run(Duration::from_millis(5100));
    assert_eq!(world.problem(), "", "the trouble is over");
    let troubled = world.sayings.iter().any(
        |saying| matches!(saying, Saying::Trouble { sentence, .. } if sentence.contains("cluster data")),
    );
    assert!(troubled, "{:?}", world.sayings);
}

#[test]
fn a_thawed_keeper_reads_again_before_it_starts_a_primary() {
    let mut world = serving(asked(Role::Primary, Init::None));
    let mark = world.mark();
    world.freeze(seconds(60));
    is_deposed(&mut world.cluster);
    world.server_dies();
    world.run(seconds(10));
    let steps = world.steps_since(mark);
    let first = |word: &str| steps.split(' ').position(|step| step == word);
    assert!(first("read") < first("start"), "{steps}");
    assert!(!world.postgres.admits_clients(), "what it knew before the freeze is over: {steps}");
}

#[test]
fn a_promotion_and_an_opening_gate_wait_for_the_present_word_of_the_store() {
    // The look on which the promotion is planned takes long, and meanwhile another one is elected.
    let mut world = World::with(asked(Role::Standby, Init::None), DataKind::Standby);
    world.cluster.cluster.spec.sleep_interval = Some(stolon_model::GoDuration::from_seconds(60));
    world.run(seconds(70));
    assert!(world.postgres.in_recovery, "{:?}", world.log);
    world.look_takes = seconds(5);
    let standby = world.cluster.clone();
    world.change(|cluster| {
        cluster.cluster.status.primary = Some("us".into());
        let ours = ours(cluster);
        (ours.spec.role, ours.spec.follow_config) = (Some(Role::Primary), None);
        ours.generation += 1;
    });
    world.run(seconds(1));
    world.cluster = standby;
    world.run(seconds(20));
    assert!(world.postgres.in_recovery, "{:?}", world.log);

    // Its standby is in sync, but another one was elected, and no watch told.
    let mut world = World::with(synchronous(), DataKind::Primary);
    world.cluster.cluster.spec.sleep_interval = Some(stolon_model::GoDuration::from_seconds(60));
    world.run(seconds(20));
    assert!(world.postgres.running && !world.postgres.admits_clients());
    is_deposed(&mut world.cluster);
    world.postgres.standby_streams("bb");
    world.run(seconds(20));
    assert!(!world.postgres.admits_clients(), "{:?}", world.log);
}

#[test]
fn a_server_that_lets_nobody_new_in_is_not_looked_at_without_a_pause() {
    // Whoever waits for it is told at once that it is ready, and the next look fails at once.
    for role in [Role::Primary, Role::Standby] {
        let kind = if role == Role::Primary { DataKind::Primary } else { DataKind::Standby };
        let mut world = World::with(asked(role, Init::None), kind);
        world.run(seconds(30));
        world.postgres.answers = false;
        let (before, mark) = (world.looks, world.mark());
        world.run(seconds(60));
        // At most 40 a second for ten seconds, four afterwards.
        assert!(world.looks - before < 700, "{} looks in a minute", world.looks - before);
        assert!(world.mark() - mark < 600, "{} steps and readings in a minute", world.mark() - mark);
        assert_eq!(world.reported(), (false, 3));
        world.postgres.answers = true;
        world.run(seconds(1));
        assert_eq!(world.reported(), (true, 3), "noticed within a moment");
    }
}

#[test]
fn a_keeper_on_which_nothing_happens_asks_the_store_once_in_an_interval() {
    for sleep in [1, 5, 20] {
        let mut cluster = asked(Role::Primary, Init::None);
        cluster.cluster.spec.sleep_interval = Some(GoDuration::from_seconds(sleep));
        let mut world = serving(cluster);
        let (reports, questions) = (world.reports.len(), world.questions);
        world.run(seconds(600));
        let intervals = 600 / sleep as usize;
        let reports = world.reports.len() - reports;
        assert!((intervals - 2..=intervals).contains(&reports), "{reports} reports, {sleep} s apart");
        assert_eq!(world.questions - questions, 0, "each report brings the cluster data along");
        let renewed_seldom = world.ttl >= seconds(60) && world.ttl >= seconds(6 * sleep as u64);
        assert!(renewed_seldom, "a time to live of {:?}", world.ttl);
    }
}

#[test]
fn a_keeper_whose_reports_do_not_get_through_asks_for_the_cluster_data() {
    let mut world = serving(asked(Role::Primary, Init::None));
    world.store = Store::Silent;
    let questions = world.questions;
    world.run(seconds(8));
    assert!(world.questions > questions, "one interval and a half after the last report");
}

/// An asynchronous primary that is asked for something that a restart brings, and may restart by itself.
fn restarting(store: Store) -> World {
    let mut cluster = asked(Role::Primary, Init::None);
    cluster.cluster.spec.automatic_pg_restart = Some(true);
    let mut world = serving(cluster);
    world.stop_takes = seconds(20);
    world.change(|cluster| {
        let parameters = [(NEEDS_RESTART.to_owned(), "1GB".to_owned())];
        let ours = ours(cluster);
        ours.spec.pg_parameters = Some(Arc::new(parameters.into_iter().collect()));
        ours.generation += 1;
    });
    // The change is read.
    world.run(Duration::from_millis(3));
    world.store = store;
    world
}

#[test]
fn a_restart_that_was_begun_is_ended_without_the_store() {
    let mut world = restarting(Store::Answers);
    world.run(seconds(2));
    assert!(world.steps_since(0).ends_with("stop"), "{:?}", world.log);
    world.store = Store::Silent;
    world.run(seconds(60));
    assert!(world.postgres.running && world.postgres.admits_clients(), "{:?}", world.log);
    // What dies afterwards is another matter: it may have been replaced since.
    world.server_dies();
    world.run(seconds(60));
    assert!(!world.postgres.running, "{:?}", world.log);
}

#[test]
fn a_restart_is_not_begun_without_the_stores_present_word() {
    // It reads as old as it may, but no watch tells.
    let mut world = restarting(Store::Answers);
    world.cluster.cluster.spec.sleep_interval = Some(stolon_model::GoDuration::from_seconds(60));
    let mark = world.mark();
    world.store = Store::Silent;
    world.freeze(seconds(3));
    world.run(seconds(60));
    assert!(!world.steps_since(mark).contains("stop"), "{:?}", &world.log[mark..]);
    assert!(world.postgres.running && world.postgres.admits_clients());
    world.store = Store::Answers;
    world.run(seconds(60));
    assert!(world.steps_since(mark).contains("stop"), "{:?}", &world.log[mark..]);
    assert!(world.postgres.running && world.postgres.admits_clients());
}

#[test]
fn a_primary_that_was_replaced_while_it_restarted_does_not_come_back_open() {
    let mut world = restarting(Store::Answers);
    world.run(seconds(2));
    world.change(is_deposed);
    world.run(seconds(10));
    world.store = Store::Silent;
    world.run(seconds(60));
    assert!(!world.postgres.admits_clients(), "{:?}", world.log);
}

#[test]
fn a_primary_that_was_deposed_for_a_moment_lets_clients_in_again() {
    // Whatever it was doing when it was elected again.
    for moment in 0..20 {
        let mut world = serving(asked(Role::Primary, Init::None));
        world.change(is_deposed);
        world.run(Duration::from_millis(moment));
        world.change(is_elected_again);
        world.run(seconds(20));
        assert!(world.postgres.admits_clients(), "{moment} ms: {:?}", world.log);
    }
    for step in ["configure", "reload"] {
        let mut world = serving(asked(Role::Primary, Init::None));
        world.postgres.failures.insert(step.into(), FailureKind::TimedOut);
        world.change(is_deposed);
        world.run(Duration::from_millis(20));
        world.postgres.failures.clear();
        world.change(is_elected_again);
        world.run(seconds(20));
        assert!(world.postgres.admits_clients(), "{step}: {:?}", world.log);
    }
}

#[test]
fn a_primary_that_recovers_is_waited_for_no_longer_once_another_one_was_elected() {
    let mut world = World::with(asked(Role::Primary, Init::None), DataKind::Primary);
    (world.ready_takes, world.postgres.answers) = (seconds(3600), false);
    world.run(seconds(10));
    assert!(world.steps_since(0).contains("start ready"), "{:?}", world.log);
    // What else is asked meanwhile is no reason.
    let mark = world.mark();
    world.change(|cluster| ours(cluster).generation += 1);
    world.run(seconds(1));
    assert_eq!(world.steps_since(mark), "read");
    world.change(is_deposed);
    world.run(seconds(1));
    let steps = world.steps_since(mark);
    assert!(steps.contains("called-off") && steps.contains("configure:primary terminate"), "{steps}");
    assert!(!world.postgres.admits_clients(), "{steps}");
}

#[test]
fn a_deposed_primary_whose_clients_cannot_be_locked_out_is_stopped() {
    let kinds = || [FailureKind::Other, FailureKind::TimedOut, FailureKind::DiskFullHere];
    for step in ["check", "configure", "terminate", "reload"] {
        for kind in kinds() {
            let mut cluster = asked(Role::Primary, Init::None);
            cluster.cluster.spec.sleep_interval = Some(stolon_model::GoDuration::from_seconds(1));
            let mut world = serving(cluster);
            world.postgres.failures.insert(step.into(), kind.clone());
            world.change(|cluster| {
                is_deposed(cluster);
                // The binaries are asked about what is new.
                let parameters = [("work_mem".to_owned(), "4MB".to_owned())];
                ours(cluster).spec.pg_parameters = Some(Arc::new(parameters.into_iter().collect()));
            });
            world.run(Duration::from_millis(50));
            assert!(!world.postgres.admits_clients(), "{step} {kind:?}: {:?}", world.log);
            assert!(world.problem().contains("failed"), "{step} {kind:?}: {}", world.problem());
            world.postgres.failures.clear();
            world.run(seconds(40));
            assert!(world.postgres.running && !world.postgres.admits_clients(), "{step}: {:?}", world.log);
            assert_eq!(world.problem(), "", "{step}");
        }
    }
}

#[test]
fn a_deposed_primary_of_which_nothing_is_known_is_stopped() {
    let gone = |world: &mut World| world.postgres.data = Data::Unreadable("input/output error".into());
    let refused = |world: &mut World| {
        world.postgres.rejected = vec![RejectedSetting {
            name: "primary_conninfo".into(),
            value: "x".into(),
            message: "no".into(),
            instead: None,
            origin: Origin::Recovery,
        }];
    };
    for (what, hinder) in [("data", &gone as &dyn Fn(&mut World)), ("settings", &refused)] {
        let mut world = serving(asked(Role::Primary, Init::None));
        hinder(&mut world);
        world.change(|cluster| {
            is_deposed(cluster);
            let parameters = [("work_mem".to_owned(), "4MB".to_owned())];
            ours(cluster).spec.pg_parameters = Some(Arc::new(parameters.into_iter().collect()));
        });
        world.run(Duration::from_millis(50));
        assert!(!world.postgres.running, "{what}: {:?}", world.log);
        assert_ne!(world.problem(), "", "{what}");
    }

    // A keeper that was just started does not know what the binaries are, and finds a server.
    let mut cluster = asked(Role::Primary, Init::None);
    is_deposed(&mut cluster);
    let mut world = World::with(cluster, DataKind::Primary);
    (world.postgres.running, world.postgres.version) = (true, Err("no such file".into()));
    world.run(seconds(1));
    assert!(!world.postgres.running, "{:?}", world.log);
}

#[test]
fn slots_that_cannot_be_made_are_shown_and_keep_nobody_from_the_generation() {
    let mut world = World::with(asked(Role::Primary, Init::None), DataKind::Primary);
    world.postgres.failures.insert("slots".into(), FailureKind::Other);
    world.run(seconds(20));
    assert_eq!(world.reported(), (true, 3));
    assert_eq!(world.problem(), "slots failed");
    let said = world.sayings.iter().filter(|saying| matches!(saying, Saying::SlotsFailed(_))).count();
    assert_eq!(said, 1, "once");
    world.postgres.failures.clear();
    world.run(seconds(20));
    assert_eq!(world.problem(), "");
}

#[test]
fn a_generation_is_reached_although_it_cannot_be_written_down() {
    let mut world = World::with(asked(Role::Primary, Init::None), DataKind::Primary);
    world.disk_fails = Some((StateFileKind::Instance, "cannot write dbstate: read-only file system"));
    world.run(seconds(20));
    assert_eq!(world.reported(), (true, 3));
    assert!(world.problem().contains("read-only"), "{}", world.problem());
    world.disk_fails = None;
    world.run(seconds(20));
    assert_eq!(world.problem(), "");
    let reached = |file: &StateFile| matches!(file, StateFile::Instance(state) if state.generation == 3);
    assert!(world.files.iter().any(reached), "written down later: {:?}", world.files);
}

#[test]
fn data_are_not_touched_before_it_is_written_down_that_they_are_half_made() {
    let local = LocalState { uid: "old".into(), generation: 2, ..LocalState::default() };
    let cluster = asked(Role::Primary, Init::New);
    let mut world = World::new(cluster, local, present(DataKind::Primary));
    world.disk_fails = Some((StateFileKind::Instance, "full"));
    world.run(seconds(60));
    assert!(!world.steps_since(0).contains("wipe"), "{:?}", world.log);
    assert!(world.problem().contains("full"));
}

#[test]
fn that_data_are_half_made_is_taken_back_where_nobody_wants_it_any_more() {
    let local = LocalState { uid: "us".into(), generation: 2, ..LocalState::default() };
    let mut world = World::new(asked(Role::Standby, Init::None), local.clone(), present(DataKind::Standby));
    world.run(seconds(10));
    assert_eq!(world.reported(), (true, 3));
    // Another instance is assigned, and the write that it begins with fails, or does not end.
    let before = world.cluster.clone();
    let another = |cluster: &mut ClusterData| {
        add(cluster, "new", "k1", Role::Standby, Init::Resync);
        cluster.instances.remove(&"us".into());
        let new = cluster.instances.get_mut(&"new".into()).unwrap();
        new.spec.follow_config = Some(stolon_model::FollowConfig::internal("pp".into()));
    };
    (world.disk_fails, world.failed_writes_arrive) = (Some((StateFileKind::Instance, "I/O error")), true);
    world.change(another);
    world.run(seconds(1));
    assert!(world.dbstate().initializing, "{:?}", world.files);
    world.disk_fails = None;
    world.change(|cluster| *cluster = before.clone());
    world.run(seconds(20));
    let whole = LocalState { generation: 3, ..local };
    assert_eq!(world.dbstate(), whole, "{:?}", world.files);
    assert_eq!((world.reported(), world.problem()), ((true, 3), String::new()));

    world.disk_hangs = Some(StateFileKind::Instance);
    world.change(another);
    world.run(seconds(30));
    assert!(world.problem().contains("hangs"), "{}", world.problem());
    assert!(!world.steps_since(0).contains("wipe"), "{:?}", world.log);
    world.change(|cluster| *cluster = before);
    world.run(seconds(1));
    world.disk_works();
    world.run(seconds(20));
    assert_eq!(world.dbstate(), whole, "{:?}", world.files);
    assert_eq!((world.reported(), world.problem()), ((true, 3), String::new()));
}

/// It was promoted under cluster data that nobody has any more.
#[test]
fn a_standby_with_the_data_of_a_primary_is_reported() {
    let holds_primary_data =
        |world: &World| world.report().activity.as_ref().is_some_and(|activity| activity.holds_primary_data);
    let mut world = World::with(asked(Role::Standby, Init::None), DataKind::Primary);
    world.run(seconds(10));
    assert!(holds_primary_data(&world), "{:?}", world.log);
    assert_eq!(world.report().postgres_state.as_ref().map(|state| state.uid.as_str()), Some("us"));
    world.cluster = asked(Role::Primary, Init::None);
    world.change(|cluster| ours(cluster).generation += 1);
    world.run(seconds(10));
    assert_eq!((world.reported(), holds_primary_data(&world)), ((true, 4), false), "{:?}", world.log);
}

#[test]
fn a_disk_that_hangs_keeps_nobody_from_the_generation_and_is_reported() {
    let mut world = World::with(asked(Role::Primary, Init::None), DataKind::Primary);
    world.disk_hangs = Some(StateFileKind::Instance);
    world.run(seconds(20));
    assert_eq!(world.reported(), (true, 3), "{:?}", world.log);
    let activity = world.report().activity.clone().unwrap();
    assert_eq!(activity.hindrance, Some(stolon_model::Hindrance::StateFile));
    assert!(world.problem().contains("hangs"), "{}", world.problem());
    // And again, behind the first write.
    world.change(|cluster| ours(cluster).generation += 1);
    world.run(seconds(20));
    assert_eq!(world.reported(), (true, 4), "{:?}", world.log);
    world.disk_works();
    world.run(seconds(20));
    assert_eq!((world.problem(), world.dbstate().generation), (String::new(), 4));
    assert_eq!(world.report().activity.as_ref().and_then(|activity| activity.hindrance.clone()), None);
}

#[test]
fn a_server_that_must_stop_is_stopped_although_the_version_is_not_known() {
    let mut cluster = asked(Role::Primary, Init::None);
    cluster.instances.remove(&"us".into());
    let mut world = World::with(cluster, DataKind::Primary);
    world.postgres.version = Err("cannot run postgres: no such file".into());
    world.postgres.running = true;
    world.run(seconds(10));
    assert!(!world.postgres.running, "{:?}", world.log);
}

#[test]
fn without_a_version_nothing_is_planned_and_with_an_earlier_one_everything_goes_on() {
    let mut world = World::with(asked(Role::Primary, Init::None), DataKind::Primary);
    world.postgres.version = Err("no such file".into());
    world.run(seconds(10));
    assert!(!world.postgres.running);
    assert!(world.problem().contains("no such file"), "{}", world.problem());
    world.postgres.version = Ok(V15);
    world.run(seconds(20));
    assert!(world.postgres.running);
    world.postgres.version = Err("no such file".into());
    world.change(is_deposed);
    world.run(seconds(10));
    assert!(!world.postgres.admits_clients(), "{:?}", world.log);
}

#[test]
fn binaries_that_are_too_old_are_refused_with_a_way_out_and_newer_ones_are_warned_about() {
    let mut world = World::with(asked(Role::Primary, Init::None), DataKind::Primary);
    let of = |major, minor| Version { major, minor };
    world.postgres.version = Ok(of(9, 6));
    world.run(seconds(10));
    assert!(!world.postgres.running, "{:?}", world.log);
    let problem = world.problem();
    assert!(problem.contains("9.6 is older") && problem.contains("10 to 18"), "{problem}");

    let mut world = World::with(asked(Role::Primary, Init::None), DataKind::Primary);
    let newer = of(MAJORS.end() + 1, 0);
    world.postgres.version = Ok(newer);
    world.postgres.data =
        Data::Present(Present { version: newer, kind: DataKind::Primary, system_identifier: SYSTEM.into() });
    world.run(seconds(30));
    assert!(world.postgres.running && world.problem().is_empty(), "{}", world.problem());
    let warned = world.sayings.iter().filter(|saying| **saying == Saying::VersionNewer(newer)).count();
    assert_eq!(warned, 1, "once");
}

#[test]
fn without_pg_rewind_everything_is_copied_at_once() {
    let local = LocalState { uid: "old".into(), generation: 2, ..LocalState::default() };
    let mut cluster = asked(Role::Standby, Init::Resync);
    ours(&mut cluster).spec.use_pg_rewind = true;
    let mut world = World::new(cluster, local, present(DataKind::Primary));
    world.postgres.failures.insert("rewind".into(), FailureKind::NoProgram);
    world.run(seconds(2));
    let steps = world.steps_since(0);
    assert_eq!(steps.matches("rewind").count(), 1, "no second attempt finds it: {steps}");
    assert!(steps.contains("copy"), "{steps}");
}

#[test]
fn without_pg_controldata_a_standby_is_started_all_the_same() {
    let mut world = World::with(asked(Role::Standby, Init::None), DataKind::Standby);
    world.postgres.control = ControlLook::NoProgram("/bin/pg_controldata".into());
    world.run(seconds(10));
    assert!(world.postgres.running, "{:?}", world.log);
    world.server_dies();
    world.run(seconds(20));
    let said = world.sayings.iter().filter(|saying| matches!(saying, Saying::DemandsUnknown(_))).count();
    assert_eq!(said, 1, "once: {:?}", world.sayings);
}

#[test]
fn cluster_data_older_than_what_was_served_under_are_not_followed() {
    let mut served = Served::default();
    (served.cluster_uid, served.epoch, served.instance) = ("c1".into(), 5, "old".into());
    for (epoch, followed) in [(Some(4), false), (Some(5), true), (Some(6), true)] {
        let mut cluster = asked(Role::Standby, Init::Resync);
        cluster.cluster.epoch = epoch;
        let local = LocalState { uid: "old".into(), generation: 2, ..LocalState::default() };
        let mut world = World::after(cluster, local, present(DataKind::Primary), Some(served.clone()));
        world.run(seconds(60));
        assert_eq!(world.steps_since(0).contains("copy"), followed, "{epoch:?} {:?}", world.log);
        assert_eq!(world.problem().contains("older"), !followed, "{:?}", world.problem());
        assert!(world.report().activity.as_ref().unwrap().served.is_some(), "the sentinel is told");
    }
}

/// PostgreSQL manual, "Hot Standby", administrator's overview: a limit is lowered on the primary first, and on its standbys once they have
/// replayed that.
#[test]
fn a_lowered_limit_reaches_a_standby_after_its_primary() {
    for automatic in [true, false] {
        let mut cluster = asked(Role::Standby, Init::None);
        cluster.cluster.spec.automatic_pg_restart = Some(automatic);
        let limits = Parameters::from([("max_connections".to_owned(), "100".to_owned())]);
        ours(&mut cluster).spec.pg_parameters = Some(Arc::new(limits));
        let mut world = World::with(cluster, DataKind::Standby);
        let runs_with =
            |max_connections| ControlLook::Demands(Demands { max_connections, ..Demands::default() });
        world.postgres.control = runs_with(300);
        world.run(seconds(30));
        assert_eq!(
            (world.reported(), world.postgres.started_with("max_connections")),
            ((true, 3), Some("300"))
        );
        world.postgres.control = runs_with(100);
        world.run(seconds(30));
        let wanted = if automatic { "100" } else { "300" };
        assert_eq!(world.postgres.started_with("max_connections"), Some(wanted), "{:?}", world.log);
        assert_eq!(world.reported(), (true, 3));
        assert_eq!(world.report().activity.as_ref().unwrap().pending_restart, !automatic);
    }
}

/// A keeper that was down while the store went back in time knows of nothing newer: another one does, or a sentinel that remembers it.
#[test]
fn no_older_primary_is_started_while_somebody_has_served_under_newer_cluster_data() {
    let mut cluster = synchronous();
    cluster.cluster.epoch = Some(5);
    let served = Served { cluster_uid: "c1".into(), epoch: 9, instance: "bb".into(), ..Served::default() };
    let mut report = KeeperReport::default();
    report.uid = "k3".into();
    report.activity = Some(KeeperActivity { served: Some(served.clone()), ..KeeperActivity::default() });
    let keepers = BTreeMap::from([("k3".into(), report)]);
    let newer = NewerData {
        cluster_uid: "c1".into(),
        epoch: 9,
        keepers: Some(BTreeMap::from([("k3".into(), served)])),
    };
    let sentinel = SentinelReport { newer: Some(newer), ..SentinelReport::default() };
    let sentinels = BTreeMap::from([("s1".into(), sentinel)]);
    for others in [
        Reports { keepers: keepers.clone(), ..Reports::default() },
        Reports { sentinels, ..Reports::default() },
    ] {
        for kind in [DataKind::Primary, DataKind::Standby] {
            let mut world = World::with(cluster.clone(), kind);
            world.others = Ok(others.clone());
            world.run(seconds(60));
            let steps = world.steps_since(0);
            assert!(!world.postgres.running || world.postgres.in_recovery, "{kind:?}: {steps}");
            assert!(
                world.problem().contains("what keeper k3 served under (epoch 5 after epoch 9)"),
                "{kind:?}"
            );
            // An operator settles, and raises the epoch.
            world.change(|cluster| cluster.cluster.epoch = Some(10));
            world.run(seconds(20));
            assert!(world.postgres.running && !world.postgres.in_recovery, "{kind:?}: {:?}", world.log);
        }
    }
}

/// What our own report said before is on our own disk, and what belongs to another cluster says nothing.
#[test]
fn a_report_of_ours_or_of_another_cluster_keeps_no_primary_down() {
    let mut cluster = synchronous();
    cluster.cluster.epoch = Some(5);
    for (uid, of) in [("k1", "c1"), ("k3", "c2")] {
        let served = Served { cluster_uid: of.into(), epoch: 9, ..Served::default() };
        let mut report = KeeperReport::default();
        report.activity = Some(KeeperActivity { served: Some(served), ..KeeperActivity::default() });
        let mut world = World::with(cluster.clone(), DataKind::Primary);
        world.others = Ok(Reports { keepers: BTreeMap::from([(uid.into(), report)]), ..Reports::default() });
        world.run(seconds(5));
        assert!(world.postgres.running, "{uid} {of}: {:?}", world.log);
    }
}

#[test]
fn reports_that_cannot_be_read_keep_no_primary_down_for_long() {
    let mut world = World::with(synchronous(), DataKind::Primary);
    world.others = Err("broken");
    world.run(seconds(5));
    assert!(!world.postgres.running, "{:?}", world.log);
    assert!(world.problem().contains("the reports of the other keepers cannot be read: broken"));
    world.run(seconds(20));
    assert!(world.postgres.running, "{:?}", world.log);
}

#[test]
fn what_was_served_under_is_remembered_on_the_disk() {
    let mut cluster = asked(Role::Primary, Init::None);
    cluster.cluster.epoch = Some(7);
    let mut world = serving(cluster);
    let served = |world: &World| {
        let file = world.files.iter().rev().find_map(|file| match file {
            StateFile::Served(served) => Some(served.clone()),
            _ => None,
        });
        file.expect("served").epoch
    };
    assert_eq!(served(&world), 7);
    world.change(|cluster| cluster.cluster.epoch = Some(8));
    world.run(seconds(10));
    assert_eq!(served(&world), 8);
    let old = world.cluster.clone();
    world.change(|cluster| {
        cluster.cluster.epoch = Some(6);
        cluster.instances.remove(&"us".into());
    });
    world.run(seconds(30));
    assert!(world.postgres.running, "an older document does not even stop it");
    assert_eq!(served(&world), 8);
    world.change(|cluster| *cluster = old);
    world.run(seconds(30));
    assert_eq!(world.problem(), "");
}

#[test]
fn unexpected_ends_are_counted_for_a_minute_and_reported_at_once() {
    let mut world = serving(asked(Role::Primary, Init::None));
    let restarts = |world: &World| world.report().activity.as_ref().map_or(0, |activity| activity.restarts);
    for count in 1..=3 {
        world.server_dies();
        world.run(Duration::from_millis(4));
        assert_eq!(world.reported(), (false, 3), "at once");
        world.run(seconds(8));
        assert_eq!(world.reported(), (true, 3), "it is started again");
        assert_eq!(restarts(&world), count);
    }
    world.run(seconds(60));
    assert_eq!(restarts(&world), 0);
}

#[test]
fn a_start_that_fails_is_no_restart() {
    let mut world = World::with(asked(Role::Primary, Init::None), DataKind::Primary);
    let death = ServerDeath { status: "1".into(), explanation: "no".into(), cause: DeathCause::PortTaken };
    world.postgres.failures.insert("start".into(), FailureKind::ServerExited(death));
    world.run(seconds(30));
    assert!(world.problem().contains("start failed"), "{}", world.problem());
    let begun = world.log.iter().filter(|(_, word)| word == "start").count();
    assert!((3..20).contains(&begun), "with pauses: {begun}");
}

#[test]
fn a_refused_setting_is_left_out_and_the_keeper_goes_on() {
    let mut cluster = asked(Role::Primary, Init::None);
    let parameters = [("work_mem".to_owned(), "4MB".to_owned())];
    ours(&mut cluster).spec.pg_parameters = Some(Arc::new(parameters.into_iter().collect()));
    let mut world = World::with(cluster, DataKind::Primary);
    world.postgres.rejected = vec![RejectedSetting {
        name: "work_mem".into(),
        value: "4MB".into(),
        message: "not today".into(),
        instead: None,
        origin: Origin::Parameters,
    }];
    world.run(seconds(10));
    assert_eq!(world.reported(), (true, 3));
    let in_force = world.postgres.in_force.as_ref().unwrap();
    assert_eq!(in_force.parameters.get("work_mem"), None);
    let problems = world.report().activity.clone().unwrap().parameter_problems.unwrap();
    assert!(problems[0].contains("not today"), "{problems:?}");
    world.run(seconds(40));
    let in_force = world.postgres.in_force.as_ref().unwrap();
    assert_eq!(in_force.parameters.get("work_mem").map(String::as_str), Some("4MB"), "asked about again");
}

#[test]
fn a_disk_that_is_full_here_makes_room_and_one_at_the_source_does_not() {
    for (kind, old_data) in [
        (FailureKind::DiskFullHere, OldData::DeleteFirst),
        (FailureKind::DiskFullAtSource, OldData::KeepUntilCopied),
    ] {
        let local = LocalState { uid: "old".into(), generation: 2, ..LocalState::default() };
        let mut world = World::new(asked(Role::Standby, Init::Resync), local, present(DataKind::Primary));
        world.postgres.failures.insert("copy".into(), kind);
        world.run(seconds(150));
        let asked = world.sayings.iter().rev().find_map(|saying| match saying {
            Saying::Begins(step) => match &**step {
                Step::BaseBackup { old_data, .. } => Some(*old_data),
                _ => None,
            },
            _ => None,
        });
        assert_eq!(asked, Some(old_data));
    }
}

#[test]
fn parameters_that_change_are_announced_each_time() {
    let mut world = serving(asked(Role::Primary, Init::None));
    let changed = |world: &World| {
        let is_it =
            |saying: &&Saying| matches!(saying, Saying::Reason { reason: Reason::ParametersChanged, .. });
        world.sayings.iter().filter(is_it).count()
    };
    let not_changed =
        |world: &World| world.sayings.iter().filter(|saying| **saying == Saying::NothingChanged).count();
    let (before, unchanged) = (changed(&world), not_changed(&world));
    for (number, value) in ["1MB", "2MB", "3MB"].into_iter().enumerate() {
        world.change(|cluster| {
            let ours = ours(cluster);
            ours.spec.pg_parameters =
                Some(Arc::new([("work_mem".to_owned(), value.to_owned())].into_iter().collect()));
            ours.generation += 1;
        });
        world.run(Duration::from_millis(50));
        assert_eq!(changed(&world), before + number + 1, "{value}");
    }
    world.change(|cluster| ours(cluster).generation += 1);
    world.run(seconds(1));
    assert_eq!(not_changed(&world), unchanged + 1);
}

#[test]
fn a_namesake_that_wrote_last_ends_a_keeper_without_an_instance() {
    for (local, ends) in [
        (LocalState::default(), true),
        (LocalState { uid: "us".into(), generation: 2, ..LocalState::default() }, false),
    ] {
        let mut world = World::new(cluster(), local, Data::Absent);
        let mut other = KeeperReport::default();
        other.boot_uuid = "another".into();
        world.namesake = Some(other);
        world.run(seconds(20));
        assert_eq!(world.exit.is_some(), ends, "{:?}", world.exit);
        assert_eq!(world.reports.len() == 1, ends, "before the second report");
    }
}

#[test]
fn a_stopped_keeper_calls_off_what_is_under_way_and_asks_for_nothing_more() {
    let mut world = World::new(asked(Role::Standby, Init::Resync), LocalState::default(), Data::Absent);
    world.run(seconds(10));
    world.tell(Event::StopRequested);
    assert!(world.steps_since(0).ends_with("called-off"), "{:?}", world.log);
    let mark = world.mark();
    world.run(seconds(60));
    assert_eq!(world.steps_since(mark), "");
}
