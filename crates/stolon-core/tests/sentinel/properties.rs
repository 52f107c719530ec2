//! What holds for any cluster, however odd.

use proptest::prelude::*;
use stolon_core::sentinel::violations;
use stolon_model::*;

use crate::world::*;

#[derive(Clone, Debug)]
struct Odd {
    synchronous: bool,
    wanted_synchronous: bool,
    listed: Vec<usize>,
    known: Vec<usize>,
    in_sync: Vec<usize>,
    broken: Vec<usize>,
    silent: Vec<usize>,
    lsns: Vec<u64>,
    generations: Vec<i64>,
    timelines: Vec<u64>,
    minimum: u16,
    standbys: u16,
    forced: Option<usize>,
    open: bool,
    acknowledged: bool,
}

fn numbers() -> impl Strategy<Value = Vec<usize>> {
    proptest::sample::subsequence(vec![2, 3, 4], 0..=3)
}

fn odd() -> impl Strategy<Value = Odd> {
    let lists = (numbers(), numbers(), numbers());
    let state = (
        proptest::sample::subsequence(vec![1, 2, 3, 4], 0..=4),
        proptest::sample::subsequence(vec![1, 2, 3, 4], 0..=2),
        proptest::collection::vec(prop_oneof![Just(0u64), 1000u64..3_000_000], 4),
        proptest::collection::vec(0i64..4, 4),
        proptest::collection::vec(1u64..3, 4),
    );
    let rest = (any::<(bool, bool, bool, bool)>(), 0u16..3, 1u16..4, proptest::option::of(1usize..5));
    (lists, state, rest).prop_map(
        |((listed, known, in_sync), (broken, silent, lsns, generations, timelines), rest)| {
            let ((synchronous, wanted_synchronous, open, acknowledged), minimum, standbys, forced) = rest;
            Odd {
                synchronous,
                wanted_synchronous,
                listed,
                known,
                in_sync,
                broken,
                silent,
                lsns,
                generations,
                timelines,
                minimum,
                standbys,
                forced,
                open,
                acknowledged,
            }
        },
    )
}

fn world(odd: &Odd) -> World {
    let base = match odd.synchronous {
        true => World::synchronous(4, &odd.listed, &odd.known),
        false => World::normal(4, 4),
    };
    base.given(|world| {
        let spec = &mut world.data.cluster.spec;
        spec.synchronous_replication = Some(odd.wanted_synchronous);
        spec.min_synchronous_standbys = Some(odd.minimum);
        spec.max_synchronous_standbys = Some(odd.minimum.max(1) + 1);
        spec.max_standbys_per_sender = Some(odd.standbys);
        world.in_sync.insert(uid(1), uids(&odd.in_sync).unwrap());
        for number in 1..=4 {
            let instance = world.db(number);
            instance.status.lsn = Lsn(odd.lsns[number - 1]);
            instance.status.timeline = Timeline(odd.timelines[number - 1]);
            instance.generation = 2;
            instance.status.current_generation = odd.generations[number - 1];
        }
        odd.broken.iter().for_each(|number| world.break_db(*number));
        odd.silent.iter().for_each(|number| world.silence_keeper(*number));
        if let Some(number) = odd.forced {
            world.keeper(number).status.force_fail = true;
        }
        if !odd.open {
            world.data.proxy.spec.primary = None;
        }
        world.proxy("p1", if odd.acknowledged { 1 } else { 0 });
    })
    .with_old_timers()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn every_round_keeps_the_rules(odd in odd()) {
        let mut world = world(&odd);
        let before = world.data.clone();
        let decision = world.round();
        let next = &decision.next;

        prop_assert_eq!(violations(next), vec![]);
        let primary = next.cluster.status.primary.clone().unwrap();
        let old = &before.instances[&uid(1)];

        // The primary is never taken away, and the elected one is there.
        prop_assert!(next.instances.contains_key(&uid(1)), "the old primary goes only in a later round");
        if primary != uid(1) {
            // In synchronous mode only those are elected that were in both lists.
            let elected = &before.instances[&primary];
            prop_assert!(elected.status.current_generation != 0);
            prop_assert_eq!(elected.status.timeline, old.status.timeline);
            if old.spec.synchronous_replication {
                prop_assert!(odd.listed.iter().any(|number| uid(*number) == primary));
                prop_assert!(odd.known.iter().any(|number| uid(*number) == primary));
                let reference = next.instances[&primary].spec.synchronous_standbys.clone().unwrap_or_default();
                prop_assert!(!odd.wanted_synchronous || reference.contains(&uid(1)) || odd.listed.is_empty());
            } else {
                prop_assert!(old.status.lsn.ahead_of(elected.status.lsn) <= 1_232_896);
                // Nobody can commit on the old primary through a proxy that is known to be open.
                prop_assert!(odd.acknowledged && !odd.open);
            }
            // Of those that could be elected nobody was further ahead.
            prop_assert_eq!(next.proxy.spec.primary.clone(), None);
        }

        // From one primary to another only by way of none.
        if let (Some(from), Some(to)) = (&before.proxy.spec.primary, &next.proxy.spec.primary) {
            prop_assert_eq!(from, to);
        }

        // S changes only when T equals it, or is rolled back to T; newcomers come beside the old members.
        let now = &next.instances[&uid(1)];
        let (listed, next_listed) = (set(&old.spec.synchronous_standbys), set(&now.spec.synchronous_standbys));
        if primary == uid(1) && old.spec.synchronous_replication && now.spec.synchronous_replication
            && listed != next_listed
        {
            let known = set(&old.status.synchronous_standbys);
            let left: Vec<_> = listed.difference(&next_listed).filter(|uid| next.instances.contains_key(uid)).collect();
            let came: Vec<_> = next_listed.difference(&listed).collect();
            prop_assert!(left.is_empty() || came.is_empty() || left.iter().all(|uid| !known.contains(uid)));
            for member in &next_listed {
                prop_assert!(next.instances.contains_key(member));
            }
        }
        // T within S, and nobody is added to T without having been in sync.
        let (known, next_known) = (set(&old.status.synchronous_standbys), set(&now.status.synchronous_standbys));
        for member in next_known.difference(&known) {
            prop_assert!(odd.in_sync.iter().any(|number| uid(*number) == *member));
        }

        // The same round on the same reports changes nothing more than it must: no keeper has two instances.
        let mut by_keeper: Vec<_> = next.instances.values().map(|instance| &instance.spec.keeper_uid).collect();
        let count = by_keeper.len();
        by_keeper.sort();
        by_keeper.dedup();
        prop_assert_eq!(by_keeper.len(), count);
    }

    #[test]
    fn the_same_twice_gives_the_same(odd in odd()) {
        let (first, second) = (world(&odd).round(), world(&odd).round());
        prop_assert_eq!(first.next, second.next);
        prop_assert_eq!(first.memory, second.memory);
        prop_assert_eq!(first.wake_at, second.wake_at);
    }

    /// Left alone, with keepers that do what is asked, every cluster comes to rest.
    #[test]
    fn clusters_come_to_rest(odd in odd()) {
        let mut world = world(&odd);
        for _ in 0..60 {
            world.later(1000).round();
            let generation = world.data.proxy.generation;
            world.proxy("p1", generation);
            for instance in world.data.instances.values_mut() {
                if !world.silent.contains(&instance.spec.keeper_uid) && !world.down.contains(&instance.uid) {
                    instance.status.current_generation = instance.generation;
                }
            }
        }
        let before = without_times(&world.data);
        world.later(1000).round();
        prop_assert_eq!(without_times(&world.data), before);
    }
}

fn set(list: &Option<Vec<InstanceUid>>) -> std::collections::BTreeSet<InstanceUid> {
    list.iter().flatten().cloned().collect()
}
