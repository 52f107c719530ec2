//! `migrate verify` against real pairs of servers: a standby that follows, two that went apart, and two majors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use stolon_model::{Instance, InstanceUid, Migration, MigrationStage};

use super::harness::{Ctl, Run};
use super::migrate_check::Source;

/// Something of each kind, with names as nobody should choose them.
const SCHEMA: &str = r#"
create schema "My ""Sch";
create table "My ""Sch"."Ta'ble" (id serial primary key, note text, at timestamptz, check (id > 0));
insert into "My ""Sch"."Ta'ble" (note, at) select 'needle ' || i, timestamptz '2020-02-29' + i * interval '1 min' from generate_series(1, 2000) i;
create table busy (id serial primary key, v text);
insert into busy (v) select 'haystack ' || i from generate_series(1, 2000) i;
create table parts (id int, v float8) partition by range (id);
create table parts1 partition of parts for values from (0) to (100);
insert into parts select i, i / 7.0 from generate_series(1, 99) i;
create table empty ();
create unlogged table scratch (id int);
insert into scratch values (1);
create view turnover as select count(*) from busy;
create materialized view stored as select max(id) from busy;
create function twice(i int) returns int language sql as 'select i * 2';
create function touched() returns trigger language plpgsql as 'begin return new; end';
create trigger "On 'touch" before update on busy for each row execute procedure touched();
create index "By 'v" on busy (v);
create table across as select 'left' as a, 'right' as b, 7 as c, 8 as d;
create table down as select i as a, 10 * i as b, 'text ' || i as c from generate_series(1, 2) i;
create table nothing as select null::text as a, ''::bytea as b, 'x'::char(8) as c;
create table folded as select 0::bigint as a;
create table no_uuid as select null::uuid as a;
create table no_bigint as select null::bigint as a;
create table no_int as select null::int as a;
create table no_truth as select false as a;
create table doubled as select i % 2 as a from generate_series(1, 6) i;
create role clerk login password 'hidden';
grant select on busy to clerk;
"#;

fn ctl() -> Ctl {
    let ctl = Ctl::sqlite();
    ctl.done(&["init", "--yes"]);
    ctl
}

fn verify(ctl: &Ctl, source: &Source, target: &Source, arguments: &[&str]) -> Run {
    let (source, target) = (source.conninfo("postgres"), target.conninfo("postgres"));
    let mut all = vec!["migrate", "verify", "--source", &source, "--target", &target];
    all.extend(arguments);
    ctl.run(&all)
}

#[track_caller]
fn compared(run: &Run) -> Vec<Value> {
    let answer: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"));
    answer["compared"].as_array().expect("rows").clone()
}

/// What does not hold, as kind, name and everything that is said.
#[track_caller]
fn bad(run: &Run) -> Vec<(String, String)> {
    let is_bad = |row: &&Value| row["outcome"] == "differs" || row["outcome"] == "notCompared";
    let text = |row: &Value| (row["kind"].as_str().unwrap_or_default().to_owned(), row.to_string());
    compared(run).iter().filter(is_bad).map(text).collect()
}

/// Somebody who writes all the time.
struct Writer {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<u32>,
}

impl Writer {
    async fn start(source: &Source) -> Writer {
        let client = source.server.connect().await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let task = tokio::spawn(async move {
            let mut written = 0;
            while !ended.load(Ordering::SeqCst) {
                let write = "insert into busy (v) values ('new'); update busy set v = v || '.' where id = 7";
                client.batch_execute(write).await.unwrap();
                written += 1;
            }
            written
        });
        Writer { stop, task }
    }

    async fn end(self) -> u32 {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_holds_what_its_primary_holds_while_that_is_written() {
    let source = Source::start(15, &[("fsync", "off")], &[]);
    source.run("postgres", SCHEMA).await;
    source.run("postgres", "create database \"Other 'Db\"").await;
    source.run("Other 'Db", "create table t as select generate_series(1, 50) i").await;
    let mut standby = source.standby();
    let writer = Writer::start(&source).await;
    let ctl = ctl();
    let run = verify(&ctl, &source, &standby, &["--output", "json"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    assert_eq!(bad(&run), []);
    assert!(!run.stdout.contains("hidden"), "{run:?}");
    let rows = compared(&run);
    let table = |name: &str| {
        rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}: {rows:#?}"))
    };
    for (name, count) in [
        (r#""My ""Sch"."Ta'ble""#, 2000),
        ("public.parts1", 99),
        ("public.empty", 0),
        ("public.t", 50),
        ("public.stored", 1),
    ] {
        assert!(table(name)["rows"] == count && table(name)["outcome"] == "holds", "{}", table(name));
    }
    assert!(table("public.busy")["rows"].as_u64() > Some(2000), "{}", table("public.busy"));
    assert_eq!(table("public.scratch")["outcome"], "noted");
    assert!(writer.end().await > 0);

    let text = verify(&ctl, &source, &standby, &[]).stdout;
    assert!(text.contains("=== Other 'Db ===\nok       1 tables with 50 rows\n"), "{text}");
    assert!(text.ends_with("Everything holds, while the cluster follows the legacy server.\n"), "{text}");

    // A disk that lies: another letter in the file of a table that is written all the time.
    source.run("postgres", "checkpoint").await;
    let file = source.value("select pg_relation_filepath('busy')").await;
    standby.server.stop().unwrap();
    let path = standby.server.data_directory().join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(13).position(|part| part == b"haystack 1000").expect("a row in the file");
    bytes[at] = b'H';
    std::fs::write(&path, bytes).unwrap();
    standby.server.start_again().unwrap();
    let writer = Writer::start(&source).await;
    let run = verify(&ctl, &source, &standby, &["--output", "json"]);
    writer.end().await;
    assert_eq!(run.code, Some(1), "{run:?}");
    let bad = bad(&run);
    assert!(bad.len() == 1 && bad[0].1.contains("rows on both sides, with another content"), "{bad:#?}");
    assert!(bad[0].1.contains("public.busy"), "{bad:#?}");
}

/// After the switch: what the cluster writes goes to the legacy server too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_back_holds_what_the_cluster_holds_while_that_is_written() {
    let cluster = Source::start(15, &[("fsync", "off"), ("wal_level", "logical")], &[]);
    cluster.run("postgres", SCHEMA).await;
    cluster.run("postgres", "create publication p for all tables").await;
    let slot = "select pg_create_logical_replication_slot('migration_m1_' || oid, 'pgoutput')::text from pg_database where datname = 'postgres'";
    cluster.value(slot).await;
    let legacy = cluster.standby();
    legacy.run("postgres", "select pg_promote()").await;
    let (oid, port) = (
        cluster.value("select oid::text from pg_database where datname = 'postgres'").await,
        cluster.server.port(),
    );
    let subscribe = format!(
        "create subscription s connection 'host=127.0.0.1 port={port} user=postgres password=secret dbname=postgres' publication p \
         with (create_slot = false, copy_data = false, slot_name = 'migration_m1_{oid}')"
    );
    legacy.run("postgres", &subscribe).await;
    let ctl = ctl();
    let mut document = ctl.document();
    let migration =
        Migration { uid: "m1".to_owned(), stage: Some(MigrationStage::Switched), ..Migration::default() };
    document.cluster.as_mut().unwrap().status.migration = Some(migration);
    ctl.store().put_cluster_document(&document).await.unwrap();

    let writer = Writer::start(&cluster).await;
    let run = verify(&ctl, &legacy, &cluster, &["--output", "json"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    let busy = compared(&run).into_iter().find(|row| row["name"] == "public.busy").unwrap();
    assert!(busy["rows"].as_u64() > Some(2000), "{busy}");
    legacy.run("postgres", "update busy set v = 'other' where id = 1500").await;
    let run = verify(&ctl, &legacy, &cluster, &["--output", "json"]);
    writer.end().await;
    let bad = bad(&run);
    assert!(run.code == Some(1) && bad.len() == 1 && bad[0].1.contains("public.busy"), "{bad:#?}");
    let text = verify(&ctl, &legacy, &cluster, &[]).stdout;
    assert!(text.ends_with("Not everything holds, while the legacy server follows the cluster.\n"), "{text}");
}

#[tokio::test]
async fn each_kind_of_difference_is_found() {
    let source = Source::start(15, &[("fsync", "off")], &[]);
    source.run("postgres", SCHEMA).await;
    source
        .run(
            "postgres",
            "create extension amcheck; create table dropped (); select setval('busy_id_seq', 5000)",
        )
        .await;
    let mut other = source.standby();
    other.run("postgres", "select pg_promote()").await;
    let ctl = ctl();
    let run = verify(&ctl, &source, &other, &["--output", "json"]);
    assert_eq!(run.code, Some(0), "{:#?}", bad(&run));
    let kinds: Vec<Value> = compared(&run).iter().map(|row| row["kind"].clone()).collect();
    assert!(kinds.contains(&"amcheck".into()), "{kinds:?}");

    for changes in ROUNDS {
        let mut apart = other.copy();
        for (change, ..) in *changes {
            apart.run("postgres", change).await;
        }
        let run = verify(&ctl, &source, &apart, &["--output", "json"]);
        assert_eq!(run.code, Some(1), "{run:?}");
        let bad = bad(&run);
        for (change, kind, word) in *changes {
            assert!(
                bad.iter().any(|(found, said)| found == kind && said.contains(word)),
                "{change}: {bad:#?}"
            );
        }
        assert!(!run.stdout.contains("hidden"), "{run:?}");
        apart.server.stop().unwrap();
    }
    other.server.stop().unwrap();
}

/// What is changed, the kind of row that it shows in, and a word of it. Those of a round do not meet.
const ROUNDS: &[&[(&str, &str, &str)]] = &[
    &[
        (r#"update "My ""Sch"."Ta'ble" set note = note || ' ' where id = 700"#, "table", "Ta'ble"),
        ("update parts set v = 1.0000000000000002 where id = 7", "table", "parts1"),
        ("update across set a = b, b = a", "table", "public.across"),
        ("update down set a = 3 - a", "table", "public.down"),
        ("update nothing set a = ''", "table", "public.nothing"),
        // Both halves change alike, which the hash of int8 does not show.
        ("update folded set a = 4294967297", "table", "public.folded"),
        ("update no_uuid set a = '00000000-0000-0000-0000-000000000000'", "table", "public.no_uuid"),
        ("update no_bigint set a = 0", "table", "public.no_bigint"),
        ("update no_int set a = 0", "table", "public.no_int"),
        ("update no_truth set a = null", "table", "public.no_truth"),
        (
            "update doubled set a = 0 where ctid in (select ctid from doubled where a = 1 limit 2)",
            "table",
            "public.doubled",
        ),
        ("drop table dropped", "table", "it is missing"),
        ("create table surplus ()", "table", "only the follower has it"),
        ("alter table empty add column more int", "table", "other columns"),
        ("alter table busy alter v set default 'x'", "columns", "public.busy.v"),
        ("select setval('busy_id_seq', 4000)", "sequences", "at 5000, on the follower at 4000"),
        (r#"drop index "By 'v""#, "indexes", "By 'v"),
        (r#"alter table "My ""Sch"."Ta'ble" drop constraint "Ta'ble_id_check""#, "constraints", "is missing"),
        ("create or replace view turnover as select 1::bigint as count", "views", "turnover"),
        (
            "create or replace function twice(i int) returns int language sql as 'select i + i'",
            "functions",
            "twice",
        ),
        (r#"alter table busy disable trigger "On 'touch""#, "triggers", "On 'touch"),
        ("drop extension amcheck", "extensions", "amcheck is missing"),
        ("revoke select on busy from clerk", "grants", "SELECT to clerk"),
        ("alter role clerk password 'other hidden'", "roles", "clerk is another"),
        ("alter role clerk set work_mem = '8MB'", "settings of databases and roles", "clerk"),
        ("create database more", "databases", "only the follower has it"),
        (
            "set allow_system_table_mods = on; update pg_index set indisvalid = false where indexrelid = 'busy_pkey'::regclass",
            "invalid indexes",
            "busy_pkey",
        ),
    ],
    &[(r#"update "My ""Sch"."Ta'ble" set note = null where id = 700"#, "table", "with another content")],
    &[
        ("update across set c = d, d = c", "table", "public.across"),
        ("update down set c = 'text ' || (3 - a)", "table", "public.down"),
        ("update nothing set b = null", "table", "public.nothing"),
    ],
    &[(r#"delete from "My ""Sch"."Ta'ble" where id = 700"#, "table", "2000 rows, and 1999 on the follower")],
];

/// Values whose text depends on the major, the session, the database or the role.
const DELICATE: &str = r#"
create type mood as enum ('sad', 'ok', '');
create type triple as (i int, f float8, t text);
create domain year as int check (value > 0);
create table delicate (id int primary key, f4 float4, f8 float8, fs float8[], p point, n numeric, m money, b bytea, t timestamptz, i interval, d date, a text[], u uuid,
    c char(8), m2 mood, pair triple, j jsonb, js json, y year, bits varbit, ip inet, "ch|ar" "char");
insert into delicate select i, i / 7.0, pi() / i, array[i / 3.0::float8, '-0', 'NaN', 'Infinity']::float8[], point(i / 7.0, 1e-300), i / 7.0, i, ('\x00ff' || lpad(to_hex(i), 4, '0'))::bytea,
    timestamptz '1999-12-31 23:59:59.999999+00' + i * interval '37 min', i * interval '1 month 3 days 0.5 s', date '0044-03-15 BC' + i, array['a\b', null, '{', i::text], md5(i::text)::uuid,
    'x', (enum_range(null::mood))[i % 4], (i, null, 'a|b')::triple, json_build_object('a|', i, 'n', 1.10), '{"b": 1.0}', i, b'', '10.0.0.1/8', '|'
    from generate_series(1, 500) i;
"#;

#[tokio::test]
async fn rows_are_the_same_on_majors_that_write_them_differently() {
    let old = Source::start(
        10,
        &[("timezone", "Asia/Tokyo"), ("bytea_output", "escape"), ("datestyle", "german")],
        &[],
    );
    let new = Source::start(18, &[("extra_float_digits", "0"), ("intervalstyle", "iso_8601")], &[]);
    for source in [&old, &new] {
        source.run("postgres", DELICATE).await;
        source.run("postgres", "alter role postgres set timezone = 'America/New_York'").await;
    }
    let ctl = ctl();
    let tables = |run: &Run| -> Vec<Value> {
        compared(run).into_iter().filter(|row| row["kind"] == "table").collect()
    };
    let run = verify(&ctl, &old, &new, &["--output", "json"]);
    let rows = tables(&run);
    assert!(rows.len() == 1 && rows[0]["outcome"] == "holds" && rows[0]["rows"] == 500, "{rows:#?}");
    // The next float, which fifteen digits do not tell apart.
    new.run("postgres", "update delicate set f8 = 3.1415926535897936 where id = 1").await;
    let rows = tables(&verify(&ctl, &old, &new, &["--output", "json"]));
    assert_eq!(rows[0]["outcome"], "differs", "{rows:#?}");
}

#[tokio::test]
async fn a_standby_that_does_not_replay_is_not_taken_for_equal() {
    let source = Source::start(15, &[("fsync", "off")], &[]);
    source.run("postgres", "create table t (i int)").await;
    let standby = source.standby();
    standby.run("postgres", "select pg_wal_replay_pause()").await;
    source.run("postgres", "insert into t values (1)").await;
    let run = verify(&ctl(), &source, &standby, &[]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
    assert!(run.stderr.contains("has not come within 15 s to where the leader was"), "{run:?}");
}

#[tokio::test]
async fn the_cluster_is_found_by_its_data_and_the_legacy_server_among_several() {
    let source = Source::start(15, &[("fsync", "off")], &[]);
    source.run("postgres", "create table t (i int)").await;
    let (standby, old_standby) = (source.standby(), source.standby());
    // The copy has the legacy server's users, and the password file knows those of the legacy servers alone.
    let (port, other) = (source.server.port(), old_standby.server.port());
    source.write_passfile(&format!("127.0.0.1:{other}:*:*:secret\n127.0.0.1:{port}:*:*:secret\n"));
    let ctl = ctl();
    let mut document = ctl.document();
    let mut instance = Instance { uid: "i".into(), ..Instance::default() };
    instance.status.listen_address = "127.0.0.1".to_owned();
    instance.status.port = standby.server.port().to_string();
    document.instances = Some([(InstanceUid::from("i"), instance)].into());
    ctl.store().put_cluster_document(&document).await.unwrap();
    let legacy = source.conninfo("postgres").replace("host=127.0.0.1", "host=127.0.0.1,127.0.0.1");
    let legacy = legacy.replace(&format!("port={port}"), &format!("port={other},{port}"));
    let run = ctl.run(&["migrate", "verify", "--source", &legacy]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    assert!(
        run.stdout.ends_with("Everything holds, while the cluster follows the legacy server.\n"),
        "{run:?}"
    );
}

#[tokio::test]
async fn a_standby_of_another_server_is_refused() {
    let source = Source::start(15, &[("fsync", "off")], &[]);
    let stranger = Source::start(15, &[("fsync", "off")], &[]);
    let standby = stranger.standby();
    let run = verify(&ctl(), &source, &standby, &[]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.starts_with("the cluster is a standby of another server"), "{run:?}");
}
