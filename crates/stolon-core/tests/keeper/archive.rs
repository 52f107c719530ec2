//! What a server had yet to archive, before its data are rewound or replaced; and an archive that takes nothing while it runs.

use std::time::Duration;

use stolon_core::keeper::*;
use stolon_model::{ArchiverFault, InstanceInitMode as Init, InstanceUid, Role, Timestamp};

use crate::given::*;
use crate::world::{World, seconds, serving};

/// Where the archive comes in, among the steps that look at the source and the first one that writes something down.
fn position(source_system: &str, rewinds: bool, change: impl FnOnce(&mut Observation)) -> Option<usize> {
    let mut cluster = asked(Role::Standby, Init::Resync);
    ours(&mut cluster).spec.use_pg_rewind = rewinds;
    let mut seen = here(DataKind::Primary);
    seen.local.uid = "old".into();
    change(&mut seen);
    if !source_system.is_empty() {
        cluster.instances.get_mut(&"pp".into()).unwrap().status.system_identifier = source_system.into();
    }
    let steps = plan(&goal(&cluster), &seen).steps;
    let marked = steps.iter().position(|step| matches!(step, Step::MarkInitializing(_))).unwrap();
    let archived = steps.iter().position(|step| *step == Step::Archive);
    assert!(archived.is_none_or(|at| at < marked && steps[at - 1] != Step::Stop), "{steps:?}");
    archived
}

#[test]
fn what_a_server_of_ours_had_left_is_archived_before_its_data_are_touched() {
    for rewinds in [true, false] {
        assert!(position("", rewinds, |_| ()).is_some(), "{rewinds}");
        let half_made = |seen: &mut Observation| seen.local.initializing = true;
        assert_eq!(position("", rewinds, half_made), None, "it may hold what its source has yet to archive");
        let nobodys = |seen: &mut Observation| seen.local.uid = InstanceUid::default();
        assert_eq!(position("", rewinds, nobodys), None);
        assert_eq!(position("another", rewinds, |_| ()), None, "another cluster has an archive of its own");
    }
}

fn failing(seconds: u64) -> Archiver {
    Archiver {
        failures: 3,
        last_failed: "000000010000000000000001".into(),
        last_run: LastRun::Failed,
        last_archived_at: None,
        backlog: Some(Backlog {
            files: 2,
            first: "000000010000000000000001".into(),
            since: Timestamp::default(),
            age: Duration::from_secs(seconds),
        }),
    }
}

#[test]
fn an_archive_that_takes_nothing_is_reported_and_said_once_and_nothing_is_done_about_it() {
    let mut world = serving(asked(Role::Primary, Init::None));
    let mark = world.mark();
    let fault = |world: &World| {
        let archiver = world.report().activity.clone().unwrap().archiver;
        archiver.map(|archiver| (archiver.fault, archiver.waiting_files))
    };
    assert_eq!(fault(&world), None, "it archives nothing");
    for (archiver, expected) in [
        (failing(5), (None, 2)),
        (failing(60), (Some(ArchiverFault::Fails), 2)),
        (failing(120), (Some(ArchiverFault::Fails), 2)),
        (Archiver { backlog: None, last_run: LastRun::Succeeded, ..failing(0) }, (None, 0)),
    ] {
        world.postgres_mut().archiver = Some(archiver);
        world.run(seconds(15));
        assert_eq!(fault(&world), Some(expected));
        assert_eq!(world.reported(), (true, 3));
    }
    let said = world.sayings.iter();
    let said: Vec<&Saying> =
        said.filter(|it| matches!(it, Saying::ArchiverTrouble(_) | Saying::ArchiverWorksAgain)).collect();
    assert!(matches!(said[..], [Saying::ArchiverTrouble(_), Saying::ArchiverWorksAgain]), "{said:?}");
    let steps = world.steps_since(mark);
    assert!(
        steps.split(' ').all(|step| ["read", "slots"].contains(&step)),
        "PostgreSQL is left alone: {steps}"
    );
}
