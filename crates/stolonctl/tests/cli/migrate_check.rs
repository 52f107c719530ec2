//! `migrate check` against real servers of several majors.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use stolon_model::{
    FileSystemReport, Instance, InstanceUid, KeeperActivity, KeeperReport, Migration, MigrationStage,
    PostgresVersion,
};
use stolon_testkit::postgres::{PostgresConfig, PostgresServer};
use stolon_testkit::programs_of_major;

use super::harness::{Ctl, Run};

const TTL: Duration = Duration::from_secs(600);

/// A server, and a file with its password.
pub struct Source {
    pub server: PostgresServer,
    directory: tempfile::TempDir,
}

impl Source {
    pub fn start(major: u16, parameters: &[(&str, &str)], hba: &[&str]) -> Source {
        let mut config = PostgresConfig {
            programs: Some(programs_of_major(major).unwrap()),
            initdb: vec!["--locale=C.UTF-8".to_owned(), "--encoding=UTF8".to_owned()],
            ..PostgresConfig::default()
        };
        config.parameters =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        config.hba.extend(hba.iter().map(|line| (*line).to_owned()));
        Source::of(PostgresServer::start(config).unwrap())
    }

    fn of(server: PostgresServer) -> Source {
        let source = Source { server, directory: tempfile::tempdir().unwrap() };
        source.write_password("secret");
        source
    }

    /// A standby that follows it.
    pub fn standby(&self) -> Source {
        Source::of(self.server.start_standby().unwrap())
    }

    /// Another one with the same data, which goes its own way.
    pub fn copy(&mut self) -> Source {
        Source::of(self.server.start_copy().unwrap())
    }

    pub async fn value(&self, sql: &str) -> String {
        let client = self.server.connect().await.unwrap();
        client.query_one(sql, &[]).await.unwrap().get(0)
    }

    fn write_password(&self, password: &str) {
        self.write_passfile(&format!("*:*:*:*:{password}\n"));
    }

    pub fn write_passfile(&self, lines: &str) {
        use std::os::unix::fs::PermissionsExt;
        let file = self.passfile();
        std::fs::write(&file, lines).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn passfile(&self) -> std::path::PathBuf {
        self.directory.path().join("passfile")
    }

    pub fn conninfo(&self, user: &str) -> String {
        let (port, file) = (self.server.port(), self.passfile());
        format!("host=127.0.0.1 port={port} user={user} passfile={}", Path::new(&file).display())
    }

    pub async fn run(&self, database: &str, sql: &str) {
        self.server.connect_to(database).await.unwrap().batch_execute(sql).await.unwrap();
    }

    fn check(&self, ctl: &Ctl, arguments: &[&str]) -> Run {
        let source = self.conninfo("postgres");
        let mut all = vec!["migrate", "check", "--source", &source];
        all.extend(arguments);
        ctl.run(&all)
    }
}

async fn keeper(ctl: &Ctl, major: u16) {
    let report = KeeperReport {
        uid: "keeper0".into(),
        postgres_binary_version: PostgresVersion { major: i64::from(major), minor: 1, ..Default::default() },
        activity: Some(KeeperActivity {
            file_systems: Some(vec![FileSystemReport {
                uses: Some(vec!["data".to_owned()]),
                total_bytes: 2 << 40,
                free_bytes: 1 << 40,
                ..FileSystemReport::default()
            }]),
            ..KeeperActivity::default()
        }),
        ..KeeperReport::default()
    };
    ctl.store().put_keeper_report(&report, TTL).await.unwrap();
}

/// The worst level of a subject, and everything that is said about it.
fn of<'a>(answer: &'a Value, subject: &str) -> (&'a str, String) {
    let rank = |level: &str| ["ok", "warning", "blocks"].iter().position(|word| *word == level);
    let findings = answer["findings"].as_array().expect("findings");
    let about: Vec<&Value> = findings.iter().filter(|finding| finding["subject"] == subject).collect();
    let level = about.iter().filter_map(|finding| finding["level"].as_str()).max_by_key(|level| rank(level));
    (level.unwrap_or("nothing"), about.iter().map(ToString::to_string).collect())
}

#[track_caller]
fn json(run: &Run) -> Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"))
}

/// What an application has, named as nobody should name things.
const CONTENT: &str = r#"
create schema "My ""Sch";
create table "My ""Sch"."Ta'ble" (id serial primary key, note text collate "POSIX", other text);
create index "By 'note" on "My ""Sch"."Ta'ble" (note);
create index "By other" on "My ""Sch"."Ta'ble" (other);
create table keyless (v int);
create table full_identity (v int); alter table full_identity replica identity full;
create unlogged table scratch (id int primary key);
create table own (id int generated always as identity primary key);
select lo_create(0);
create extension EXTENSION;
create publication pub for table keyless;
create foreign data wrapper dummy;
create server "Else'where" foreign data wrapper dummy;
create function ddl() returns event_trigger language plpgsql as 'begin end';
create event trigger on_ddl on ddl_command_end execute procedure ddl();
create role "Md5 'Role" login; create role nopass login; create role "group";
"#;

async fn look_at(major: u16) {
    let parameters = [
        ("wal_level", "logical"),
        ("max_prepared_transactions", "5"),
        ("work_mem", "7MB"),
        ("archive_mode", "on"),
        ("archive_command", "true hidden"),
        ("password_encryption", "md5"),
    ];
    let hba = ["host \"My Db\",all \"Md5 'Role\" 10.0.0.0 255.0.0.0 scram-sha-256"];
    let source = Source::start(major, &parameters, &hba);
    source.run("postgres", "create database \"My 'Db\"").await;
    // The fixture of 18 has one that does not come with PostgreSQL, and no other.
    let extension = if major == 18 { "vector" } else { "hstore" };
    source.run("My 'Db", &CONTENT.replace("EXTENSION", extension)).await;
    source.run("My 'Db", "begin; insert into keyless values (1); prepare transaction 'for ''gotten'").await;
    source.run("postgres", "alter role \"Md5 'Role\" password 'hidden'").await;
    source.run("postgres", "select pg_create_physical_replication_slot('cdc')").await;
    let ctl = Ctl::sqlite();
    keeper(&ctl, major).await;

    let run = source.check(&ctl, &["--output", "json", "--method", "logical"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(2), ""), "{run:?}");
    assert!(!run.stdout.contains("hidden"), "{run:?}");
    let answer = json(&run);
    for (subject, level, word) in [
        ("method", "ok", "logical"),
        ("privileges", "ok", "superuser"),
        ("walLevel", "ok", "logical"),
        ("connections", "ok", "of 100"),
        ("databases", "ok", "2 databases with 5 tables"),
        ("extensions", if major == 18 { "warning" } else { "ok" }, extension),
        ("keys", "warning", "My 'Db: public.keyless"),
        ("unloggedTables", "warning", "public.scratch"),
        ("largeObjects", "blocks", "My 'Db: 1"),
        ("sequences", "ok", "2 sequences"),
        ("columns", "ok", "1 of identity"),
        ("eventTriggers", "warning", "on_ddl"),
        ("foreignServers", "warning", r#"\"Else'where\""#),
        ("publications", "warning", "My 'Db: pub"),
        ("preparedTransactions", "warning", "for 'gotten"),
        ("otherSlots", "warning", "cdc (physical, idle)"),
        ("roles", "warning", "Md5 'Role"),
        ("settings", "warning", "archive_command"),
        ("archive", "warning", "one archive"),
        ("hba", "warning", r#"host \"My Db\",all \"Md5 'Role\" 10.0.0.0/8 scram-sha-256"#),
        ("reachability", "warning", "127.0.0.1"),
        ("room", "ok", "keeper0 has 1.0 TiB free of 2.0 TiB"),
    ] {
        let (found, said) = of(&answer, subject);
        assert_eq!(found, level, "{major}, {subject}: {said}");
        assert!(said.contains(word), "{major}, {subject}: {word} is not in {said}");
    }
    let (_, keys) = of(&answer, "keys");
    assert!(!keys.contains("full_identity") && !keys.contains("scratch"), "{keys}");

    let run = source.check(&ctl, &["--output", "json"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let answer = json(&run);
    assert_eq!(answer["method"], "physical");
    // Only one of the two depends on a library; C.UTF-8 is one of the C library's, whatever its name.
    let (level, said) = of(&answer, "collations");
    assert_eq!(level, "warning", "{said}");
    assert!(said.contains(r#"\"By other\""#) && !said.contains("By 'note"), "{said}");
    let (_, said) = of(&answer, "settings");
    assert!(said.contains("work_mem = 7MB") && said.contains("taken over"), "{said}");
}

#[tokio::test]
async fn what_a_server_of_10_holds_is_found() {
    look_at(10).await;
}

#[tokio::test]
async fn what_a_server_of_15_holds_is_found() {
    look_at(15).await;
}

#[tokio::test]
async fn what_a_server_of_18_holds_is_found() {
    look_at(18).await;
}

#[tokio::test]
async fn a_server_with_many_databases_and_tables_is_read_within_seconds() {
    let source = Source::start(15, &[("fsync", "off"), ("max_locks_per_transaction", "256")], &[]);
    let many = "do $$ begin for i in 1..5000 loop \
        execute format('create table %I (id int)', 'Table ' || i); end loop; end $$";
    source.run("postgres", many).await;
    for number in 1..=20 {
        source.run("postgres", &format!("create database \"Db {number}\"")).await;
    }
    let ctl = Ctl::sqlite();
    keeper(&ctl, 17).await;
    let begun = Instant::now();
    let run = source.check(&ctl, &["--output", "json"]);
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    let answer = json(&run);
    let (_, said) = of(&answer, "databases");
    assert!(said.contains("21 databases with 5000 tables"), "{said}");
    let (level, said) = of(&answer, "keys");
    assert!(level == "warning" && said.contains("5000 tables have no key"), "{}", &said[..200]);
    let text = source.check(&ctl, &[]).stdout;
    assert!(text.contains("and 990 more: --output json names them") && text.lines().count() < 120, "{text}");
}

#[tokio::test]
async fn a_server_at_its_connection_limit_lets_a_superuser_look() {
    let source = Source::start(15, &[("max_connections", "12")], &[]);
    source.run("postgres", "create role poor login password 'secret'").await;
    let mut sessions = Vec::new();
    for _ in 0..9 {
        sessions.push(source.server.connect().await.unwrap());
    }
    let ctl = Ctl::sqlite();
    keeper(&ctl, 15).await;
    let run = source.check(&ctl, &["--output", "json"]);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert_eq!(of(&json(&run), "connections").0, "blocks", "{run:?}");

    let source = source.conninfo("poor");
    let run = ctl.run(&["migrate", "check", "--source", &source]);
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stdout.contains("remaining connection slots are reserved"), "{run:?}");
}

/// The switch closes the server by ALTER SYSTEM, so it has to be known before anything is closed.
#[tokio::test]
async fn a_server_that_forbids_alter_system_is_not_switched_away_from() {
    let source = Source::start(18, &[("allow_alter_system", "off")], &[]);
    let ctl = Ctl::sqlite();
    keeper(&ctl, 18).await;
    let answer = json(&source.check(&ctl, &["--output", "json"]));
    let (level, said) = of(&answer, "alterSystem");
    assert_eq!(level, "blocks", "{said}");

    ctl.done(&["init", "--yes"]);
    let mut document = ctl.document();
    let mut head = Instance { uid: "i".into(), ..Instance::default() };
    head.spec.keeper_uid = "keeper0".into();
    head.status.healthy = true;
    document.instances = Some([(InstanceUid::from("i"), head)].into());
    let status = &mut document.cluster.as_mut().unwrap().status;
    status.primary = Some("i".into());
    status.migration = Some(Migration {
        uid: "m1".to_owned(),
        stage: Some(MigrationStage::Following),
        source: source.conninfo("postgres"),
        ..Migration::default()
    });
    ctl.store().put_cluster_document(&document).await.unwrap();
    let run = ctl.run(&["migrate", "switch", "--dry-run", "--output", "json"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("allow_alter_system of the legacy server is off"), "{run:?}");
}

#[tokio::test]
async fn who_may_not_see_everything_is_told_so() {
    let source = Source::start(15, &[], &[]);
    source.run("postgres", "create role poor login password 'secret'").await;
    source.run("postgres", "create database shut; ").await;
    source.run("postgres", "revoke connect on database shut from public").await;
    let ctl = Ctl::sqlite();
    let conninfo = source.conninfo("poor");
    let run = ctl.run(&["migrate", "check", "--output", "json", "--source", &conninfo]);
    let answer = json(&run);
    assert_eq!(run.code, Some(2), "{run:?}");
    for (subject, level, word) in [
        ("privileges", "blocks", "poor is no superuser"),
        ("hba", "warning", "may not read"),
        ("roles", "warning", "may not know"),
        ("databases", "warning", "shut: "),
        ("method", "warning", "no keeper reports"),
    ] {
        let (found, said) = of(&answer, subject);
        assert!(found == level && said.contains(word), "{subject}: {said}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_let_us_in_or_hangs_is_not_known() {
    let source = Source::start(15, &[], &[]);
    let ctl = Ctl::sqlite();
    source.write_password("wrong");
    let run = source.check(&ctl, &["--output", "json"]);
    assert_eq!(run.code, Some(3), "{run:?}");
    let answer = json(&run);
    assert!(answer["error"].as_str().unwrap().contains("password authentication failed"), "{answer}");
    assert!(answer["hint"].as_str().unwrap().contains("passfile"), "{answer}");

    // It takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let conninfo = format!("host=127.0.0.1 port={} user=postgres", silent.local_addr().unwrap().port());
    let begun = Instant::now();
    let run = ctl.run(&["migrate", "check", "--source", &conninfo]);
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn what_cannot_be_meant_is_bad_input() {
    let ctl = Ctl::sqlite();
    for (source, word) in [
        ("host=legacy user=postgres password=hidden", "password"),
        ("host=legacy", "user"),
        ("legacy", "could not read"),
    ] {
        let run = ctl.run(&["migrate", "check", "--source", source]);
        assert!(run.code == Some(2) && run.stderr.contains(word), "{run:?}");
        assert!(!run.stderr.contains("hidden") && run.stdout.is_empty(), "{run:?}");
    }
    let run = ctl.run(&["migrate", "check", "--source", "host=h user=u", "--method", "magic"]);
    assert_eq!(run.code, Some(2), "{run:?}");
}
