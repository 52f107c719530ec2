//! A live database moves into a cluster of a newer major version of PostgreSQL, as rows: `stolonctl migrate` by the logical method.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use stolon_testkit::local::Target;
use stolon_testkit::local::writes::Writing;
use stolon_testkit::{
    Cluster, Foreign, PATIENCE, Plan, QUERY, nothing_is_lost, on_cluster, wait_for, writes_are_back,
};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

/// What a legacy server must allow.
const LEGACY: &str = "wal_level = logical\nmax_replication_slots = 30\nmax_wal_senders = 30\nmax_worker_processes = 40\n\
    max_logical_replication_workers = 30\nfsync = off\n";

/// Names as nobody should choose them, partitions, generated and identity columns, a table without a key, one whose key is an index, and
/// what comes after the copy: indexes, foreign keys, triggers, views.
const SCHEMA: &str = r#"
create role clerk login password 'of the clerk';
create role "Team ""A" nologin;
grant "Team ""A" to clerk;
alter role clerk set search_path = "My ""Sch", public;
create schema "My ""Sch" authorization "Team ""A";
create type mood as enum ('good', 'it''s bad');
create table "My ""Sch"."Ta'ble" (id int generated always as identity primary key, note text not null, mood mood default 'good');
insert into "My ""Sch"."Ta'ble" (note) select 'note ' || i from generate_series(1, 500) i;
alter table "My ""Sch"."Ta'ble" owner to "Team ""A";
create table keyless (id int, note text);
insert into keyless select i, 'keyless ' || i from generate_series(1, 50) i;
create table silent (id int, note text);
alter table silent replica identity nothing;
create table by_index (id int not null, note text);
create unique index by_index_id on by_index (id);
alter table by_index replica identity using index by_index_id;
insert into by_index select i, 'i' from generate_series(1, 50) i;
create table computed (id serial primary key, net numeric, gross numeric generated always as (net * 2) stored);
insert into computed (net) select i from generate_series(1, 50) i;
create table parts (id int not null, at date not null, primary key (id, at)) partition by range (at);
create table parts_old partition of parts for values from ('2020-01-01') to ('2021-01-01');
create table "parts NEW" partition of parts for values from ('2021-01-01') to ('2022-01-01');
insert into parts select i, date '2020-06-01' + i * 10 from generate_series(1, 50) i;
create table refers (id serial primary key, computed int references computed);
insert into refers (computed) select i from generate_series(1, 50) i;
create index refers_computed on refers (computed);
create view turnover as select sum(net) as net from computed;
create materialized view stored as select count(*) from keyless;
create function touched() returns trigger language plpgsql as 'begin new.note := new.note || ''.''; return new; end';
create trigger "On 'touch" before update on keyless for each row execute function touched();
comment on index refers_computed is 'an index';
create unlogged table scratch (id int);
grant select on keyless to clerk;
"#;

/// What can be asked of both sides, whatever their versions.
const CONTENT: &[&str] = &[
    r#"select md5(string_agg(t::text, ',' order by t::text)) from "My ""Sch"."Ta'ble" t"#,
    "select md5(string_agg(t::text, ',' order by t::text)) from keyless t",
    "select md5(string_agg(t::text, ',' order by t::text)) from silent t",
    "select md5(string_agg(t::text, ',' order by t::text)) from by_index t",
    "select md5(string_agg(t::text, ',' order by t::text)) from computed t",
    "select md5(string_agg(tableoid::regclass || t::text, ',' order by t::text)) from parts t",
    "select md5(string_agg(t::text, ',' order by t::text)) from refers t",
    "select net from turnover",
    "select count from stored",
    "select string_agg(indexdef, ',' order by indexdef) from pg_indexes where schemaname not in ('pg_catalog', 'information_schema')",
    "select string_agg(conrelid::regclass || conname || pg_get_constraintdef(oid), ',' order by conrelid::regclass::text, conname) from pg_constraint where contype in ('p', 'f', 'u') and conrelid >= 16384",
    "select string_agg(tgname, ',') from pg_trigger where not tgisinternal",
    "select obj_description('refers_computed'::regclass)",
    "select string_agg(rolname || rolcanlogin || coalesce(rolpassword, ''), ',' order by rolname) from pg_authid where rolname in ('clerk', 'Team \"A')",
    "select string_agg(relname::text || relreplident::text, ',' order by relname) from pg_class where relname in ('by_index')",
];

/// The legacy server, and how it and the cluster are connected to.
struct Sides {
    legacy: Foreign,
    source: String,
    programs: String,
}

impl Sides {
    async fn create(cluster: &mut Cluster, major: u16) -> anyhow::Result<Sides> {
        let mut legacy = Foreign::of_major(cluster, major, "legacy", LEGACY).await?;
        legacy.start().await?;
        Ok(Sides { source: legacy.source(), legacy, programs: cluster.layout.pg_bin.display().to_string() })
    }

    fn start(&self) -> [&str; 8] {
        ["start", "--yes", "--method", "logical", "--source", &self.source, "--pg-bin-path", &self.programs]
    }

    /// What a migration could have changed on the legacy server.
    async fn as_it_is(&self) -> anyhow::Result<Vec<String>> {
        let session = self.legacy.server.target().connect(QUERY).await?;
        let mut found = Vec::new();
        for sql in [
            "select string_agg(slot_name, ' ') from pg_replication_slots",
            "select string_agg(pubname, ' ') from pg_publication",
            "select string_agg(subname, ' ') from pg_subscription",
            "select string_agg(oid::regclass::text || relreplident, ' ' order by oid) from pg_class where relkind = 'r'",
            "select string_agg(name || '=' || setting, ' ' order by name) from pg_settings where source <> 'override'",
        ] {
            found.push(session.value(sql, QUERY).await?);
        }
        Ok(found)
    }
}

fn plan(major: u16) -> Plan {
    let mut parameters = json!({
        "wal_level": "logical",
        "max_logical_replication_workers": "30",
        "max_worker_processes": "48",
        // Room for some two thousand locks.
        "max_locks_per_transaction": "10",
    });
    if major >= 18 {
        parameters["max_active_replication_origins"] = json!("30");
    }
    Plan::new(2).major(major).spec(json!({ "pgParameters": parameters, "maxStandbys": 30 }))
}

async fn migrate(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<Value> {
    cluster.migrate(arguments, PATIENCE * 2).await
}

/// The application has rows acknowledged that it begins from now on.
async fn goes_on(application: &Writing) -> anyhow::Result<()> {
    writes_are_back(application, Instant::now()).await
}

/// The head of the cluster, past its proxies.
async fn head(cluster: &Cluster) -> anyhow::Result<Target> {
    Ok(cluster.instance(cluster.primary().await?))
}

/// Both sides answer everything in the same way.
async fn have_the_same(one: &Target, other: &Target) -> anyhow::Result<()> {
    let (one, other) = (one.connect(QUERY).await?, other.connect(QUERY).await?);
    for sql in CONTENT {
        let (ours, theirs) = (one.value(sql, QUERY).await?, other.value(sql, QUERY).await?);
        ensure!(ours == theirs, "{sql}: {ours} and {theirs}");
    }
    Ok(())
}

/// Everything comes, in many databases and whatever it is called, and what is given up leaves the legacy server as it was found, although it
/// was written to all the time.
#[test]
fn a_cluster_of_a_newer_major_follows_and_is_given_up() {
    on_cluster(plan(17), async |cluster| {
        let sides = Sides::create(cluster, 13).await?;
        sides.legacy.run(SCHEMA).await?;
        sides.legacy.run("create database \"Other \"\"One'\" owner clerk").await?;
        sides.legacy.run("alter database \"Other \"\"One'\" set work_mem = '5MB'").await?;
        let other = sides.legacy.server.target().database("Other \"One'");
        other.connect(QUERY).await?.rows("create table t as select generate_series(1, 10) i", QUERY).await?;
        more_tables_than_locks(cluster, &sides).await?;
        let writing = sides.legacy.application(&[], 2).await?;
        let before = sides.as_it_is().await?;

        let started = migrate(cluster, &sides.start()).await?;
        ensure!(started["figures"]["start_seconds"].is_f64(), "it says {started}");
        // Nobody but us gets in, whoever they are: proxies lead to the legacy server.
        let led = cluster.session().await?.value("select inet_server_port()", QUERY).await?;
        ensure!(led == sides.legacy.server.port.to_string(), "a proxy leads to {led}");
        let status = migrate(cluster, &["status"]).await?;
        ensure!(
            status["stage"] == "following"
                && status["method"] == "logical"
                && status["problems"] == json!([]),
            "status says {status}"
        );
        ensure!(
            status["tables_ready"] == status["tables_total"] && status["lag_bytes"].is_u64(),
            "status says {status}"
        );

        // Inserts, updates and deletes arrive, in tables without a key, too.
        let busy = sides.legacy.server.target();
        let session = busy.connect(QUERY).await?;
        session
            .rows(
                "update keyless set note = 'changed' where id < 10; delete from keyless where id > 40",
                QUERY,
            )
            .await?;
        session
            .rows(
                "update by_index set id = id + 1000 where id < 10; insert into silent values (1, 'a')",
                QUERY,
            )
            .await?;
        session.rows("truncate refers; insert into refers (computed) values (7)", QUERY).await?;
        let ledger = writing.stop().await;
        let target = head(cluster).await?;
        wait_for("what was written last", PATIENCE, async || {
            let verdict = ledger.check(&target).await?;
            Ok(verdict.lost.is_empty().then_some(()))
        })
        .await?;
        let settled = wait_for("the same on both sides", PATIENCE, async || {
            Ok(have_the_same(&busy, &target).await.ok())
        });
        if settled.await.is_err() {
            have_the_same(&busy, &target).await?;
        }
        let there = target.database("Other \"One'").connect(QUERY).await?;
        ensure!(
            there.value("select count(*) from t", QUERY).await? == "10",
            "the other database is not there"
        );
        ensure!(there.value("show work_mem", QUERY).await? == "5MB", "without its settings");

        // Somebody changes a definition: it is noticed and named.
        session.rows("alter table keyless add column late int; create table newer (id int)", QUERY).await?;
        let status = migrate(cluster, &["status"]).await?;
        let problems = status["problems"].to_string();
        ensure!(
            problems.contains("public.keyless.late is new") && problems.contains("public.newer.id is new"),
            "status says {status}"
        );
        let refused = cluster.stolonctl(&["migrate", "switch"], "").await?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && said.contains("public.keyless.late is new"), "it says {said}");
        session.rows("alter table keyless drop column late; drop table newer", QUERY).await?;
        ensure!(migrate(cluster, &["status"]).await?["problems"] == json!([]), "it is not forgotten again");

        migrate(cluster, &["abort"]).await?;
        let after = sides.as_it_is().await?;
        ensure!(after[..4] == before[..4], "before: {before:#?}, after: {after:#?}");
        ensure!(after == before, "settings: {before:#?}, after: {after:#?}");
        session.rows("update keyless set note = 'still writable'", QUERY).await.map(drop)
    });
}

/// More tables than the cluster has room to lock at the same time are refused beforehand, with the value that is needed.
async fn more_tables_than_locks(cluster: &Cluster, sides: &Sides) -> anyhow::Result<()> {
    let many = "create schema many; do $$ begin for i in 1..2500 loop \
        execute format('create table many.t%s ()', i); end loop; end $$";
    let session = sides.legacy.server.target().connect(QUERY).await?;
    session.rows(many, PATIENCE).await?;
    let arguments: Vec<&str> = std::iter::once("migrate").chain(sides.start()).collect();
    let refused = cluster.stolonctl(&arguments, "").await?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        !refused.status.success()
            && said.contains("max_locks_per_transaction of the cluster is 10, which is too little to make 2"),
        "it says {said}"
    );
    session.rows("drop schema many cascade", PATIENCE).await.map(drop)
}

/// `stolonctl migrate`, which is killed once it says something with these words.
async fn killed_at(cluster: &Cluster, arguments: &[&str], words: &str) -> anyhow::Result<()> {
    let mut command = cluster.layout.stolonctl();
    command.arg("migrate").args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child: Child = command.spawn()?;
    let mut lines = BufReader::new(child.stderr.take().context("no stderr")?).lines();
    let mut said = Vec::new();
    loop {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.context("it says nothing")??;
        let line = line.with_context(|| format!("it ended without {words:?}: {said:?}"))?;
        if line.contains(words) {
            return child.kill().await.context("it cannot be killed");
        }
        said.push(line);
    }
}

impl Sides {
    /// Nobody gets in, not even its superuser.
    async fn is_closed(&self) -> anyhow::Result<()> {
        let entered = self.legacy.server.target().connect(QUERY).await;
        let refused = entered.err().context("the legacy server lets its superuser in")?;
        ensure!(format!("{refused:#}").contains("58P01"), "refused for another reason: {refused:#}");
        Ok(())
    }
}

/// The cluster takes over and the legacy server takes over again, under an application that is promised every row, and with a `stolonctl`
/// that dies on the way.
#[test]
fn a_database_moves_to_a_newer_major_and_back() {
    on_cluster(plan(17), async |cluster| {
        let sides = Sides::create(cluster, 13).await?;
        sides.legacy.run(SCHEMA).await?;
        let old = sides.legacy.server.target();
        let application = sides.legacy.application(&[cluster.proxy()], 1).await?;
        let before = sides.as_it_is().await?;
        goes_on(&application).await?;
        let since = Instant::now();
        for words in
            ["is closed for clients", "roles and databases are made", "is published", "is copied; indexes"]
        {
            killed_at(cluster, &sides.start(), words).await?;
        }
        migrate(cluster, &sides.start()).await?;
        let verified = cluster.stolonctl(&["migrate", "verify", "--output", "json"], "").await?;
        tables_hold(&verified.stdout)?;

        // What the switch did not come to is gone on with, or taken back.
        killed_at(cluster, &["switch"], "lets nobody in").await?;
        sides.is_closed().await?;
        ensure!(cluster.proxy().connect(Duration::from_secs(2)).await.is_err(), "both sides are open");
        migrate(cluster, &["rollback"]).await?;
        goes_on(&application).await?;
        let switched = migrate(cluster, &["switch"]).await?;
        eprintln!("stolonctl measured {switched}");
        ensure!(
            switched["undo"].as_str().is_some_and(|undo| undo.contains("rollback")),
            "no way back: {switched}"
        );
        goes_on(&application).await?;
        sides.is_closed().await?;
        let session = cluster.session().await?;
        let next: i64 = session.value("select nextval('computed_id_seq')", QUERY).await?.parse()?;
        ensure!((51..=200).contains(&next), "the sequence goes on at {next}");
        session
            .rows("insert into keyless values (1000, 'new'); delete from keyless where id = 2", QUERY)
            .await?;
        session.rows("update parts set at = at + 1 where id = 3", QUERY).await?;
        drop(session);
        let verified = cluster.stolonctl(&["migrate", "verify", "--output", "json"], "").await?;
        tables_hold(&verified.stdout)?;

        killed_at(cluster, &["rollback"], "lets no client in").await?;
        sides.is_closed().await?;
        migrate(cluster, &["rollback"]).await?;
        goes_on(&application).await?;
        nothing_is_lost(&application.stop().await, &old, since).await?;
        let session = old.connect(QUERY).await?;
        let notes = "select string_agg(id || note, ',' order by id) from keyless where id in (1, 2, 3, 1000)";
        ensure!(session.value(notes, QUERY).await? == "1keyless 1,3keyless 3,1000new", "other notes");
        let after = sides.as_it_is().await?;
        ensure!(after == before, "before: {before:#?}, after: {after:#?}");
        Ok(())
    });
}

/// Every table that was compared holds the same on both sides.
fn tables_hold(answer: &[u8]) -> anyhow::Result<()> {
    let answer: Value = serde_json::from_slice(answer).context("verify gives no JSON")?;
    ensure!(answer["following"] == true, "verify does not see who follows: {answer}");
    let rows = answer["compared"].as_array().context("no rows")?;
    let tables: Vec<&Value> = rows.iter().filter(|row| row["kind"] == "table").collect();
    let bad: Vec<&&Value> = tables.iter().filter(|row| row["outcome"] == "differs").collect();
    ensure!(tables.len() > 8 && bad.is_empty(), "verify says {bad:#?} of {} tables", tables.len());
    Ok(())
}

/// The oldest to the newest, with more databases than are worked on at the same time: the switch dies half-way and is gone on with, and nothing is left in the end.
#[test]
fn the_oldest_major_moves_to_the_newest() {
    on_cluster(plan(18), async |cluster| {
        let sides = Sides::create(cluster, 10).await?;
        let more = (4..12).map(|number| format!("Da\"ta {number}"));
        let names: Vec<String> =
            ["one", "Two", "th'ree"].map(str::to_owned).into_iter().chain(more).collect();
        for name in &names {
            sides.legacy.run(&format!("create database \"{}\"", name.replace('"', "\"\""))).await?;
            let session = sides.legacy.server.target().database(name).connect(QUERY).await?;
            session
                .rows(
                    "create table t (id serial, note text); insert into t (note) values ('a'), ('b')",
                    QUERY,
                )
                .await?;
        }
        let application = sides.legacy.application(&[cluster.proxy()], 1).await?;
        goes_on(&application).await?;
        let since = Instant::now();
        migrate(cluster, &sides.start()).await?;
        killed_at(cluster, &["switch"], "all its sessions are ended").await?;
        sides.is_closed().await?;
        let switched = migrate(cluster, &["switch", "--max-downtime", "60s"]).await?;
        eprintln!("stolonctl measured {switched}");
        for part in [
            "closing",
            "last_rows",
            "definitions_and_sequences",
            "proxies",
            "taking_over",
            "way_back",
            "opening",
        ] {
            let figure = &switched["figures"][format!("downtime_{part}_seconds")];
            ensure!(figure.is_number(), "nobody is told how long {part} took: {switched}");
        }
        goes_on(&application).await?;
        nothing_is_lost(&application.stop().await, &cluster.proxy(), since).await?;
        for name in &names {
            let session = head(cluster).await?.database(name).connect(QUERY).await?;
            ensure!(
                session.value("select count(*) from t", QUERY).await? == "2",
                "rows of {name} are missing"
            );
        }
        migrate(cluster, &["finish"]).await?;
        sides.is_closed().await?;
        let session = cluster.session().await?;
        for left in ["pg_subscription", "pg_publication"] {
            let count = format!("select count(*) from {left}");
            ensure!(session.value(&count, QUERY).await? == "0", "{left} of the cluster");
        }
        let logical = "select count(*) from pg_replication_slots where slot_type = 'logical'";
        ensure!(session.value(logical, QUERY).await? == "0", "a slot of the cluster");
        let marks = "select count(*) from pg_namespace where nspname like 'migration%'";
        ensure!(session.value(marks, QUERY).await? == "0", "a mark in the cluster");
        Ok(())
    });
}
