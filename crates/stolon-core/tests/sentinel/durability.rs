//! The promise of synchronous mode, against a model that knows what was acknowledged: whoever may be elected holds it all.

use std::collections::BTreeMap;

use proptest::prelude::*;
use stolon_model::*;

use crate::world::*;

/// What happens between two rounds.
#[derive(Clone, Debug)]
struct Step {
    /// The primary writes so much.
    written: u64,
    /// Each standby receives so much of what it lacks.
    received: Vec<u64>,
    /// Standbys that stream: PostgreSQL shows those in sync that the primary waits for, however far behind.
    streaming: Vec<usize>,
    /// Standbys whose keeper is cut off, whatever their PostgreSQL does.
    cut_off: Vec<usize>,
    /// The primary's keeper applies what is asked of it.
    applies: bool,
    /// `maxSynchronousStandbys`.
    maximum: u16,
    milliseconds: u64,
}

fn step() -> impl Strategy<Value = Step> {
    let some = || proptest::sample::subsequence(vec![2, 3, 4], 0..=3);
    let received = proptest::collection::vec(prop_oneof![Just(0u64), 0u64..50, Just(1000u64)], 3);
    let cut_off = prop_oneof![3 => Just(Vec::new()), 1 => some()];
    let streaming = prop_oneof![3 => Just(vec![2, 3, 4]), 1 => some()];
    (0u64..100, received, streaming, cut_off, proptest::bool::weighted(0.8), 1u16..3, 100u64..1500).prop_map(
        |(written, received, streaming, cut_off, applies, maximum, milliseconds)| Step {
            written,
            received,
            streaming,
            cut_off,
            applies,
            maximum,
            milliseconds,
        },
    )
}

/// What is really so, whatever the document says.
struct Truth {
    lsns: BTreeMap<usize, u64>,
    /// Whom the primary's PostgreSQL waits for; none: it waits for ever.
    waits_for: Option<Vec<usize>>,
    /// Everything up to here was acknowledged to a client.
    acknowledged: u64,
}

impl Truth {
    fn lsn(&self, number: usize) -> u64 {
        self.lsns[&number]
    }

    fn happen(&mut self, step: &Step, world: &mut World) {
        let primary = world.db(1);
        if step.applies {
            primary.status.current_generation = primary.generation;
            let blocked = primary.spec.external_synchronous_standbys.iter().flatten().next().is_some();
            let listed = primary.spec.synchronous_standbys.iter().flatten();
            self.waits_for = (!blocked).then(|| listed.map(number_of).collect());
        }
        let written = self.lsn(1) + step.written;
        self.lsns.insert(1, written);
        for (number, received) in (2..).zip(&step.received) {
            if step.streaming.contains(&number) {
                let lsn = (self.lsn(number) + received).min(written);
                self.lsns.insert(number, lsn);
            }
        }
        if let Some(waits_for) = &self.waits_for {
            let everywhere = waits_for.iter().map(|number| self.lsn(*number)).min().unwrap_or(written);
            self.acknowledged = self.acknowledged.max(everywhere);
        }
    }

    /// What keepers report of it.
    fn report(&self, step: &Step, world: &mut World) {
        for number in 2..=4 {
            if step.cut_off.contains(&number) {
                world.silence_keeper(number);
            } else {
                world.silent.remove(&keeper_uid(number));
                let lsn = self.lsn(number);
                let standby = world.db(number);
                standby.status.lsn = Lsn(lsn);
                standby.status.current_generation = standby.generation;
            }
        }
        world.db(1).status.lsn = Lsn(self.lsn(1));
        let waits_for = self.waits_for.iter().flatten();
        let shown: Vec<_> = waits_for.filter(|number| step.streaming.contains(number)).copied().collect();
        world.in_sync.insert(uid(1), uids(&shown).unwrap());
    }
}

fn number_of(uid: &InstanceUid) -> usize {
    uid.as_str().trim_start_matches("db").parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whoever_may_be_elected_holds_everything_acknowledged(steps in proptest::collection::vec(step(), 5..60)) {
        let mut world = World::normal(4, 4);
        world.data.cluster.spec.synchronous_replication = Some(true);
        let lsns = (1..=4).map(|number| (number, 1000)).collect();
        let mut truth = Truth { lsns, waits_for: Some(Vec::new()), acknowledged: 1000 };
        for step in &steps {
            truth.happen(step, &mut world);
            truth.report(step, &mut world);
            world.data.cluster.spec.max_synchronous_standbys = Some(step.maximum);
            world.later(step.milliseconds).round();
            let primary = world.db(1).clone();
            prop_assert_eq!(world.data.cluster.status.primary.clone(), Some(uid(1)));
            let known: Vec<_> = primary.status.synchronous_standbys.iter().flatten().collect();
            for electable in primary.spec.synchronous_standbys.iter().flatten().filter(|uid| known.contains(uid)) {
                let lsn = truth.lsn(number_of(electable));
                prop_assert!(
                    lsn >= truth.acknowledged,
                    "{} is at {} and may be elected, but {} was acknowledged", electable, lsn, truth.acknowledged
                );
            }
        }
    }
}
