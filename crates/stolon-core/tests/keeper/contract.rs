//! The contract between a keeper's machine and the program around it.

use std::sync::Arc;
use std::time::Duration;

use stolon_core::keeper::*;
use stolon_model::{GoDuration, InstanceInitMode as Init, Role, UsableCluster};

use crate::given::*;

fn machine() -> Machine {
    Machine::new(Beginning { predecessor: Predecessor::None, ..beginning(LocalState::default()) })
}

fn look() -> Event {
    Event::Looked(Box::new(Look {
        version: Ok(V15),
        data: Data::Absent,
        server: ServerLook::Stopped,
        control: ControlLook::NotRead,
        ended: None,
        checkpoint: None,
        slots_on_disk: Default::default(),
        room: Room::default(),
        alter_system: AlterSystem::Refused,
    }))
}

fn steps(effects: &[Effect]) -> Vec<&Step> {
    let step = |effect| match effect {
        &Effect::Take { ref step, .. } => Some(&**step),
        _ => None,
    };
    effects.iter().filter_map(step).collect()
}

#[test]
fn a_reading_of_the_cluster_data_begins_no_second_step() {
    let mut machine = machine();
    let cluster = UsableCluster::try_from(asked(Role::Standby, Init::Resync)).unwrap();
    let mut now = Duration::from_secs(1000);
    let read = || Event::ClusterRead {
        read: ClusterRead::Usable(Arc::new(cluster.clone())),
        as_of: Duration::from_secs(1000),
    };
    let mut begun = Vec::new();
    for event in [Event::Started(Found::Nothing), read(), look(), read(), read(), look(), read()] {
        now += Duration::from_millis(10);
        let effects = machine.handle(now, event);
        begun.extend(steps(&effects).into_iter().cloned());
    }
    assert_eq!(begun, [Step::Stop], "its end was not told, so that nothing else may begin");
    let effects = machine.handle(now, Event::StepEnded(StepOutcome::DONE));
    assert!(matches!(steps(&effects)[..], [Step::ExamineSource { .. }]), "{effects:?}");
}

/// An operator who raises `requestTimeout` while something takes too long need not restart the keepers.
#[test]
fn the_time_that_a_step_gets_is_that_of_the_last_reading() {
    let mut machine = machine();
    let mut now = Duration::from_secs(1000);
    let read = |timeout, as_of| {
        let mut cluster = asked(Role::Standby, Init::Resync);
        cluster.cluster.spec.request_timeout = Some(GoDuration::from_seconds(timeout));
        let cluster = UsableCluster::try_from(cluster).unwrap();
        Event::ClusterRead { read: ClusterRead::Usable(Arc::new(cluster)), as_of }
    };
    let mut given = Vec::new();
    for event in [
        Event::Started(Found::Nothing),
        read(7, now),
        look(),
        read(45, now),
        Event::StepEnded(StepOutcome::DONE),
    ] {
        now += Duration::from_millis(10);
        given.extend(machine.handle(now, event).into_iter().filter_map(|effect| match effect {
            Effect::Take { request_timeout, .. } => Some(request_timeout.as_secs()),
            _ => None,
        }));
    }
    assert_eq!(given, [7, 45]);
}
