//! What keepers prove to each other's PostgreSQL, and have it prove to them.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use serde_json::json;
use stolon_testkit::authority::Authority;
use stolon_testkit::local::{Account, Target};
use stolon_testkit::{
    Cluster, PATIENCE, Plan, QUERY, on_cluster, on_prepared, start_writing, wait_for, writes_are_back,
};

/// The files of TLS, which every keeper of this machine shares.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> anyhow::Result<Self> {
        let files = Self { directory: tempfile::Builder::new().prefix("stolon-tls-").tempdir()? };
        let account = Account::for_postgresql()?;
        account.own(files.directory.path())?;
        files.write("")?;
        Ok(files)
    }

    /// An authority that nobody knew, and all that it has signed.
    fn write(&self, prefix: &str) -> anyhow::Result<()> {
        let account = Account::for_postgresql()?;
        let authority = Authority::new(&format!("{prefix}cluster"))?;
        account.write_private(&self.path(&format!("{prefix}ca.crt")), authority.pem())?;
        for (name, addresses) in [("server", &["127.0.0.1"][..]), ("repluser", &[])] {
            // Before 15 libpq finds an IP address only in the common name.
            let certified = authority.certify(addresses.first().unwrap_or(&name), addresses)?;
            account.write_private(&self.path(&format!("{prefix}{name}.crt")), &certified.certificate)?;
            account.write_private(&self.path(&format!("{prefix}{name}.key")), &certified.key)?;
        }
        Ok(())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// A plan whose servers have TLS.
    fn plan(&self) -> Plan {
        let text = |name: &str| self.path(name).display().to_string();
        Plan::new(2).spec(json!({ "pgParameters": {
            "ssl": "on",
            "ssl_cert_file": text("server.crt"),
            "ssl_key_file": text("server.key"),
            "ssl_ca_file": text("ca.crt"),
        }}))
    }

    /// Starts a cluster whose keepers want servers to prove themselves, and waits until it works.
    async fn start(&self, cluster: &mut Cluster, more: &[(&str, &str)]) -> anyhow::Result<()> {
        let ca_file = self.path("ca.crt");
        let ca_file = ca_file.to_str().context("a temporary directory in UTF-8")?;
        let common = [("--pg-ssl-mode", "verify-full"), ("--pg-ssl-ca-file", ca_file)];
        for keeper in ["keeper1", "keeper2"] {
            for (flag, value) in common.iter().chain(more) {
                cluster.add_flag(keeper, flag, value)?;
            }
        }
        for name in cluster.services() {
            cluster.start_service(&name)?;
        }
        cluster.wait_writable(PATIENCE).await?;
        cluster.wait_streaming(1, PATIENCE).await
    }

    /// The same with a certificate in the place of the replication user's password.
    async fn start_with_certificate(&self, cluster: &mut Cluster) -> anyhow::Result<()> {
        for keeper in ["keeper1", "keeper2"] {
            // Of several occurrences the last one counts.
            cluster.add_flag(keeper, "--pg-repl-passwordfile", "")?;
        }
        let path = |name: &str| self.path(name).display().to_string();
        let (certificate, key) = (path("repluser.crt"), path("repluser.key"));
        let more = [
            ("--pg-repl-auth-method", "cert"),
            ("--pg-repl-cert-file", certificate.as_str()),
            ("--pg-repl-key", key.as_str()),
        ];
        self.start(cluster, &more).await
    }
}

/// Everybody streams over TLS.
async fn streams_over_tls(cluster: &Cluster) -> anyhow::Result<()> {
    let session = cluster.session().await?;
    let sql = "select count(*) from pg_stat_replication join pg_stat_ssl using (pid) where ssl";
    ensure!(session.value(sql, QUERY).await? == "1", "the standby streams in the clear");
    Ok(())
}

/// Somebody else on the port of a server that is gone: has no TLS, asks for passwords, keeps what is said.
struct Impostor {
    said: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Impostor {
    fn sit(port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&said);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 8];
                let _ = stream.read_exact(&mut request);
                let _ = stream.write_all(b"N");
                let mut rest = vec![0; 4096];
                let length = stream.read(&mut rest).unwrap_or_default();
                rest.truncate(length);
                kept.lock().expect("nobody panics").push(rest);
            }
        });
        Ok(Self { said })
    }
}

#[test]
fn servers_prove_themselves_and_whoever_has_their_port_hears_nothing() {
    let files = Files::new().expect("certificates");
    on_prepared(files.plan(), async |cluster| {
        cluster.write_passwords(r#" a:b\c'd"e "#, r" 100%\: 'ü' ")?;
        let scram = [("--pg-su-auth-method", "scram-sha-256"), ("--pg-repl-auth-method", "scram-sha-256")];
        files.start(cluster, &scram).await?;
        streams_over_tls(cluster).await?;
        let session = cluster.session().await?;
        let stored = "select count(*) from pg_authid where rolname in ('stolon', 'repluser') and rolpassword like 'SCRAM-SHA-256$%'";
        ensure!(session.value(stored, QUERY).await? == "2", "both are stored for SCRAM");
        let lines = "select string_agg(distinct type || ' ' || auth_method, ',') from pg_hba_file_rules \
                     where user_name && array['stolon', 'repluser'] and type <> 'local'";
        ensure!(
            session.value(lines, QUERY).await? == "hostssl scram-sha-256",
            "their lines are for TLS alone"
        );
        drop(session);

        // The standby tries to reach the primary that is gone, until the other one is elected.
        let old = cluster.primary().await?;
        let port = cluster.instance(old).port;
        cluster.kill_keeper_and_postgres(old).await?;
        let impostor = Impostor::sit(port)?;
        cluster.wait_other_primary(old, PATIENCE).await?;
        cluster.wait_writable(PATIENCE).await?;
        let said = impostor.said.lock().expect("nobody panics").clone();
        ensure!(!said.is_empty(), "nobody came to the impostor");
        ensure!(said.iter().all(Vec::is_empty), "the impostor heard {said:?}");
        Ok(())
    });
}

#[test]
fn a_lost_primary_is_rewound_over_tls() {
    let files = Files::new().expect("certificates");
    // The oldest libpq that binds SCRAM to a connection.
    on_prepared(files.plan().major(13), async |cluster| {
        let scram = [("--pg-su-auth-method", "scram-sha-256"), ("--pg-repl-auth-method", "scram-sha-256")];
        files.start(cluster, &scram).await?;
        cluster.replace_primary(1, PATIENCE).await?;
        streams_over_tls(cluster).await
    });
}

/// From 16 on libpq lets in no server that does not ask for SCRAM.
#[test]
fn scram_alone_lets_servers_in_with_libpq_17() {
    on_prepared(Plan::new(2).major(17), async |cluster| {
        for keeper in ["keeper1", "keeper2"] {
            for flag in ["--pg-su-auth-method", "--pg-repl-auth-method"] {
                cluster.add_flag(keeper, flag, "scram-sha-256")?;
            }
        }
        for name in cluster.services() {
            cluster.start_service(&name)?;
        }
        cluster.wait_writable(PATIENCE).await?;
        cluster.wait_streaming(1, PATIENCE).await?;
        let standby = cluster.instance(3 - cluster.primary().await?).connect(QUERY).await?;
        let conninfo = standby.value("show primary_conninfo", QUERY).await?;
        ensure!(conninfo.contains("require_auth=scram-sha-256"), "{conninfo}");
        drop(standby);
        cluster.replace_primary(1, PATIENCE).await.map(drop)
    });
}

#[test]
fn a_certificate_takes_the_place_of_the_replication_password() {
    let files = Files::new().expect("certificates");
    on_prepared(files.plan(), async |cluster| {
        files.start_with_certificate(cluster).await?;
        streams_over_tls(cluster).await?;
        let session = cluster.session().await?;
        let sql = "select rolpassword is null from pg_authid where rolname = 'repluser'";
        ensure!(session.value(sql, QUERY).await? == "t", "the replication user has a password");
        drop(session);
        cluster.replace_primary(1, PATIENCE).await.map(drop)
    });
}

async fn file_holds(file: &Path, text: &str) -> anyhow::Result<()> {
    wait_for("the new password of the standby", PATIENCE, async || {
        Ok(std::fs::read_to_string(file).is_ok_and(|line| line.contains(text)).then_some(()))
    })
    .await
}

/// A client that writes all the time, over a connection that it keeps, while something is done that no connection may notice.
async fn unnoticed(
    cluster: &mut Cluster,
    done: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    const SENDERS: &str = "select string_agg(pid::text, ',') from pg_stat_replication";
    let session = cluster.session().await?;
    let standby = 3 - cluster.primary().await?;
    let receivers = cluster.backends(standby, "walreceiver")?;
    let senders = session.value(SENDERS, QUERY).await?;
    let writing = start_writing(cluster).await?;
    done(cluster).await?;
    writes_are_back(&writing, Instant::now()).await?;
    let written = writing.stop().await;
    let unsure = &written.unknown;
    ensure!(written.failed == 0 && unsure.is_empty(), "a client saw {}, {unsure:?}", written.last_failure);
    ensure!(
        session.value(SENDERS, QUERY).await? == senders,
        "the primary's connection to the standby was lost"
    );
    ensure!(cluster.backends(standby, "walreceiver")? == receivers, "the standby's receiver was lost");
    Ok(())
}

/// What docs/security.md prints for a shell under "Rotation", in order.
fn printed() -> anyhow::Result<Vec<String>> {
    let page = include_str!("../../../docs/security.md");
    let (_, section) = page.split_once("\n## Rotation\n").context("the section")?;
    let (section, _) = section.split_once("\n## ").context("the next section")?;
    let blocks =
        section.split("```sh\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0.to_owned()));
    Ok(blocks.collect())
}

/// Runs commands as an operator would, in `directory`; psql goes to `server` as the superuser.
fn run(commands: &str, directory: &Path, server: &Target, more: &[(&str, &Path)]) -> anyhow::Result<()> {
    let done = Command::new("sh")
        .args(["-euc", commands])
        .current_dir(directory)
        .envs([("PGHOST", "127.0.0.1"), ("SUPERUSER", &server.user), ("PGPASSWORD", &server.password)])
        .env("PGPORT", server.port.to_string())
        .env("REPLICATION", "repluser")
        .envs(more.iter().copied())
        .output()?;
    ensure!(done.status.success(), "{commands}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

#[test]
fn passwords_are_rotated_as_printed_without_losing_a_connection() {
    on_cluster(Plan::new(2), async |cluster| {
        let old = cluster.proxy();
        let standby = 3 - cluster.primary().await?;
        unnoticed(cluster, rotate_passwords).await?;
        ensure!(old.connect(QUERY).await.is_err(), "the old password is still good");

        // Whatever connects from here on proves the new ones: a standby that starts again, and a primary that comes back.
        let keeper = format!("keeper{standby}");
        cluster.stop_service(&keeper).await?;
        cluster.start_service(&keeper)?;
        cluster.wait_streaming(1, PATIENCE).await?;
        cluster.replace_primary(1, PATIENCE).await.map(drop)
    });
}

async fn rotate_passwords(cluster: &mut Cluster) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let files = cluster.layout.password_files();
    let files =
        [("SUPERUSER_PASSWORDFILE", files[0].as_path()), ("REPLICATION_PASSWORDFILE", files[1].as_path())];
    for commands in &printed()?[..2] {
        run(commands, directory.path(), &cluster.proxy(), &files)?;
    }
    let new = |user: &str| std::fs::read_to_string(directory.path().join(format!("new-{user}-password")));
    let credentials = &mut cluster.layout.credentials;
    (credentials.superuser_password, credentials.replication_password) =
        (new("superuser")?, new("replication")?);
    let replication = format!(":{}", credentials.replication_password);
    for number in [1, 2] {
        for user in ["superuser", "replication user"] {
            let said = format!("the {user} has another password now");
            wait_for(&said, PATIENCE, async || {
                Ok(cluster.log(&format!("keeper{number}")).contains(&said).then_some(()))
            })
            .await?;
        }
    }
    let standby = 3 - cluster.primary().await?;
    file_holds(&cluster.layout.keeper_directory(standby).join("replication.pgpass"), &replication).await
}

#[test]
fn certificates_and_their_authority_are_replaced_as_printed_without_losing_a_connection() {
    let files = Files::new().expect("certificates");
    on_prepared(files.plan(), async |cluster| {
        files.start_with_certificate(cluster).await?;
        let serial = "select client_serial from pg_stat_replication join pg_stat_ssl using (pid)";
        let before = cluster.session().await?.value(serial, QUERY).await?;
        ensure!(!before.is_empty(), "the standby shows no certificate");
        unnoticed(cluster, async |cluster| {
            files.write("new-")?;
            let printed = printed()?;
            let [.., both, certificates, new, reload] = printed.as_slice() else { bail!("which steps?") };
            for step in [both, certificates, new] {
                run(step, files.directory.path(), &cluster.proxy(), &[])?;
                for number in [1, 2] {
                    run(reload, files.directory.path(), &cluster.instance(number), &[])?;
                }
            }
            Ok(())
        })
        .await?;

        let keeper = format!("keeper{}", 3 - cluster.primary().await?);
        cluster.stop_service(&keeper).await?;
        cluster.start_service(&keeper)?;
        cluster.wait_streaming(1, PATIENCE).await?;
        let after = cluster.session().await?.value(serial, QUERY).await?;
        ensure!(!after.is_empty() && after != before, "the standby shows {after:?} after {before:?}");
        cluster.replace_primary(1, PATIENCE).await.map(drop)
    });
}
