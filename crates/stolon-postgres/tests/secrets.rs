//! Passwords: where they are kept, and to whom they are proven.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use stolon_core::keeper::{Config, ConfigMerge, HbaLine, PasswordProtocol, Upstream, UpstreamSlots};
use stolon_model::NewConfig;
use stolon_postgres::*;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const ODD: &str = r#"r e:p\l ' " x"#;

/// What files below a directory hold a text, but for one.
fn files_with(directory: &Path, text: &str, but: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_with(&path, text, but));
        } else if kind.is_file() // The FIFO of the log has a reader already.
            && path != but
            && std::fs::read(&path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
        {
            found.push(path.display().to_string());
        }
    }
    found
}

async fn streams(primary: &Instance) -> bool {
    let sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    primary.sql().await.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
}

instance_test!(the_replication_password_is_in_one_file_that_can_be_replaced, || async {
    let passwords = Passwords { replication: ODD.into(), ..Passwords::default() };
    let (a, b) = (Instance::new("a", &passwords), Instance::new("b", &passwords));
    a.create(&[]).await;
    b.follow(&a, &[]).await;
    eventually("the standby streaming", || streams(&a)).await;
    let shown: String = b.sql().await.query_one("SHOW primary_conninfo", &[]).await.unwrap().get(0);
    assert!(shown.contains("passfile=") && !shown.contains("password") && !shown.contains(r"\\l"), "{shown}");
    let file = b.directory.path().join("replication.pgpass");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(files_with(b.directory.path(), r"p\l", &file), Vec::<String>::new());

    // A new password needs no reload and no restart of the standby.
    let new = "another: one";
    a.run(&format!("ALTER ROLE repluser PASSWORD '{new}'")).await;
    a.run("SELECT pg_terminate_backend(pid) FROM pg_stat_replication").await;
    let mut options = b.postgres.options().clone();
    options.replication.password = new.into();
    let next_keeper = LocalPostgres::new(options);
    assert!(
        !next_keeper.write_config(&b.standby_files(&a, &[]), ConfigMerge::Replace, &limit()).await.unwrap()
    );
    eventually("the standby streaming with the new password", || streams(&a)).await;
    b.stop().await;
    a.stop().await;
});

// Of the primary that a standby cluster follows, as an operator gave it.
instance_test!(the_password_of_a_primary_outside_is_shown_to_nobody, || async {
    let passwords = Passwords { replication: ODD.into(), ..Passwords::default() };
    let (a, b) = (Instance::new("a", &passwords), Instance::new("b", &passwords));
    a.create(&[]).await;
    b.follow(&a, &[]).await;
    b.stop().await;
    let mut files = b.standby_files(&a, &[]);
    files.recovery.upstream = None;
    let quoted = ODD.replace('\\', "\\\\").replace('\'', "\\'");
    let conninfo = format!("host=127.0.0.1 port={} user=repluser password='{quoted}'", a.port);
    files.recovery.parameters.insert("primary_conninfo".into(), conninfo);
    b.start(&files).await;
    eventually("the standby streaming", || streams(&a)).await;
    let shown: String = b.sql().await.query_one("SHOW primary_conninfo", &[]).await.unwrap().get(0);
    assert!(shown.contains("passfile=") && !shown.contains(r"p\l"), "{shown}");
    let file = b.directory.path().join("outside.pgpass");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // It is gone once nobody needs it.
    b.postgres.write_config(&b.standby_files(&a, &[]), ConfigMerge::Replace, &limit()).await.unwrap();
    assert!(!file.exists());
    b.stop().await;
    a.stop().await;
});

instance_test!(passwords_are_stored_for_scram_unless_somebody_has_chosen, || async {
    for (parameters, stored) in [(&[][..], "SCRAM-SHA-256$"), (&[("password_encryption", "md5")][..], "md5")]
    {
        let a = Instance::new("a", &Passwords::default());
        a.postgres.initdb(&NewConfig::default(), &limit()).await.unwrap();
        a.start(&a.files(parameters)).await;
        a.postgres.set_up_roles(&limit()).await.unwrap();
        let sql = "SELECT rolpassword FROM pg_authid WHERE rolname IN ('stolon', 'repluser')";
        for row in a.sql().await.query(sql, &[]).await.unwrap() {
            let verifier: String = row.get(0);
            assert!(verifier.starts_with(stored), "{parameters:?}: {verifier}");
        }
        a.stop().await;
    }
});

// Not even to our own server: it would take whatever is in the options.
instance_test!(a_keeper_logs_in_by_its_account, || async {
    let (a, b) = (Instance::new("a", &Passwords::default()), Instance::new("b", &Passwords::default()));
    let by_account = |mut files: Config| {
        let method = a.postgres.local_method();
        assert_eq!(method, "peer map=stolon_keeper");
        let lines = ["postgres", "replication"].map(|database| format!("local {database} stolon {method}"));
        files.hba.splice(0..1, lines.map(HbaLine::Verbatim));
        files
    };
    a.postgres.initdb(&NewConfig::default(), &limit()).await.unwrap();
    let ident = a.data().join("pg_ident.conf");
    std::fs::write(&ident, "mine joe app\n").unwrap();
    a.start(&by_account(a.files(&[]))).await;
    a.postgres.set_up_roles(&limit()).await.unwrap();
    assert!(std::fs::read_to_string(&ident).unwrap().ends_with("mine joe app\n"));
    b.follow(&a, &[]).await;
    a.stop().await;
    b.stop().await;

    // A standby that nobody streams to asks itself for its timeline.
    let mut options = b.postgres.options().clone();
    options.superuser.password = "wrong".into();
    options.replication.password = "wrong".into();
    let keeper = LocalPostgres::new(options);
    keeper.write_config(&by_account(b.standby_files(&a, &[])), ConfigMerge::Replace, &limit()).await.unwrap();
    keeper.start(ConfigMerge::Replace, &limit()).await.unwrap();
    keeper.wait_ready(&limit()).await.unwrap();
    assert!(keeper.sample(&limit()).await.unwrap().in_recovery);
    keeper.stop(StopMode::Fast, DEADLINE, &limit()).await.unwrap();
});

/// Who listens, asks everybody for a password in its own way, and keeps what is answered.
async fn asker(request: &'static [u8]) -> (Upstream, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; 1024];
        // SSLRequest, and no TLS.
        assert_eq!(stream.read(&mut bytes).await.unwrap(), 8);
        stream.write_all(b"N").await.unwrap();
        assert!(stream.read(&mut bytes).await.unwrap() > 8);
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    });
    let passwords = PasswordProtocol::Scram;
    let application_name = "stolon_b".into();
    (
        Upstream { host: "127.0.0.1".into(), port, application_name, passwords, slots: UpstreamSlots::Left },
        heard,
    )
}

instance_test!(nobody_who_is_not_proven_is_given_what_gives_a_password_away, || async {
    const CLEARTEXT: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
    const MD5: &[u8] = b"R\0\0\0\x0c\0\0\0\x05salt";
    let a = Instance::new("a", &Passwords::default());
    for (request, wanted) in [(CLEARTEXT, WeakProof::Cleartext), (MD5, WeakProof::Md5)] {
        let (source, heard) = asker(request).await;
        let problem = a.postgres.examine_source(&source, None, None, &limit()).await.unwrap_err();
        let PostgresError::Source(SourceProblem::WeakProof { asked, .. }) = &problem else {
            panic!("{problem}")
        };
        assert!(*asked == wanted && problem.hint().is_some());
        assert_eq!(heard.await.unwrap(), b"");
    }
});

instance_test!(a_cluster_that_stores_md5_says_so, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[("password_encryption", "md5")]).await;
    let scram = a.source_for(&a);
    let problem = a.postgres.examine_source(&scram, None, None, &limit()).await.unwrap_err();
    let asked = WeakProof::Md5;
    assert!(
        matches!(&problem, PostgresError::Source(SourceProblem::WeakProof { asked: found, .. }) if *found == asked),
        "{problem}"
    );
    let md5 = scram.with_passwords(PasswordProtocol::ScramOrMd5);
    a.postgres.examine_source(&md5, None, None, &limit()).await.unwrap();
    a.stop().await;
});

instance_test!(a_source_is_looked_at_over_tls_as_it_is_copied, || async {
    let a = Instance::new("a", &Passwords::default());
    a.postgres.initdb(&NewConfig::default(), &limit()).await.unwrap();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let write = |name: &str, text: String| {
        let path = a.data().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("server.crt", certified.cert.pem());
    write("server.key", certified.signing_key.serialize_pem());
    let with_lines = |ssl: &str, kind: &str| {
        let mut files = a.files(&[("ssl", ssl)]);
        let line = format!("{kind} replication repluser 127.0.0.1/32 md5");
        files
            .hba
            .retain(|line| !matches!(line, HbaLine::Verbatim(text) if text.contains("host replication")));
        files.hba.insert(2, HbaLine::Verbatim(line));
        files
    };
    a.start(&with_lines("on", "hostssl")).await;
    a.postgres.set_up_roles(&limit()).await.unwrap();
    let source = a.source_for(&a);
    for (ssl, kind) in [("on", "hostssl"), ("on", "hostnossl"), ("off", "host")] {
        a.postgres.write_config(&with_lines(ssl, kind), ConfigMerge::Replace, &limit()).await.unwrap();
        assert_eq!(a.postgres.reload(&limit()).await.unwrap(), []);
        let facts = a.postgres.examine_source(&source, None, None, &limit()).await;
        assert!(facts.is_ok(), "{ssl} {kind}: {facts:?}");
    }
    a.stop().await;
});

#[test]
fn what_the_operator_gave_reaches_an_archive_command_and_what_is_ours_does_not() {
    const NAME: &str = "what_the_operator_gave_reaches_an_archive_command_and_what_is_ours_does_not";
    with_environment(NAME, || async {
        let a = Instance::new("a", &Passwords::default());
        let seen = a.directory.path().join("seen");
        let command = format!("env > {0}.new && mv {0}.new {0}", seen.display());
        a.create(&[("archive_mode", "on"), ("archive_command", &command)]).await;
        a.run("SELECT pg_switch_wal()").await;
        eventually("the archiver", || async { seen.exists() }).await;
        let text = std::fs::read_to_string(&seen).unwrap();
        assert!(text.contains("PGBACKREST_STANZA=main"), "{text}");
        for ours in ["PGHOST", "PGPASSWORD", "PGOPTIONS", "STKEEPER_"] {
            assert!(!text.contains(ours), "{ours} in {text}");
        }
        a.stop().await;
    });
}

/// Everybody on the machine sees arguments. It may well connect to a PostgreSQL in the way that its operator says.
#[test]
fn a_restore_command_is_seen_by_nobody_and_gets_what_the_operator_gave() {
    const NAME: &str = "a_restore_command_is_seen_by_nobody_and_gets_what_the_operator_gave";
    with_environment(NAME, || async {
        let a = Instance::new("a", &Passwords::default());
        let seen = a.directory.path().join("seen");
        let command = format!(
            "tr '\\0' ' ' </proc/$$/cmdline >{0}; env >>{0}; : verysecret; echo '100%% of it'; touch %d/restored",
            seen.display()
        );
        a.postgres.restore(&command, &ProgressSender::default(), &limit()).await.unwrap();
        let text = std::fs::read_to_string(&seen).unwrap();
        assert!(!text.contains("verysecret"), "{text}");
        for given in ["PGBACKREST_STANZA=main", "PGHOST=nowhere.invalid", "PGOPTIONS="] {
            assert!(text.contains(given), "{given} is not in {text}");
        }
        assert!(!text.contains("STKEEPER_"), "{text}");
        assert!(a.directory.path().join("postgres/restored").exists());
        let left = || std::fs::read_dir(a.directory.path().join("secrets")).unwrap().count();
        eventually("the file of the command to be gone", || async { left() == 0 }).await;
    });
}

/// The body in a process of its own, whose environment holds what an operator may have given a keeper, and what is the keeper's own.
fn with_environment<F: std::future::Future<Output = ()>>(name: &str, body: impl FnOnce() -> F) {
    if std::env::var_os("PGBACKREST_STANZA").is_some() {
        return run(name, body);
    }
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("PGBACKREST_STANZA", "main")
        .env("PGHOST", "nowhere.invalid")
        .env("PGPASSWORD", "somebody else's")
        .env("PGOPTIONS", "-c nonsense=1")
        .env("STKEEPER_PG_SU_PASSWORD", "supersecret")
        .status()
        .unwrap();
    assert!(status.success(), "see above");
}
