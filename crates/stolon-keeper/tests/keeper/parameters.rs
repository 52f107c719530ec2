//! Parameters: nothing that an operator writes takes the database down.

use std::sync::Arc;

use stolon_model::{AccessMode, InstanceInitMode, Parameters, PendingParameter, PitrConfig, Role};
use stolon_testkit::Metrics;
use stolon_testkit::postgres::bin_directory;

use crate::world::{SUPERUSER, World, get, scenario};

fn map(pairs: &[(&str, &str)]) -> Option<Arc<Parameters>> {
    let pairs = pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
    Some(Arc::new(pairs.collect()))
}

#[test]
fn wrong_parameters_are_left_out_and_reported() {
    scenario("parameters::wrong_parameters_are_left_out_and_reported", async || {
        let mut world = World::new();
        let mut keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        world
            .change("aa", |aa| {
                aa.spec.pg_parameters = map(&[
                    ("max_conections", "300"),
                    ("work_mem", "lots"),
                    ("shared_preload_libraries", "no_such_library"),
                    ("maintenance_work_mem", "77MB"),
                ]);
            })
            .await;
        let report = world.healthy(&keeper, "aa", 3).await;
        let problems = world
            .eventually("the problems", async |world| {
                world
                    .report(&keeper)
                    .await?
                    .activity?
                    .parameter_problems
                    .filter(|problems| problems.len() >= 3)
            })
            .await;
        let all = problems.join("\n");
        assert!(all.contains("max_connections"), "{all}");
        assert!(all.contains("work_mem") && all.contains("no_such_library"), "{all}");
        assert!(report.postgres_state.unwrap().healthy);
        assert_eq!(keeper.value("SHOW maintenance_work_mem").await, "77MB");

        keeper.stop().await;
        keeper.start();
        world.acknowledge(&keeper).await;
        world.healthy(&keeper, "aa", 3).await;
        assert_eq!(keeper.value("SHOW shared_preload_libraries").await, "");
    });
}

/// Whoever writes the cluster data is the user of every keeper, unless the keepers' operator lists the commands.
#[test]
fn a_keeper_with_a_list_of_commands_runs_no_other_and_lets_nobody_in_without_proof() {
    scenario(
        "parameters::a_keeper_with_a_list_of_commands_runs_no_other_and_lets_nobody_in_without_proof",
        async || {
            let mut world = World::new();
            let mut keeper = world.keeper("k1").await;
            world.primary(&keeper).await;
            let run = world.directory.path().join("run");
            let command = format!("touch {} && false", run.display());
            world.cluster.cluster.spec.default_su_repl_access_mode = Some(AccessMode::Strict);
            let attack = map(&[("archive_mode", "on"), ("archive_command", &command)]);
            world
                .change("aa", |aa| {
                    aa.spec.pg_parameters = attack;
                    aa.spec.pg_hba =
                        Some(Arc::new(vec!["host all all all trust".into(), "host all all all md5".into()]));
                })
                .await;
            world
                .eventually("the attack to succeed", async |_| {
                    keeper.connect_as(SUPERUSER.0, "nonsense").await.ok().map(drop)
                })
                .await;

            let list = world.directory.path().join("commands");
            std::fs::write(&list, "# none\n").unwrap();
            keeper.stop().await;
            keeper.flags = vec!["--allowed-commands".into(), list.display().to_string()];
            keeper.start();
            world.acknowledge(&keeper).await;
            let problems = world
                .eventually("the problems", async |world| {
                    world
                        .report(&keeper)
                        .await?
                        .activity?
                        .parameter_problems
                        .filter(|problems| problems.len() == 2)
                })
                .await;
            assert!(
                problems.iter().any(|problem| problem.starts_with("archive_command is left out")),
                "{problems:?}"
            );
            assert!(
                problems.iter().any(|problem| problem.contains("\"host all all all trust\"")),
                "{problems:?}"
            );
            world.healthy(&keeper, "aa", 3).await;
            let up = || async { keeper.connect_as(SUPERUSER.0, SUPERUSER.1).await.ok().map(drop) };
            world.eventually("PostgreSQL to answer", async |_| up().await).await;
            assert!(keeper.connect_as(SUPERUSER.0, "nonsense").await.is_err(), "not without a proof");
            assert_eq!(keeper.value("SHOW archive_mode").await, "on");
            assert_eq!(keeper.value("SHOW archive_command").await, "");
            keeper.value("SELECT pg_switch_wal()").await;

            // What would take the data away, and run something, does neither.
            let mut pitr = PitrConfig::default();
            pitr.data_restore_command = command;
            world
                .assign("cc", &keeper, InstanceInitMode::PointInTimeRecovery, Role::Primary)
                .spec
                .pitr_config = Some(pitr);
            world.publish().await;
            let problem = world.problem(&keeper, "dataRestoreCommand").await;
            assert!(problem.contains("not among the commands that this keeper is allowed"), "{problem}");
            assert!(problem.contains("--allowed-commands"), "{problem}");
            assert!(!run.exists(), "nothing was run");
            assert!(keeper.pgdata().join("PG_VERSION").exists());
        },
    );
}

/// With `fsync = off` the link to `/dev/null` does not stop ALTER SYSTEM: PostgreSQL puts a file in its place.
#[test]
fn what_alter_system_sets_is_taken_back() {
    scenario("parameters::what_alter_system_sets_is_taken_back", async || {
        let mut world = World::new();
        let keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        world.change("aa", |aa| aa.spec.pg_parameters = map(&[("fsync", "off"), ("work_mem", "5MB")])).await;
        world.healthy(&keeper, "aa", 3).await;
        keeper.value("ALTER SYSTEM SET work_mem = '77MB'").await;
        let file = keeper.pgdata().join("postgresql.auto.conf");
        world
            .eventually("the file to be a link again", async |_| {
                std::fs::read_link(&file).is_ok().then_some(())
            })
            .await;
        assert!(keeper.log_text().contains("ALTER SYSTEM has set something"), "{}", keeper.log_text());
        keeper.value("SELECT pg_reload_conf()").await;
        assert_eq!(keeper.value("SHOW work_mem").await, "5MB");
    });
}

#[test]
fn a_value_that_postgresql_cannot_start_with_is_taken_back() {
    scenario("parameters::a_value_that_postgresql_cannot_start_with_is_taken_back", async || {
        let mut world = World::new();
        world.cluster.cluster.spec.automatic_pg_restart = Some(true);
        let keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        world
            .change("aa", |aa| {
                aa.spec.pg_parameters = map(&[("shared_buffers", "4096GB"), ("work_mem", "5MB")]);
            })
            .await;
        world
            .eventually("the problem", async |world| {
                let problems = world.report(&keeper).await?.activity?.parameter_problems?;
                problems.iter().any(|problem| problem.contains("shared_buffers")).then_some(())
            })
            .await;
        world.healthy(&keeper, "aa", 3).await;
        assert_eq!(keeper.value("SHOW work_mem").await, "5MB");
        assert_eq!(keeper.value("SHOW shared_buffers").await, "128MB");
    });
}

#[test]
fn a_parameter_that_needs_a_restart_waits_unless_restarts_are_automatic() {
    scenario(
        "parameters::a_parameter_that_needs_a_restart_waits_unless_restarts_are_automatic",
        async || {
            let mut world = World::new();
            let keeper = world.keeper("k1").await;
            world.primary(&keeper).await;
            world.change("aa", |aa| aa.spec.pg_parameters = map(&[("max_connections", "150")])).await;
            world.healthy(&keeper, "aa", 3).await;
            let pending = async |world: &mut World, parameter: PendingParameter| {
                let parameters = Some(vec![parameter]);
                world
                    .eventually("the pending restart", async |world| {
                        let activity = world.report(&keeper).await?.activity?;
                        let is_it = activity.pending_restart && activity.pending_parameters == parameters;
                        is_it.then_some(activity)
                    })
                    .await
            };
            let waits = |in_force: &str, wanted: Option<&str>| PendingParameter {
                name: "max_connections".to_owned(),
                in_force: in_force.to_owned(),
                wanted: wanted.map(str::to_owned),
            };
            let activity = pending(&mut world, waits("100", Some("150"))).await;
            let age = jiff::Timestamp::now().duration_since(activity.started.unwrap().instant());
            assert!((0..300).contains(&age.as_secs()), "PostgreSQL was started some seconds ago: {age:?}");
            assert_eq!(keeper.value("SHOW max_connections").await, "100");
            world.cluster.cluster.spec.automatic_pg_restart = Some(true);
            world.publish().await;
            world
                .eventually("the restart", async |_| {
                    (keeper.try_value("SHOW max_connections").await.ok()? == "150").then_some(())
                })
                .await;
            let role = world.instance("aa").spec.role.clone();
            assert_eq!(role, Some(Role::Primary));

            // Going back to the default waits, too. That is no mistake in any file.
            world.cluster.cluster.spec.automatic_pg_restart = Some(false);
            world.change("aa", |aa| aa.spec.pg_parameters = map(&[])).await;
            let activity = pending(&mut world, waits("150", None)).await;
            assert_eq!(activity.parameter_problems, None);
        },
    );
}

#[test]
fn a_restart_of_any_kind_settles_what_waited_for_one() {
    scenario("parameters::a_restart_of_any_kind_settles_what_waited_for_one", async || {
        let mut world = World::new();
        let address = format!("127.0.0.1:{}", stolon_testkit::postgres::free_port().unwrap());
        let keeper = world.keeper_with("k1", &["--metrics-listen-address", &address]).await;
        world.primary(&keeper).await;
        let gauge = async |world: &World, wanted: f64| {
            world
                .eventually("the gauge", async |_| {
                    let metrics = Metrics::parse(&get(&address, "/metrics").await?).ok()?;
                    (metrics.value("stolon_keeper_needs_restart") == Some(wanted)).then_some(())
                })
                .await;
        };
        world.change("aa", |aa| aa.spec.pg_parameters = map(&[("max_connections", "150")])).await;
        gauge(&world, 1.0).await;
        rustix::process::kill_process(keeper.postmaster().unwrap(), rustix::process::Signal::KILL).unwrap();
        world
            .eventually("the server, restarted", async |_| {
                (keeper.try_value("SHOW max_connections").await.ok()? == "150").then_some(())
            })
            .await;
        gauge(&world, 0.0).await;
    });
}

/// A pass that began a program would cost more than all else that it does.
#[test]
fn the_version_of_the_binaries_is_asked_for_once() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    scenario("parameters::the_version_of_the_binaries_is_asked_for_once", async || {
        let mut world = World::new();
        let binaries = world.directory.path().join("bin");
        std::fs::create_dir(&binaries).unwrap();
        let real = bin_directory().unwrap();
        for program in std::fs::read_dir(&real).unwrap().flatten() {
            if program.file_name() != "postgres" {
                symlink(program.path(), binaries.join(program.file_name())).unwrap();
            }
        }
        let (postgres, asked) = (binaries.join("postgres"), world.directory.path().join("asked"));
        let script = format!(
            "#!/bin/sh\ncase $1 in -V|--version) echo \"$*\" >>'{}' ;; esac\nexec '{}/postgres' \"$@\"\n",
            asked.display(),
            real.display()
        );
        std::fs::write(&postgres, script).unwrap();
        std::fs::set_permissions(&postgres, std::fs::Permissions::from_mode(0o755)).unwrap();
        let keeper = world.keeper_with("k1", &["--pg-bin-path", &binaries.display().to_string()]).await;
        world.primary(&keeper).await;
        let times = || std::fs::read_to_string(&asked).unwrap().lines().count();
        let before = times();
        assert!(before > 0, "the keeper asks another program");
        for (work_mem, generation) in [("5MB", 3), ("6MB", 4), ("7MB", 5)] {
            world.change("aa", |aa| aa.spec.pg_parameters = map(&[("work_mem", work_mem)])).await;
            world.healthy(&keeper, "aa", generation).await;
            assert_eq!(keeper.value("SHOW work_mem").await, work_mem);
        }
        assert_eq!(times(), before);
    });
}

#[test]
fn a_file_that_appears_later_is_used_then() {
    scenario("parameters::a_file_that_appears_later_is_used_then", async || {
        let mut world = World::new();
        let keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        let file = world.directory.path().join("words.stop");
        let dictionary = file.with_extension("crt").display().to_string();
        world
            .change("aa", |aa| {
                aa.spec.pg_parameters =
                    map(&[("ssl", "on"), ("ssl_cert_file", &dictionary), ("ssl_key_file", &dictionary)]);
            })
            .await;
        let report = world.healthy(&keeper, "aa", 3).await;
        assert!(report.postgres_state.unwrap().healthy);
        assert_eq!(keeper.value("SHOW ssl").await, "off");
        let made = std::process::Command::new("openssl")
            .args(["req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=test", "-keyout"])
            .arg(&dictionary)
            .arg("-out")
            .arg(file.with_extension("pem"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let certificate = std::fs::read_to_string(file.with_extension("pem")).unwrap();
        let key = std::fs::read_to_string(&dictionary).unwrap();
        std::fs::write(&dictionary, key + &certificate).unwrap();
        world
            .eventually("TLS", async |_| (keeper.try_value("SHOW ssl").await.ok()? == "on").then_some(()))
            .await;
    });
}

#[test]
fn a_line_of_pg_hba_that_postgresql_refuses_costs_nobody_else() {
    scenario("parameters::a_line_of_pg_hba_that_postgresql_refuses_costs_nobody_else", async || {
        let mut world = World::new();
        let mut keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        keeper.value("CREATE ROLE app LOGIN PASSWORD 'app'").await;
        let lines = ["host all app nowhere", "host all app 127.0.0.1/32 md5"].map(str::to_owned).to_vec();
        world.change("aa", |aa| aa.spec.pg_hba = Some(Arc::new(lines))).await;
        let shown = async |world: &World| {
            let problems = world.report(&keeper).await?.activity?.parameter_problems?;
            problems.iter().any(|problem| problem.contains("host all app nowhere")).then_some(())
        };
        world.eventually("the line to be shown", shown).await;
        keeper.connect_as("app", "app").await.unwrap();
        keeper.stop().await;
        keeper.start();
        world.acknowledge(&keeper).await;
        world.eventually("clients", async |_| keeper.connect_as("app", "app").await.ok()).await;
    });
}
