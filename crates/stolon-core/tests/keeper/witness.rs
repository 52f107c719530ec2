//! A keeper as a witness of its primary's end, and as the one that is challenged (docs/design/008-evidence.md).

use std::time::Duration;

use stolon_core::keeper::*;
use stolon_model::{Access, Challenge, ChallengeUid, Finding, InstanceInitMode as Init, Role};

use crate::given::*;
use crate::world::{World, seconds, serving};

const MOMENT: Duration = Duration::from_millis(20);

/// A standby that streams from `pp`, in process 77.
fn streaming() -> World {
    let mut world = World::with(asked(Role::Standby, Init::None), DataKind::Standby);
    world.postgres_mut().receiver_process = Some(77);
    world.run(seconds(20));
    assert_eq!((world.reported(), world.watched.as_slice()), ((true, 3), &[77][..]));
    assert_eq!((world.knocks, finding(&world)), (0, None), "nothing is asked of a primary that is well");
    world
}

fn finding(world: &World) -> Option<Finding> {
    world.report().activity.as_ref()?.witness.as_ref().expect("this keeper answers").finding.clone()
}

fn access(world: &World) -> Option<Access> {
    finding(world)?.access
}

/// The primary ends: so does the receiver.
fn lose_primary(world: &mut World, knocked: Knocked) {
    world.knocked = knocked;
    {
        let mut postgres = world.postgres_mut();
        (postgres.receiver, postgres.receiver_process) = (WalReceiver::Absent(None), None);
        postgres.lsn += 100;
    }
    world.tell(Event::ReceiverEnded { process: 77 });
}

fn challenge(world: &mut World, uid: &str, instance: &str) {
    let challenge = Challenge { uid: uid.into(), instance: instance.into() };
    world.change(|cluster| cluster.cluster.status.challenge = Some(challenge));
}

#[test]
fn a_refused_connection_is_reported_at_once_with_the_position_at_the_end() {
    let mut world = streaming();
    let (lsn, reports) = (world.postgres().lsn, world.reports.len());
    let looks = world.looks;
    lose_primary(&mut world, Knocked::Refused);
    world.run(MOMENT);
    assert!(world.looks - looks <= 2, "one, and one that was under way");
    let found = finding(&world).expect("a finding");
    assert_eq!(
        (found.instance.as_str(), found.listen_address.as_str(), found.port.as_str()),
        ("pp", "10.0.0.2", "5432")
    );
    assert_eq!((found.access, found.challenge), (Some(Access::Refused), ChallengeUid::default()));
    assert_eq!(world.report().postgres_state.as_ref().unwrap().lsn.0, lsn + 100);
    let early = world.reports[reports..].iter().any(|report| {
        let found = report.activity.as_ref().unwrap().witness.as_ref().unwrap().finding.is_some();
        found && report.postgres_state.as_ref().unwrap().lsn.0 == lsn
    });
    assert!(!early, "not before the position is final");
    assert!(world.sayings.iter().any(|saying| matches!(saying, Saying::UpstreamRefuses(_))));
}

#[test]
fn what_is_no_refusal_is_not_reported_and_is_asked_less_and_less() {
    for knocked in [Knocked::Unanswered, Knocked::Accepted] {
        let mut world = streaming();
        lose_primary(&mut world, knocked);
        world.run(seconds(2));
        assert_eq!(finding(&world), None, "{knocked:?}");
        let soon = world.knocks;
        assert!((10..=25).contains(&soon), "{soon}");
        world.run(seconds(60));
        assert!((10..=14).contains(&(world.knocks - soon)), "once in a sleep interval: {}", world.knocks);
    }
}

#[test]
fn a_refusal_is_taken_back_when_somebody_listens_again() {
    let mut world = streaming();
    lose_primary(&mut world, Knocked::Refused);
    world.run(seconds(1));
    assert_eq!(access(&world), Some(Access::Refused));
    world.knocked = Knocked::Accepted;
    world.run(Duration::from_millis(200));
    assert_eq!(finding(&world), None);
    {
        let mut postgres = world.postgres_mut();
        (postgres.receiver, postgres.receiver_process) = (WalReceiver::Streaming, Some(78));
    }
    world.run(seconds(6));
    let knocks = world.knocks;
    world.run(seconds(30));
    assert_eq!((world.knocks, world.watched.as_slice()), (knocks, &[77, 78][..]));
    world.tell(Event::ReceiverEnded { process: 77 });
    world.run(MOMENT);
    assert_eq!(world.knocks, knocks, "that one is long gone");
}

#[test]
fn a_challenge_of_the_primary_is_answered_by_what_is_found_for_it() {
    let mut world = streaming();
    lose_primary(&mut world, Knocked::Refused);
    world.run(seconds(10));
    challenge(&mut world, "c1", "pp");
    world.run(MOMENT);
    let found = finding(&world).unwrap();
    assert_eq!((found.challenge.as_str(), found.access), ("c1", Some(Access::Refused)));
    world.knocked = Knocked::Accepted;
    world.run(Duration::from_millis(200));
    assert_eq!(access(&world), Some(Access::Accepted), "who asks is told");
    world.change(|cluster| cluster.cluster.status.challenge = None);
    world.run(seconds(6));
    assert_eq!(finding(&world), None);
    // One that is let in says so although its receiver lives.
    let mut world = streaming();
    challenge(&mut world, "c2", "pp");
    world.run(MOMENT);
    assert_eq!(access(&world), Some(Access::Accepted));
    // One that still streams and is refused says nothing: its position is not final.
    let mut world = streaming();
    world.knocked = Knocked::Refused;
    challenge(&mut world, "c3", "pp");
    world.run(seconds(1));
    assert_eq!(finding(&world), None);
}

#[test]
fn whoever_is_challenged_answers_at_once_whatever_is_under_way() {
    let answers = |world: &World| {
        let witness = world.report().activity.as_ref().unwrap().witness.clone();
        witness.unwrap().answers.as_str().to_owned()
    };
    let mut world = serving(asked(Role::Primary, Init::None));
    challenge(&mut world, "c1", "pp");
    world.run(MOMENT);
    assert_eq!(answers(&world), "", "another one is asked");
    challenge(&mut world, "c2", "us");
    world.run(MOMENT);
    assert_eq!(answers(&world), "c2");
    // PostgreSQL has died, and does not come up.
    world.ready_takes = seconds(20);
    world.server_dies();
    world.run(seconds(1));
    challenge(&mut world, "c3", "us");
    world.run(MOMENT);
    assert_eq!(answers(&world), "c3", "it need not wait for its own server: {:?}", world.log);
}
