//! What never happens, whatever is asked and seen.

use proptest::prelude::*;
use stolon_core::keeper::*;
use stolon_core::postgres::Version;
use stolon_model::{ClusterData, InstanceInitMode as Init, Role};

use crate::given::*;

fn clusters() -> impl Strategy<Value = ClusterData> {
    let modes = prop_oneof![
        Just(Init::None),
        Just(Init::New),
        Just(Init::Existing),
        Just(Init::PointInTimeRecovery),
        Just(Init::Resync),
    ];
    (modes, any::<[bool; 8]>()).prop_map(
        |(mode, [primary, sync, rewind, deposed, external_follow, restart, lost, known])| {
            let role = if primary && mode != Init::Resync { Role::Primary } else { Role::Standby };
            let mut cluster = asked(role, mode);
            let spec = &mut ours(&mut cluster).spec;
            spec.synchronous_replication = sync;
            spec.synchronous_standbys = sync.then(|| vec!["bb".into()]);
            spec.use_pg_rewind = rewind;
            if external_follow && spec.role == Some(Role::Standby) && spec.init_mode != Some(Init::Resync) {
                spec.follow_config = Some(external());
            }
            cluster.cluster.spec.automatic_pg_restart = Some(restart);
            if deposed {
                cluster.cluster.status.primary = Some("pp".into());
            }
            if lost {
                cluster.instances.remove(&"pp".into());
            }
            if !known {
                cluster.keepers.get_mut(&"k1".into()).unwrap().status.boot_uuid = "earlier".into();
            }
            cluster
        },
    )
}

fn data() -> impl Strategy<Value = Data> {
    prop_oneof![
        Just(Data::Absent),
        Just(Data::Incomplete { missing: vec!["base".into()] }),
        Just(Data::Unreadable("no".into())),
        Just(present(DataKind::Primary)),
        Just(present(DataKind::Standby)),
        (9u16..18).prop_map(|major| Data::Present(Present {
            version: Version { major, minor: 0 },
            kind: DataKind::Primary,
            system_identifier: "1".into(),
        })),
    ]
}

fn servers() -> impl Strategy<Value = Server> {
    let answers =
        (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(in_recovery, in_sync, pending)| Live {
            in_recovery,
            in_sync: if in_sync { ["bb".into()].into() } else { Default::default() },
            pending_restart: if pending { vec!["max_connections".into()] } else { Vec::new() },
            ..Live::default()
        });
    prop_oneof![
        Just(Server::Stopped),
        Just(Server::Running(None)),
        answers.prop_map(|live| Server::Running(Some(live)))
    ]
}

prop_compose! {
    fn observations()(
        uid in prop_oneof![Just("us"), Just("old"), Just("")],
        initializing in any::<bool>(),
        data in data(),
        server in servers(),
        closed in any::<bool>(),
        spent in any::<bool>(),
        stage in prop_oneof![
            Just(Stage::Nothing), Just(Stage::Restored), Just(Stage::Recovered), Just(Stage::Copied), Just(Stage::Rewound)
        ],
        rewind_failures in 0u32..3,
        applied in any::<bool>(),
    ) -> Observation {
        Observation {
            local: LocalState { uid: uid.into(), generation: 1, initializing, captured: None },
            data,
            server,
            gate: if closed { Gate::Closed } else { Gate::Open },
            restart_patience: if spent { Patience::Spent } else { Patience::Left },
            attempt: Attempt { instance: "us".into(), stage, failures: 0, rewind_failures, ..Attempt::default() },
            applied: applied.then(Config::default),
            ..nothing()
        }
    }
}

/// The warrant of a step that destroys data.
fn warrant(step: &Step) -> Option<&DestroyWarrant> {
    match step {
        Step::Wipe(warrant) | Step::BaseBackup { warrant, .. } | Step::Rewind { warrant, .. } => {
            Some(warrant)
        }
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn data_is_destroyed_only_for_an_instance_that_is_to_be_made(cluster in clusters(), seen in observations()) {
        let goal = goal(&cluster);
        let plan = plan(&goal, &seen);
        for step in &plan.steps {
            let Some(warrant) = warrant(step) else { continue };
            let Goal::Reach(goal) = &goal else { panic!("nothing was asked for") };
            prop_assert_eq!(warrant.instance(), &goal.uid);
            let is_nothing_there = seen.data == Data::Absent;
            prop_assert!(seen.local.uid != goal.uid || seen.local.initializing || is_nothing_there);
            let made_anew = matches!(goal.make, Make::New(_) | Make::Restore(_) | Make::Resync { .. });
            prop_assert!(made_anew);
        }
    }

    #[test]
    fn destruction_is_written_down_right_before_and_after_everything_that_only_looks(
        cluster in clusters(), seen in observations()
    ) {
        let plan = plan(&goal(&cluster), &seen);
        let position = |wanted: fn(&Step) -> bool| plan.steps.iter().position(wanted);
        if let Some(destroyed) = plan.steps.iter().position(|step| warrant(step).is_some()) {
            let marked = matches!(plan.steps[destroyed - 1], Step::MarkInitializing(_));
            prop_assert!(marked && plan.steps[0] == Step::Stop);
            let examined = position(|step| matches!(step, Step::ExamineSource { .. }));
            prop_assert!(examined.is_none_or(|examined| examined < destroyed));
        }
    }

    #[test]
    fn a_primary_is_never_started_by_a_keeper_that_was_not_acknowledged(cluster in clusters(), seen in observations()) {
        let goal = goal(&cluster);
        if !matches!(goal, Goal::Reach(_)) {
            let plan = plan(&goal, &seen);
            prop_assert!(plan.steps.iter().all(|step| matches!(step, Step::Stop)), "{:?}", plan);
        }
    }

    #[test]
    fn a_standby_is_never_promoted_and_a_deposed_primary_never_opened(cluster in clusters(), seen in observations()) {
        let goal = goal(&cluster);
        let plan = plan(&goal, &seen);
        let Goal::Reach(wanted) = &goal else { return Ok(()) };
        match &wanted.role {
            InstanceRole::Standby(_) => {
                prop_assert!(!plan.steps.iter().any(|step| matches!(step, Step::Promote)));
                let own = seen.local.uid == wanted.uid && !seen.local.initializing;
                let as_primary = plan.steps.iter().any(|step| matches!(step,
                    Step::Configure { config, .. } if config.recovery.mode == RecoveryMode::None));
                prop_assert!(!own || !as_primary);
            }
            InstanceRole::Primary(primary) if primary.deposed.is_some() => {
                for step in &plan.steps {
                    if let Step::Configure { config, .. } = step {
                        prop_assert_eq!(config.hba.len(), 7);
                    }
                }
            }
            InstanceRole::Primary(_) => {}
        }
    }

    #[test]
    fn clients_are_let_in_only_through_an_open_gate(cluster in clusters(), seen in observations()) {
        let goal = goal(&cluster);
        let Goal::Reach(wanted) = &goal else { return Ok(()) };
        let InstanceRole::Primary(primary) = &wanted.role else { return Ok(()) };
        let plan = plan(&goal, &seen);
        let mut gate = seen.gate;
        let starts = plan.steps.iter().any(|step| matches!(step, Step::Start(ConfigMerge::Replace)));
        // A standby that is to be promoted keeps the rules that it has until then.
        let is_in_force = |config: &Config| seen.applied.as_ref().is_some_and(|applied| applied.hba == config.hba);
        let closed = |gate: Gate, config: &Config| gate == Gate::Closed && !is_in_force(config);
        for step in &plan.steps {
            match step {
                Step::SetGate(now) => gate = *now,
                Step::Configure { config, .. } if closed(gate, config) => prop_assert_eq!(config.hba.len(), 7),
                _ => {}
            }
        }
        if starts && primary.synchronous.is_some() {
            prop_assert_eq!(gate, Gate::Closed);
        }
    }

    #[test]
    fn a_generation_is_reached_only_without_trouble_and_at_the_end(cluster in clusters(), seen in observations()) {
        let plan = plan(&goal(&cluster), &seen);
        let committed = plan.steps.iter().position(|step| matches!(step, Step::Commit(_)));
        if let Some(position) = committed {
            prop_assert!(plan.trouble.is_none());
            let rest = &plan.steps[position + 1..];
            prop_assert!(rest.iter().all(|step| matches!(step, Step::Reobserve)));
        }
    }

    #[test]
    fn a_plan_ends_where_it_says_to_look_again(cluster in clusters(), seen in observations()) {
        let plan = plan(&goal(&cluster), &seen);
        let again = plan.steps.iter().position(|step| matches!(step, Step::Reobserve));
        prop_assert!(again.is_none_or(|position| position + 1 == plan.steps.len()));
    }

    #[test]
    fn the_same_situation_gives_the_same_plan(cluster in clusters(), seen in observations()) {
        let goal = goal(&cluster);
        prop_assert_eq!(plan(&goal, &seen), plan(&goal, &seen));
    }
}
