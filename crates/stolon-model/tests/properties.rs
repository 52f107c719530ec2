//! Whatever text comes in: no panic, and what can be read is written so that it is read back as the same.

use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use stolon_model::*;

mod wire_property;
use wire_property::every_document_holds;

const GOLDEN: [&str; 9] = [
    include_str!("golden/after_init.json"),
    include_str!("golden/first_primary_chosen.json"),
    include_str!("golden/two_keepers_synchronous.json"),
    include_str!("golden/standby_cluster.json"),
    include_str!("golden/keeper_report_new.json"),
    include_str!("golden/keeper_report_healthy.json"),
    include_str!("golden/sentinel_report.json"),
    include_str!("golden/proxy_report.json"),
    include_str!("golden/spec_with_defaults.json"),
];

/// A golden document with some of its pieces replaced, removed or repeated.
fn mutated() -> impl Strategy<Value = String> {
    let scraps = prop::sample::select(vec![
        "null",
        "0",
        "-1",
        "5.0",
        "1e3",
        "true",
        "\"\"",
        "\"5s\"",
        "\"x\"",
        "[]",
        "{}",
        "[null]",
        "{\"a\":null}",
        ",",
        ":",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "\\u0000",
        "\\ud800",
        "é",
        "\u{0}",
        "99999999999999999999",
        "SLEEPINTERVAL",
        "\"spec\":{\"newConfig\":{}},",
        "$patch",
        "1h1h",
        " ",
        "\n",
    ]);
    let edit = (any::<prop::sample::Index>(), 0usize..12, scraps);
    (prop::sample::select(GOLDEN.to_vec()), vec(edit, 1..6)).prop_map(|(golden, edits)| {
        let mut letters: Vec<char> = golden.chars().collect();
        for (index, removed, scrap) in edits {
            let at = index.index(letters.len() + 1);
            let end = (at + removed).min(letters.len());
            letters.splice(at..end, scrap.chars());
        }
        letters.into_iter().collect()
    })
}

/// JSON of any shape whose keys are those of our documents.
fn any_json() -> impl Strategy<Value = String> {
    let keys = prop::sample::select(vec![
        "formatVersion",
        "changeTime",
        "cluster",
        "spec",
        "status",
        "keepers",
        "dbs",
        "proxy",
        "uid",
        "generation",
        "sleepInterval",
        "pgHBA",
        "pgParameters",
        "initMode",
        "role",
        "newConfig",
        "followers",
        "requestTimeout",
        "timelinesHistory",
        "postgresState",
        "xLogPos",
        "canBeMaster",
        "Generation",
        "k",
        "Spec",
        "",
    ]);
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        any::<f64>()
            .prop_filter("JSON has no infinity", |value| value.is_finite())
            .prop_map(|value| value.to_string()),
        any::<String>().prop_map(|value| serde_json::Value::from(value).to_string()),
        any::<i64>().prop_map(|value| format!("\"{}\"", GoDuration(value))),
        Just("\"2024-03-05T10:15:27.902113+01:30\"".to_owned()),
    ];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(|items| format!("[{}]", items.join(","))),
            vec((keys.clone(), inner), 0..8).prop_map(|entries| {
                let entries: Vec<String> =
                    entries.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!("{{{}}}", entries.join(" , "))
            }),
        ]
    })
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![".{0,12}", "[a-z_]{1,10}"]
}

fn word() -> impl Strategy<Value = String> {
    "[a-z0-9_]{1,8}"
}

fn parameters() -> impl Strategy<Value = Option<Parameters>> {
    // An empty map is not written at all, so that it comes back as none.
    option::of(btree_map(text(), text(), 1..4))
}

fn list() -> impl Strategy<Value = Option<Vec<String>>> {
    option::of(vec(text(), 0..4))
}

fn duration() -> impl Strategy<Value = Option<GoDuration>> {
    option::of(any::<i64>().prop_map(GoDuration))
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    (0i64..4_000_000_000, 0i32..1_000_000_000).prop_map(|(second, nanosecond)| {
        Timestamp::utc(jiff::Timestamp::new(second, nanosecond).expect("the second is within jiff's range"))
    })
}

prop_compose! {
    fn configs()(
        new in option::of((text(), text(), any::<bool>())),
        pitr in option::of((text(), option::of(text()), option::of(vec(text(), 6)))),
        existing in option::of(word()),
        standby in option::of((option::of(vec(text(), 3)), option::of(text()))),
    ) -> (Option<NewConfig>, Option<PitrConfig>, Option<ExistingConfig>, Option<StandbyConfig>) {
        let archive = |command: Option<String>| command.map(|restore_command| ArchiveRecoverySettings { restore_command });
        (
            new.map(|(locale, encoding, data_checksums)| NewConfig { locale, encoding, data_checksums }),
            pitr.map(|(data_restore_command, command, target)| PitrConfig {
                data_restore_command,
                archive_recovery_settings: archive(command),
                recovery_target_settings: target.map(|target| RecoveryTargetSettings {
                    recovery_target: target[0].clone(),
                    recovery_target_lsn: target[1].clone(),
                    recovery_target_name: target[2].clone(),
                    recovery_target_time: target[3].clone(),
                    recovery_target_xid: target[4].clone(),
                    recovery_target_timeline: target[5].clone(),
                }),
            }),
            existing.map(|uid| ExistingConfig { keeper_uid: KeeperUid::from(uid) }),
            standby.map(|(settings, command)| StandbyConfig {
                standby_settings: settings.map(|settings| StandbySettings {
                    primary_conninfo: settings[0].clone(),
                    primary_slot_name: settings[1].clone(),
                    recovery_min_apply_delay: settings[2].clone(),
                }),
                archive_recovery_settings: archive(command),
            }),
        )
    }
}

prop_compose! {
    fn spec()(
        durations in vec(duration(), 11),
        numbers in vec(option::of(any::<u16>()), 5),
        lag in option::of(any::<u32>()),
        flags in vec(option::of(any::<bool>()), 4),
        words in vec(option::of(text()), 4),
        configs in configs(),
        slots in list(),
        pg_hba in list(),
        pg_parameters in parameters(),
    ) -> ClusterSpec {
        let (new_config, pitr_config, existing_config, standby_config) = configs;
        ClusterSpec {
            sleep_interval: durations[0],
            request_timeout: durations[1],
            convergence_timeout: durations[2],
            init_timeout: durations[3],
            sync_timeout: durations[4],
            db_wait_ready_timeout: durations[5],
            fail_interval: durations[6],
            primary_lease: durations[10],
            fence_without_lease: flags[1],
            dead_keeper_removal_interval: durations[7],
            proxy_check_interval: durations[8],
            proxy_timeout: durations[9],
            max_standbys: numbers[0],
            max_standbys_per_sender: numbers[1],
            max_standby_lag: lag,
            max_restarts_per_minute: lag,
            synchronous_replication: flags[0],
            min_synchronous_standbys: numbers[2],
            max_synchronous_standbys: numbers[3],
            synchronous_quorum: numbers[2],
            additional_wal_senders: numbers[4],
            additional_primary_replication_slots: slots,
            max_slot_wal_keep_size: words[3].clone(),
            use_pg_rewind: flags[1],
            sync_logical_slots: flags[2],
            init_mode: words[0].as_deref().map(InitMode::from),
            merge_pg_parameters: flags[2],
            role: words[1].as_deref().map(Role::from),
            new_config,
            pitr_config,
            existing_config,
            standby_config,
            default_su_repl_access_mode: words[2].as_deref().map(AccessMode::from),
            pg_parameters,
            pg_hba,
            automatic_pg_restart: flags[3],
        }
    }
}

prop_compose! {
    fn instance_spec()(
        keeper in word(),
        request_timeout in any::<i64>(),
        numbers in any::<(u16, u16)>(),
        flags in any::<(bool, bool, bool)>(),
        lists in vec(list(), 3),
        uids in vec(option::of(vec(word(), 0..3)), 2),
        init_mode in option::of(word()),
        role in option::of(word()),
        configs in configs(),
        pg_parameters in parameters(),
        follow in option::of((option::of(word()), text())),
    ) -> InstanceSpec {
        let uids = |at: usize| -> Option<Vec<InstanceUid>> {
            uids[at].clone().map(|uids| uids.into_iter().map(InstanceUid::from).collect())
        };
        let (new_config, pitr_config, _, standby_config) = configs;
        InstanceSpec {
            keeper_uid: KeeperUid::from(keeper),
            request_timeout: GoDuration(request_timeout),
            max_standbys: numbers.0,
            synchronous_replication: flags.0,
            use_pg_rewind: flags.1,
            additional_wal_senders: numbers.1,
            additional_replication_slots: lists[0].clone(),
            init_mode: init_mode.as_deref().map(InstanceInitMode::from),
            new_config,
            pitr_config,
            pg_parameters: pg_parameters.map(Arc::new),
            pg_hba: lists[1].clone().map(Arc::new),
            role: role.as_deref().map(Role::from),
            follow_config: follow.map(|(follow_type, uid)| FollowConfig {
                follow_type: follow_type.as_deref().map(FollowType::from),
                instance_uid: InstanceUid::from(uid),
                standby_settings: standby_config.as_ref().and_then(|config| config.standby_settings.clone()),
                archive_recovery_settings: standby_config.and_then(|config| config.archive_recovery_settings),
            }),
            followers: uids(0),
            include_previous_config: flags.2,
            synchronous_standbys: uids(1),
            copy_anew: flags.1,
            fenced: flags.2,
            synchronous_quorum: numbers.0,
            stops_receiving: flags.0,
            external_synchronous_standbys: lists[2].clone(),
        }
    }
}

prop_compose! {
    fn instance()(
        uid in word(),
        generations in any::<(i64, i64)>(),
        change_time in timestamp(),
        spec in instance_spec(),
        healthy in any::<bool>(),
        texts in vec(text(), 4),
        wal in any::<(u64, u64)>(),
        history in option::of(vec((any::<u64>(), any::<u64>(), text()), 1..3)),
        pg_parameters in parameters(),
        in_sync in option::of(vec(word(), 0..3)),
        in_force in option::of(any::<u16>()),
    ) -> Instance {
        Instance {
            uid: InstanceUid::from(uid),
            generation: generations.0,
            change_time,
            spec,
            status: InstanceStatus {
                healthy,
                current_generation: generations.1,
                listen_address: texts[0].clone(),
                port: texts[1].clone(),
                system_identifier: texts[2].clone(),
                timeline: Timeline(wal.0),
                lsn: Lsn(wal.1),
                timelines_history: history.map(|history| {
                    history
                        .into_iter()
                        .map(|(timeline, position, reason)| TimelineHistoryEntry {
                            timeline: Timeline(timeline),
                            switch_point: Lsn(position),
                            reason,
                        })
                        .collect()
                }),
                pg_parameters: pg_parameters.map(Arc::new),
                synchronous_standbys: in_sync.map(|uids| uids.into_iter().map(InstanceUid::from).collect()),
                older_wal_file: texts[3].clone(),
                was_at: healthy.then(|| WasAt { timeline: Timeline(wal.1), lsn: Lsn(wal.0) }),
                stores_md5: healthy,
                slot_positions: healthy.then(|| [(texts[3].clone(), Lsn(wal.0))].into()),
                quorums: in_force.map(|required| vec![Quorum::of(required, [])]),
            },
        }
    }
}

prop_compose! {
    fn keeper()(
        uid in word(),
        generation in any::<i64>(),
        times in (timestamp(), timestamp()),
        flags in any::<(bool, bool, Option<bool>, Option<bool>)>(),
        boot in text(),
        version in any::<(i64, i64)>(),
        spec in option::of(Just(Empty {})),
    ) -> Keeper {
        Keeper {
            uid: KeeperUid::from(uid),
            generation,
            change_time: times.0,
            spec,
            status: KeeperStatus {
                healthy: flags.0,
                last_healthy_time: times.1,
                boot_uuid: BootUuid::from(boot),
                postgres_binary_version: PostgresVersion { major: version.0, minor: version.1 },
                force_fail: flags.1,
                fail_request: None,
                can_be_primary: flags.2,
                can_be_synchronous_replica: flags.3,
                http_address: String::new(),
                zone: String::new(),
                failover_priority: flags.2.map(u32::from),
                chosen_priority: flags.3.map(u32::from),
            },
        }
    }
}

prop_compose! {
    fn cluster_document()(
        format_version in any::<u64>(),
        times in vec(timestamp(), 3),
        spec in option::of(spec()),
        uid in text(),
        generations in any::<(i64, i64, i64)>(),
        words in vec(option::of(word()), 3),
        keepers in option::of(btree_map(word().prop_map(KeeperUid::from), keeper(), 0..3)),
        instances in option::of(btree_map(word().prop_map(InstanceUid::from), instance(), 0..3)),
        enabled in option::of(vec(word().prop_map(ProxyUid::from), 1..3)),
        present in any::<(bool, bool)>(),
        overwrite_data in any::<bool>(),
        epoch in option::of(any::<u64>()),
    ) -> ClusterDocument {
        let cluster = ClusterSection {
            uid: ClusterUid::from(uid),
            generation: generations.0,
            change_time: times[1],
            spec,
            status: ClusterStatus {
                current_generation: generations.1,
                phase: words[0].as_deref().map(Phase::from),
                primary: words[1].clone().map(InstanceUid::from),
                history: words[0].clone().map(|what| {
                    let details = words[1].iter().cloned().collect();
                    Arc::new(vec![HistoryEntry::of_operator(times[0], "a@b".to_owned(), &what, details)])
                }),
                challenge: words[2].clone().map(|word| Challenge {
                    uid: ChallengeUid::from(word.as_str()),
                    instance: InstanceUid::from(word),
                }),
                formers: words[1].clone().map(|word| {
                    vec![FormerPrimary {
                        instance: InstanceUid::from(word),
                        replaced_at: times[0],
                        complete: overwrite_data,
                        given_up_from: epoch.map(Lsn),
                        ..FormerPrimary::default()
                    }]
                }),
                switchover: epoch.map(|epoch| Switchover {
                    uid: "s1".to_owned(),
                    from: words[1].clone().map(InstanceUid::from),
                    to: words[0].clone().map(KeeperUid::from),
                    leaving: overwrite_data,
                    made_for: times[0],
                    epoch: Some(epoch),
                    timeout: GoDuration::from_seconds(60),
                    stage: words[2].as_deref().map(SwitchoverStage::from),
                    end: Some(Lsn(epoch)),
                    ..Switchover::default()
                }),
                migration: epoch.map(|epoch| Migration {
                    uid: "m1".to_owned(),
                    method: words[0].as_deref().map(MigrationMethod::from),
                    rehearsal: overwrite_data,
                    stage: words[2].as_deref().map(MigrationStage::from),
                    worker: words[1].clone().map(|uid| MigrationWorker {
                        uid,
                        beat: epoch,
                        ..MigrationWorker::default()
                    }),
                    end: Some(Lsn(epoch)),
                    fenced: Some(times[0]),
                    legacy_address: words[1]
                        .clone()
                        .map(|host| ServerAddress { host, port: "5432".to_owned() }),
                    proxies_away: Some(generations.2),
                    ..Migration::default()
                }),
            },
            overwrite_data,
            epoch,
            pause: words[2].clone().map(|reason| Pause {
                since: times[0],
                until: times[2],
                operator: "a@b".to_owned(),
                reason,
            }),
        };
        let proxy = ProxySection {
            uid: ProxyUid::default(),
            generation: generations.2,
            change_time: times[2],
            spec: ProxySpec {
                primary: words[2].clone().map(InstanceUid::from),
                enabled_proxies: enabled,
                handover: overwrite_data.then(|| ProxyHandover {
                    grace: GoDuration::from_seconds(1),
                    hold: GoDuration::from_seconds(15),
                }),
                legacy: words[0].clone().map(|host| ServerAddress { host, port: "5432".to_owned() }),
            },
            status: Empty {},
        };
        ClusterDocument {
            format_version,
            change_time: times[0],
            cluster: present.0.then_some(cluster),
            keepers,
            instances,
            proxy: present.1.then_some(proxy),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        every_document_holds(&text);
    }

    #[test]
    fn mutated_documents_are_read_or_refused(text in mutated()) {
        every_document_holds(&text);
    }

    #[test]
    fn any_json_is_read_or_refused(text in any_json()) {
        every_document_holds(&text);
    }

    #[test]
    fn specifications_survive(spec in spec()) {
        prop_assert_eq!(ClusterSpec::from_json(&spec.to_json()), Ok(spec.clone()));
        prop_assert_eq!(ClusterSpec::from_json(&spec.to_json_indented()), Ok(spec.clone()));
        prop_assert_eq!(Patch::parse("{}").and_then(|patch| patch.apply(&spec)), Ok(spec.clone()));
        let replaced = Patch::parse(&spec.to_json_set_only()).and_then(|patch| patch.apply(&ClusterSpec::default()));
        prop_assert_eq!(replaced.map(|spec| spec.to_json_set_only()), Ok(spec.to_json_set_only()));
        // serde_json reads the same text, and agrees on what it says.
        prop_assert!(serde_json::from_str::<serde_json::Value>(&spec.to_json()).is_ok());
    }

    #[test]
    fn cluster_documents_survive(document in cluster_document()) {
        let text = document.to_json();
        prop_assert_eq!(ClusterDocument::from_json(&text), Ok(document.clone()));
        if let Ok(data) = ClusterData::try_from(document) {
            let back = ClusterDocument::from(data.clone());
            prop_assert_eq!(ClusterData::try_from(back), Ok(data));
        }
    }

    #[test]
    fn durations_survive(nanoseconds in any::<i64>()) {
        prop_assert_eq!(GoDuration(nanoseconds).to_string().parse(), Ok(GoDuration(nanoseconds)));
    }

    #[test]
    fn any_duration_is_read_or_refused(text in "[-+]?([0-9]{0,20}(\\.[0-9]{0,25})?(ns|us|µs|ms|s|m|h)?){0,3}") {
        if let Ok(duration) = text.parse::<GoDuration>() {
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }

    #[test]
    fn timestamps_survive(time in timestamp(), minutes in -1439i32..1440) {
        let sign = if minutes < 0 { '-' } else { '+' };
        let zone = format!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60);
        let text = time.to_string().replace('Z', if minutes == 0 { "Z" } else { &zone });
        prop_assert_eq!(text.parse::<Timestamp>().map(|time| time.to_string()), Ok(text));
    }
}
