//! How a keeper proves itself to the PostgreSQL of others, and has them prove themselves.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;
use stolon_core::keeper::{Config, ConfigMerge, HbaLine, OldData, Upstream};
use stolon_model::NewConfig;
use stolon_postgres::*;
use stolon_testkit::authority::{Authority, Certified};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What has ever gone wrong in a password file, a connection string, SQL, or a shell.
const ODD: [&str; 6] =
    [" blanks around ", r#"a:b\c'd"e"#, "100% $HOME `id` #;&|", "tab\there", "Ünïcödé 密码 ﬁ", r"\\'' \"];

const HBA_LOCAL: usize = 2;

fn write_private(path: &Path, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.to_owned()
}

fn client_certificate(directory: &Path, name: &str, certified: &Certified) -> ClientCertificate {
    ClientCertificate {
        certificate: write_private(&directory.join(format!("{name}.crt")), &certified.certificate),
        key: write_private(&directory.join(format!("{name}.key")), &certified.key),
    }
}

/// The server's certificate, and `more` lines of `pg_hba.conf` before those for connections over TCP.
fn with_tls(instance: &Instance, authority: &Authority, certified: &Certified, more: &[&str]) -> Config {
    write_private(&instance.data().join("server.crt"), &certified.certificate);
    write_private(&instance.data().join("server.key"), &certified.key);
    write_private(&instance.data().join("root.crt"), authority.pem());
    let mut files = instance.files(&[("ssl", "on"), ("ssl_ca_file", "root.crt")]);
    let lines = more.iter().map(|&line| HbaLine::Verbatim(line.to_owned()));
    files.hba.splice(HBA_LOCAL..HBA_LOCAL, lines);
    files
}

fn as_peer(name: &str, passwords: &Passwords, change: impl FnOnce(&mut Options)) -> Instance {
    let directory = tempfile::Builder::new().prefix("stolon-pg-").tempdir().unwrap();
    Instance::with(name, passwords, directory, change)
}

fn by_scram(options: &mut Options) {
    options.superuser.auth = AuthMethod::ScramSha256;
    options.replication.auth = AuthMethod::ScramSha256;
}

async fn streams(primary: &Instance) -> bool {
    let sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    primary.sql().await.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
}

// Although the specification would store MD5.
instance_test!(scram_is_stored_and_any_password_will_do, || async {
    let passwords = Passwords { superuser: ODD.concat(), replication: ODD.concat() };
    let (a, b) = (as_peer("a", &passwords, by_scram), as_peer("b", &passwords, by_scram));
    a.create(&[("password_encryption", "md5")]).await;
    let sql = "SELECT count(*) FROM pg_authid WHERE rolname IN ('stolon', 'repluser') AND rolpassword LIKE 'SCRAM-SHA-256$%'";
    assert_eq!(a.sql().await.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 2);
    b.follow(&a, &[]).await;
    eventually("the standby streaming", || streams(&a)).await;
    for odd in ODD {
        let sql = format!(
            "SET password_encryption = 'scram-sha-256'; ALTER ROLE repluser PASSWORD {}",
            quote::sql_literal(odd)
        );
        a.run(&sql).await;
        let password = &b.postgres.options().replication.password;
        assert_eq!(password.replace(odd.into()), Replaced::Other);
        assert_eq!(password.get().expose_secret(), odd);
        b.postgres.renew_password_file(&limit()).await.unwrap();
        a.run("SELECT pg_terminate_backend(pid) FROM pg_stat_replication").await;
        b.postgres.examine_source(&a.source_for(&b), None, None, &limit()).await.unwrap();
        eventually(&format!("the standby streaming with {odd:?}"), || streams(&a)).await;
    }
    b.stop().await;
    a.stop().await;
});

instance_test!(a_server_has_to_prove_as_much_as_is_asked_for, || async {
    let directory = tempfile::tempdir().unwrap();
    let [ours, theirs] = ["ours", "theirs"].map(|name| {
        let authority = Authority::new(name).unwrap();
        let file = write_private(&directory.path().join(name), authority.pem());
        (authority, file)
    });
    let a = as_peer("a", &Passwords::default(), by_scram);
    a.postgres.initdb(&NewConfig::default(), &limit()).await.unwrap();
    let fitting = ours.0.certify("server", &["127.0.0.1"]).unwrap();
    let scram = "hostssl replication repluser 127.0.0.1/32 scram-sha-256";
    a.start(&with_tls(&a, &ours.0, &fitting, &[scram])).await;
    a.postgres.set_up_roles(&limit()).await.unwrap();
    let slot = [a.slot()].into();
    a.postgres.refresh_slots(&slot, &limit()).await.unwrap();

    // The certificate, the mode, the authority that is trusted, and whether we may go on.
    let misnamed = ours.0.certify("server", &["db.invalid"]).unwrap();
    let cases = [
        (&fitting, SslMode::VerifyFull, Some(&ours.1), true),
        (&fitting, SslMode::VerifyFull, Some(&theirs.1), false),
        (&fitting, SslMode::Require, None, true),
        (&misnamed, SslMode::VerifyFull, Some(&ours.1), false),
        (&misnamed, SslMode::VerifyCa, Some(&ours.1), true),
        (&misnamed, SslMode::VerifyCa, Some(&theirs.1), false),
    ];
    for (certified, mode, ca_file, may) in cases {
        let files = with_tls(&a, &ours.0, certified, &[scram]);
        a.postgres.write_config(&files, ConfigMerge::Replace, &limit()).await.unwrap();
        a.postgres.reload(&limit()).await.unwrap();
        let b = as_peer("a", &Passwords::default(), |options| {
            by_scram(options);
            options.tls = PeerTls { mode, ca_file: ca_file.cloned() };
        });
        // The reload takes a moment, and both ways of connecting must agree.
        eventually(&format!("{mode:?}, {ca_file:?} with an outcome of {may}"), || async {
            let seen = b.postgres.examine_source(&a.source_for(&b), None, None, &limit()).await;
            seen.is_ok() == may
        })
        .await;
        let copied = b.copy(&a, OldData::KeepUntilCopied).await;
        assert_eq!(copied.is_ok(), may, "{mode:?}, {ca_file:?}: {copied:?}");
    }
    a.stop().await;
});

instance_test!(nobody_without_tls_hears_anything_where_it_is_required, || async {
    for mode in [SslMode::Require, SslMode::VerifyFull] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let heard = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 8];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(b"N").await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            rest
        });
        let b = as_peer("b", &Passwords::default(), |options| options.tls = PeerTls { mode, ca_file: None });
        let source = Upstream::new("127.0.0.1", &port, &"b".into());
        let problem = b.postgres.examine_source(&source, None, None, &limit()).await.unwrap_err();
        assert!(matches!(&problem, PostgresError::Source(SourceProblem::NoTls { .. })), "{problem}");
        assert_eq!(heard.await.unwrap(), b"");
    }
});

instance_test!(certificates_prove_both_users, || async {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ours").unwrap();
    let ca_file = Some(write_private(&directory.path().join("ca"), authority.pem()));
    let a = as_peer("a", &Passwords::default(), by_scram);
    a.postgres.initdb(&NewConfig::default(), &limit()).await.unwrap();
    let server = authority.certify("server", &["127.0.0.1"]).unwrap();
    let lines = ["hostssl all stolon 127.0.0.1/32 cert", "hostssl replication repluser 127.0.0.1/32 cert"];
    a.start(&with_tls(&a, &authority, &server, &lines)).await;
    a.postgres.set_up_roles(&limit()).await.unwrap();
    let b = as_peer("b", &Passwords::default(), |options| {
        options.tls = PeerTls { mode: SslMode::VerifyFull, ca_file };
        for user in [&mut options.superuser, &mut options.replication] {
            let certified = authority.certify(&user.username, &[]).unwrap();
            user.certificate = Some(client_certificate(directory.path(), &user.username, &certified));
            (user.auth, user.password) = (AuthMethod::Cert, "".into());
        }
    });
    a.postgres.refresh_slots(&[b.slot()].into(), &limit()).await.unwrap();
    b.postgres.examine_source(&a.source_for(&b), None, Some(&b.slot()), &limit()).await.unwrap();
    b.copy(&a, OldData::KeepUntilCopied).await.unwrap();
    let mut files = b.standby_files(&a, &[]);
    files.hba.clear();
    let method = b.postgres.local_method();
    files.hba.extend(
        ["postgres", "replication"].map(|to| HbaLine::Verbatim(format!("local {to} stolon {method}"))),
    );
    b.start(&files).await;
    eventually("the standby streaming", || streams(&a)).await;
    assert!(!b.directory.path().join("replication.pgpass").exists());
    b.stop().await;
    b.postgres.rewind(&a.source_for(&b), &progress(), &limit()).await.unwrap();
    a.stop().await;
});
