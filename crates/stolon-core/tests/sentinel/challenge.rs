//! Failures that are decided on evidence: refused connections and unanswered challenges (docs/design/008-evidence.md).

use std::collections::BTreeMap;
use std::time::Duration;

use stolon_core::sentinel::{Change, Decision, Hold, KeeperFault, PrimaryFault};
use stolon_model::*;

use crate::world::*;

type Reports = BTreeMap<KeeperUid, KeeperReport>;

const REFUSED: Option<Access> = Some(Access::Refused);
const ACCEPTED: Option<Access> = Some(Access::Accepted);

/// The last words of the primary's keeper, and what those of the standbys go on to say.
struct Scene {
    world: World,
    last_words: KeeperReport,
}

impl Scene {
    /// All keepers have reported, and know of challenges.
    fn of(mut world: World) -> Scene {
        for number in 1..=world.data.instances.len() {
            let status = &mut world.db(number).status;
            (status.listen_address, status.port) = (format!("10.0.0.{number}"), "5432".into());
        }
        let mut scene = Scene { world, last_words: KeeperReport::default() };
        for _ in 0..2 {
            let reports = scene.reports(&[]);
            scene.last_words = reports[&keeper_uid(1)].clone();
            let decision = scene.world.later(100).round_on(&reports);
            assert_eq!(scene.challenge(), None, "{:?}", decision.holds);
        }
        scene
    }

    /// New reports of all keepers, in which those of standbys say what they found.
    fn reports(&mut self, findings: &[(usize, ChallengeUid, Option<Access>)]) -> Reports {
        let mut reports = self.world.current_reports();
        for report in reports.values_mut() {
            report.activity.as_mut().unwrap().witness = Some(WitnessReport::default());
        }
        for (number, challenge, access) in findings {
            let finding = Finding {
                instance: uid(1),
                listen_address: "10.0.0.1".into(),
                port: "5432".into(),
                challenge: challenge.clone(),
                access: access.clone(),
            };
            witness(&mut reports, *number).finding = Some(finding);
        }
        reports
    }

    /// The keeper of the primary says nothing new; the others do.
    fn without_answer(&mut self, findings: &[(usize, ChallengeUid, Option<Access>)]) -> Reports {
        let last = self.last_words.clone();
        let mut reports = self.reports(findings);
        reports.insert(keeper_uid(1), last);
        reports
    }

    fn challenge(&self) -> Option<Challenge> {
        self.world.data.cluster.status.challenge.clone()
    }

    fn uid(&self) -> ChallengeUid {
        self.challenge().expect("a challenge").uid
    }

    /// The keepers of these standbys are refused, for no challenge yet.
    fn refuse(&mut self, standbys: &[usize]) -> Decision {
        let findings: Vec<_> =
            standbys.iter().map(|number| (*number, ChallengeUid::default(), REFUSED)).collect();
        let reports = self.without_answer(&findings);
        self.world.later(100).round_on(&reports)
    }

    /// So much later, without an answer, standbys have found that for the challenge.
    fn find(&mut self, later: u64, findings: &[(usize, Option<Access>)]) -> Decision {
        let uid = self.uid();
        let findings: Vec<_> =
            findings.iter().map(|(number, access)| (*number, uid.clone(), access.clone())).collect();
        let reports = self.without_answer(&findings);
        self.world.later(later).round_on(&reports)
    }
}

fn witness(reports: &mut Reports, number: usize) -> &mut WitnessReport {
    let report = reports.get_mut(&keeper_uid(number)).unwrap();
    report.activity.as_mut().unwrap().witness.get_or_insert_default()
}

fn elected_because(decision: &Decision) -> Option<PrimaryFault> {
    decision.changes.iter().find_map(|change| match change {
        Change::PrimaryElected { because, .. } => Some(because.clone()),
        _ => None,
    })
}

fn has_failed(decision: &Decision) -> bool {
    let is_failure =
        |change: &Change| matches!(change, Change::KeeperFailed { because: KeeperFault::Refused { .. }, .. });
    decision.changes.iter().any(is_failure)
}

#[test]
fn a_keeper_that_does_not_answer_while_its_server_refuses_has_failed_within_a_second() {
    let mut scene = Scene::of(World::synchronous(2, &[2], &[2]));
    let decision = scene.refuse(&[2]);
    assert_eq!(scene.challenge().map(|challenge| challenge.instance), Some(uid(1)));
    let is_challenge = |hold: &&Hold| matches!(hold, Hold::Challenged { .. });
    let said = decision.holds.iter().find(is_challenge).cloned().expect("it is said");
    let nobody = Hold::Challenged { keeper: keeper_uid(1), refused: Vec::new() };
    assert!(said != nobody && said.is_same_as(&nobody), "and not again with each finding");
    // Found in the store.
    let decision = scene.find(10, &[(2, REFUSED)]);
    let due = decision.wake_at.expect("a verdict to come");
    assert_eq!(due - scene.world.now, Duration::from_millis(1001));
    let decision = scene.find(1000, &[(2, REFUSED)]);
    assert_eq!(elected_because(&decision), None, "the last moment belongs to the limit");
    let decision = scene.find(1, &[(2, REFUSED)]);
    let Some(because @ PrimaryFault::KeeperRefused { .. }) = elected_because(&decision) else {
        panic!("{:?}", decision.changes);
    };
    assert_eq!(
        because.to_string(),
        "keeper keeper1 has failed: no answer to a challenge within 1.0s, and its PostgreSQL refuses connections of keeper2"
    );
    assert!(has_failed(&decision));
    assert_eq!(scene.challenge(), None, "it is over");
    assert_eq!(scene.world.data.cluster.status.primary, Some(uid(2)));
}

/// What happens in the second after the challenge, and whether the keeper has failed then.
#[test]
fn a_challenge_proves_nothing_unless_all_of_it_holds() {
    type Row = (&'static str, fn(&mut Scene, ChallengeUid) -> Reports, bool);
    let rows: [Row; 8] = [
        ("refused", |scene, uid| scene.without_answer(&[(2, uid.clone(), REFUSED), (3, uid, REFUSED)]), true),
        ("one is enough", |scene, uid| scene.without_answer(&[(2, uid, REFUSED)]), true),
        ("an answer", |scene, uid| scene.reports(&[(2, uid.clone(), REFUSED), (3, uid, REFUSED)]), false),
        ("nobody is refused any more", |scene, _| scene.without_answer(&[]), false),
        ("found before the challenge", |scene, _| scene.without_answer(&[(2, "old".into(), REFUSED)]), false),
        (
            "another one is let in",
            |scene, uid| scene.without_answer(&[(2, uid.clone(), REFUSED), (3, uid, ACCEPTED)]),
            false,
        ),
        (
            "at another address",
            |scene, uid| {
                let mut reports = scene.without_answer(&[(2, uid, REFUSED)]);
                witness(&mut reports, 2).finding.as_mut().unwrap().port = "5433".into();
                reports
            },
            false,
        ),
        (
            "of another instance",
            |scene, uid| {
                let mut reports = scene.without_answer(&[(2, uid, REFUSED)]);
                witness(&mut reports, 2).finding.as_mut().unwrap().instance = "db3".into();
                reports
            },
            false,
        ),
    ];
    for (name, says, fails) in rows {
        let mut scene = Scene::of(World::synchronous(3, &[2], &[2]));
        scene.refuse(&[2]);
        let uid = scene.uid();
        let reports = says(&mut scene, uid.clone());
        scene.world.later(10).round_on(&reports);
        let reports = match scene.challenge() {
            Some(_) => says(&mut scene, uid),
            None => scene.without_answer(&[]),
        };
        let decision = scene.world.later(1001).round_on(&reports);
        assert_eq!(elected_because(&decision).is_some(), fails, "{name}: {:?}", texts(&decision.changes));
        assert_eq!(scene.challenge(), None, "{name}");
    }
}

#[test]
fn a_refusal_counts_at_the_port_of_the_primary_only_and_keepers_of_stolon_are_not_challenged() {
    type Row = (&'static str, fn(&mut Reports), bool);
    let rows: [Row; 4] = [
        ("as it is", |_| (), true),
        (
            "a keeper that does not answer",
            |reports| reports.get_mut(&keeper_uid(1)).unwrap().activity.as_mut().unwrap().witness = None,
            false,
        ),
        ("a keeper of Stolon", |reports| reports.get_mut(&keeper_uid(1)).unwrap().activity = None, false),
        (
            "another address",
            |reports| witness(reports, 2).finding.as_mut().unwrap().listen_address = "10.0.0.7".into(),
            false,
        ),
    ];
    for (name, change, is_challenged) in rows {
        let mut scene = Scene::of(World::normal(2, 2));
        let mut reports = scene.reports(&[(2, ChallengeUid::default(), REFUSED)]);
        change(&mut reports);
        scene.world.later(100).round_on(&reports);
        assert_eq!(scene.challenge().is_some(), is_challenged, "{name}");
    }
}

#[test]
fn a_slow_store_leaves_more_time() {
    let mut scene = Scene::of(World::synchronous(2, &[2], &[2]));
    scene.world.usual_delay = Duration::from_millis(300);
    scene.refuse(&[2]);
    scene.find(10, &[(2, REFUSED)]);
    assert_eq!(elected_because(&scene.find(2200, &[(2, REFUSED)])), None);
    assert!(elected_because(&scene.find(1, &[(2, REFUSED)])).is_some());
}

#[test]
fn what_nobody_could_hear_is_no_evidence() {
    let mut scene = Scene::of(World::synchronous(2, &[2], &[2]));
    scene.refuse(&[2]);
    scene.find(10, &[(2, REFUSED)]);
    let before = scene.uid();
    // The store was silent for longer than silence is judged.
    let decision = scene.find(16_000, &[(2, REFUSED)]);
    assert_eq!(elected_because(&decision), None);
    assert_ne!(scene.challenge().map(|challenge| challenge.uid), Some(before), "it is void");
}

#[test]
fn two_sentinels_prove_nothing_to_each_other() {
    let mut scene = Scene::of(World::synchronous(2, &[2], &[2]));
    scene.refuse(&[2]);
    scene.find(10, &[(2, REFUSED)]);
    let other = Challenge { uid: "other".into(), instance: uid(1) };
    scene.world.data.cluster.status.challenge = Some(other);
    let decision = scene.find(1001, &[(2, REFUSED)]);
    assert_eq!((elected_because(&decision), scene.challenge()), (None, None));
    scene.refuse(&[2]);
    assert_eq!(scene.challenge(), None, "nobody writes again and again");
}

#[test]
fn a_server_that_is_down_under_a_keeper_that_lives_is_one_challenge() {
    let mut scene = Scene::of(World::synchronous(2, &[2], &[2]));
    scene.refuse(&[2]);
    let uid = scene.uid();
    for _ in 0..20 {
        let reports = scene.reports(&[(2, uid.clone(), REFUSED)]);
        scene.world.later(1000).round_on(&reports);
        assert_eq!(scene.challenge(), None);
    }
    // Then it misses a report: sleepInterval is 5 s.
    let last = scene.world.current_reports();
    scene.last_words = last[&keeper_uid(1)].clone();
    scene.last_words.activity.as_mut().unwrap().witness = Some(WitnessReport::default());
    scene.refuse(&[2]);
    scene.world.later(4900);
    scene.refuse(&[2]);
    assert_eq!(scene.challenge(), None, "not yet missed");
    scene.refuse(&[2]);
    assert!(scene.challenge().is_some());
}

#[test]
fn in_asynchronous_mode_proxies_close_first_and_the_verdict_stands_until_the_keeper_reports() {
    let mut scene = Scene::of(World::normal(2, 2).given(|world| world.proxy("p1", 1)));
    scene.refuse(&[2]);
    scene.find(10, &[(2, REFUSED)]);
    let decision = scene.find(1001, &[(2, REFUSED)]);
    assert!(has_failed(&decision) && elected_because(&decision).is_none(), "{:?}", texts(&decision.changes));
    assert_eq!(scene.world.data.proxy.spec.primary, None);
    // Nobody is refused any more, nor asked; the verdict stands.
    let reports = scene.without_answer(&[]);
    scene.world.later(500).round_on(&reports);
    assert!(!scene.world.keeper(1).status.healthy);
    // The keeper was frozen, and goes on.
    let mut late = scene.without_answer(&[]);
    late.insert(keeper_uid(1), scene.reports(&[])[&keeper_uid(1)].clone());
    let decision = scene.world.later(100).round_on(&late);
    assert_eq!(elected_because(&decision), None);
    assert!(scene.world.keeper(1).status.healthy, "an answer lifts the verdict");
    // And is gone for good.
    let mut scene = Scene::of(World::normal(2, 2).given(|world| world.proxy("p1", 1)));
    scene.refuse(&[2]);
    scene.find(10, &[(2, REFUSED)]);
    scene.find(1001, &[(2, REFUSED)]);
    let generation = scene.world.data.proxy.generation;
    scene.world.proxy("p1", generation);
    let reports = scene.without_answer(&[]);
    let decision = scene.world.later(100).round_on(&reports);
    assert!(matches!(elected_because(&decision), Some(PrimaryFault::KeeperRefused { .. })));
    let reports = scene.without_answer(&[]);
    scene.world.later(100).round_on(&reports);
    assert!(!scene.world.keeper(1).status.healthy, "after the election, too");
}

/// Standbys are refused at its port because it was asked to stop. When nothing is heard of its keeper any more there is reason again.
#[test]
fn a_primary_that_was_stopped_for_another_one_is_challenged_only_when_its_keeper_is_silent() {
    let mut scene = Scene::of(World::normal(2, 2));
    let sleep = scene.world.data.cluster.spec.effective().sleep_interval;
    let stopping = Switchover {
        uid: "s1".to_owned(),
        from: Some(uid(1)),
        successor: Some(uid(2)),
        stage: Some(SwitchoverStage::Stopping),
        made_for: wall(scene.world.wall_seconds),
        timeout: GoDuration::from_seconds(60),
        ..Switchover::default()
    };
    scene.world.data.cluster.status.switchover = Some(stopping.clone());
    scene.refuse(&[2]);
    assert_eq!(scene.world.data.cluster.status.switchover, Some(stopping), "it goes on");
    assert_eq!(scene.challenge(), None);
    scene.world.later(sleep.as_millis() as u64);
    scene.refuse(&[2]);
    assert_eq!(scene.challenge().map(|challenge| challenge.instance), Some(uid(1)));
}
