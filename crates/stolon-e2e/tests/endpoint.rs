//! The HTTP endpoint of keepers over TLS, with a token: who is told what, and that proxies and other keepers go on without a store as they do
//! in the clear.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use stolon_testkit::authority::{Authority, Certified};
use stolon_testkit::haproxy::{Backend, HaProxy};
use stolon_testkit::local::Target;
use stolon_testkit::{Cluster, PATIENCE, Plan, QUERY, StoreKind, on_prepared, start_writing, wait_for};
use tokio::process::Command;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const OTHER_TOKEN: &str = "fedcba9876543210fedcba9876543210";
const VOUCHED_FOR: &str = "the store is away: clients go on to the primary";
const CLOSED: &str = "no check succeeded within the proxy timeout";
const SHUT: &str = "the lease of this primary is over: clients are locked out here";
/// `failInterval` and `proxyTimeout` of the tests are over by then several times.
const OUTAGE: Duration = Duration::from_secs(20);

/// Authorities, certificates and tokens in files.
struct Files {
    directory: tempfile::TempDir,
    keepers: Authority,
    clients: Authority,
}

impl Files {
    fn new() -> anyhow::Result<Self> {
        let files = Files {
            directory: tempfile::tempdir()?,
            keepers: Authority::new("keepers")?,
            clients: Authority::new("clients")?,
        };
        files.write("keepers.pem", files.keepers.pem())?;
        files.write("clients.pem", files.clients.pem())?;
        files.write("strangers.pem", Authority::new("strangers")?.pem())?;
        files.write_certified("keeper", &files.keepers.certify("keeper", &["127.0.0.1"])?)?;
        files.write_certified("client", &files.clients.certify("monitoring", &[])?)?;
        files.write("tokens", &format!("{TOKEN}\n"))?;
        files.write("proxy-tokens", &format!("{TOKEN}\n"))?;
        Ok(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// As whole as an administrator's `mv`.
    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        std::fs::write(self.path("new"), text)?;
        Ok(std::fs::rename(self.path("new"), self.path(name))?)
    }

    fn write_certified(&self, name: &str, it: &Certified) -> anyhow::Result<()> {
        self.write(&format!("{name}.key"), &it.key)?;
        self.write(&format!("{name}.pem"), &it.certificate)
    }

    /// Keepers answer over TLS and demand a token, or a certificate of the clients' authority; keepers and the proxy know both.
    fn equip(&self, cluster: &mut Cluster, keepers: usize) -> anyhow::Result<()> {
        for name in (1..=keepers).map(|index| format!("keeper{index}")) {
            cluster.add_flag(&name, "--http-cert-file", &self.text("keeper.pem"))?;
            cluster.add_flag(&name, "--http-key", &self.text("keeper.key"))?;
            cluster.add_flag(&name, "--http-ca-file", &self.text("keepers.pem"))?;
            cluster.add_flag(&name, "--http-client-ca-file", &self.text("clients.pem"))?;
            cluster.add_flag(&name, "--http-token-file", &self.text("tokens"))?;
        }
        cluster.add_flag("proxy1", "--http-ca-file", &self.text("keepers.pem"))?;
        cluster.add_flag("proxy1", "--http-token-file", &self.text("proxy-tokens"))
    }

    /// The code and the body of an answer to curl, which knows this authority; no code without an answer.
    async fn asked(
        &self,
        port: u16,
        path: &str,
        authority: &str,
        more: &[&str],
    ) -> anyhow::Result<(u16, String)> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "5", "--write-out", "\n%{http_code}", "--cacert"]);
        curl.arg(self.path(authority)).args(more).arg(format!("https://127.0.0.1:{port}{path}"));
        let output = curl.output().await.context("curl is needed")?;
        let text = String::from_utf8(output.stdout)?;
        let (body, code) = text.rsplit_once('\n').context("no code")?;
        Ok((code.parse()?, body.to_owned()))
    }

    async fn code(&self, port: u16, path: &str, more: &[&str]) -> anyhow::Result<u16> {
        Ok(self.asked(port, path, "keepers.pem", more).await?.0)
    }
}

async fn has_proven_itself(files: &Files, port: u16, authority: &str) -> anyhow::Result<bool> {
    Ok(files.asked(port, "/liveness", authority, &[]).await?.0 != 0)
}

/// What an administrator replaces while the keeper runs counts from the next connection on; what makes no sense does not.
async fn files_are_replaced(files: &Files, port: u16) -> anyhow::Result<()> {
    let successor = Authority::new("successor")?;
    files.write("successor.pem", successor.pem())?;
    files.write("keeper.pem", "-----BEGIN CERTIFICATE-----\nhalf")?;
    ensure!(has_proven_itself(files, port, "keepers.pem").await?, "half a certificate is none");
    files.write_certified("keeper", &successor.certify("keeper", &["127.0.0.1"])?)?;
    ensure!(has_proven_itself(files, port, "successor.pem").await?, "the new certificate is not shown");
    ensure!(!has_proven_itself(files, port, "keepers.pem").await?, "the old one is");
    files.write_certified("keeper", &files.keepers.certify("keeper", &["127.0.0.1"])?)?;
    ensure!(has_proven_itself(files, port, "keepers.pem").await?);

    let (old, new) = (bearer(TOKEN), bearer(OTHER_TOKEN));
    files.write("tokens", &format!("{OTHER_TOKEN}\n{TOKEN}\n"))?;
    for token in [&old, &new] {
        ensure!(
            files.code(port, "/status", &["--header", token]).await? == 200,
            "both are accepted for a while"
        );
    }
    files.write("tokens", &format!("{OTHER_TOKEN}\n"))?;
    ensure!(files.code(port, "/status", &["--header", &old]).await? == 401, "the old one is accepted");
    ensure!(files.code(port, "/status", &["--header", &new]).await? == 200);
    files.write("tokens", &format!("{TOKEN}\n"))
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

#[test]
fn codes_are_for_everybody_and_everything_else_for_those_who_prove_themselves() {
    let files = Files::new().expect("certificates");
    on_prepared(Plan::new(2).store(StoreKind::Etcd), async |cluster| {
        files.equip(cluster, 2)?;
        let ports = cluster.start_answering(2).await?;
        let primary = cluster.primary().await?;
        let (port, of_standby) = (ports[primary - 1], ports[2 - primary]);
        wait_for("the answers", PATIENCE, async || {
            let found =
                (files.code(port, "/primary", &[]).await?, files.code(of_standby, "/replica", &[]).await?);
            ensure!(found == (200, 200), "{found:?}");
            Ok(Some(()))
        })
        .await?;
        ensure!(!has_proven_itself(&files, port, "strangers.pem").await?, "an authority that nobody knows");

        let (right, wrong) = (bearer(TOKEN), bearer(OTHER_TOKEN));
        let (certificate, key) = (files.text("client.pem"), files.text("client.key"));
        let shown = ["--cert", &certificate, "--key", &key];
        for (path, code) in
            [("/primary", 200), ("/replica", 503), ("/liveness", 200), ("/readiness", 200), ("/health", 200)]
        {
            for proof in [&[][..], &["--header", &wrong]] {
                let answer = files.asked(port, path, "keepers.pem", proof).await?;
                ensure!(answer == (code, String::new()), "{path} {proof:?}: {answer:?}");
            }
        }
        for path in ["/status", "/patroni", "/voucher"] {
            for proof in [&[][..], &["--header", &wrong], &["--header", "Authorization: Basic eDp5"]] {
                let answer = files.asked(port, path, "keepers.pem", proof).await?;
                ensure!(answer == (401, String::new()), "{path} {proof:?}: {answer:?}");
            }
        }
        let pledge = ["--data", "{}", "--header", "Content-Type: application/json"];
        ensure!(files.code(port, "/pledge", &pledge).await? == 401);
        for proof in [&["--header", &right][..], &shown] {
            let (code, body) = files.asked(port, "/status", "keepers.pem", proof).await?;
            let status: Value = serde_json::from_str(&body)?;
            ensure!(code == 200 && status["role"] == "primary", "{proof:?}: {code} {status}");
            // The store answers, so there is none: but one may ask.
            ensure!(files.code(port, "/voucher", proof).await? == 503);
        }
        files.write_certified("client", &files.keepers.certify("stranger", &[])?)?;
        ensure!(
            files.code(port, "/primary", &shown).await? == 0,
            "a certificate of another authority ends the handshake"
        );
        let plain = stolon_testkit::http(port, "GET", "/primary", "").await;
        ensure!(plain.is_err(), "it answers in the clear: {plain:?}");
        files_are_replaced(&files, port).await
    });
}

async fn passes(time: Duration) -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    wait_for("time to pass", time + PATIENCE, async || Ok((begun.elapsed() >= time).then_some(()))).await
}

#[test]
fn clients_write_on_without_a_store_where_vouchers_take_a_proof() {
    let files = Files::new().expect("certificates");
    on_prepared(Plan::new(2).store(StoreKind::Etcd), async |cluster| {
        files.equip(cluster, 2)?;
        cluster.start_answering(2).await?;
        let primary = cluster.primary().await?;
        let keepers = cluster.data().await?.keepers;
        let addresses: Vec<_> = keepers.values().map(|keeper| keeper.status.http_address.clone()).collect();
        ensure!(addresses.iter().all(|address| address.starts_with("https://127.0.0.1:")), "{addresses:?}");
        let writing = start_writing(cluster).await?;
        let before = writing.acknowledged();
        cluster.server.kill()?;
        passes(OUTAGE).await?;
        let during = writing.acknowledged() - before;
        ensure!(during > 100, "{during} rows in {OUTAGE:?}: {}", writing.last_failure());
        let log = cluster.log("proxy1");
        ensure!(log.contains(VOUCHED_FOR) && !log.contains(CLOSED), "the proxy has closed");
        ensure!(!cluster.log(&format!("keeper{primary}")).contains(SHUT), "the primary has");

        // With another token nobody vouches to the proxy, which says why, and closes.
        files.write("proxy-tokens", &format!("{OTHER_TOKEN}\n"))?;
        wait_for("a proxy that closes", PATIENCE, async || {
            let log = cluster.log("proxy1");
            Ok((log.contains(CLOSED) && log.contains("it wants another token")).then_some(()))
        })
        .await?;
        files.write("proxy-tokens", &format!("{TOKEN}\n"))?;
        cluster.server.restart().await?;
        writing.stop().await;
        cluster.wait_writable(PATIENCE).await
    });
}

/// HAProxy takes every server for one that works until its first checks are done, and goes from one to the next.
async fn leads_to(target: &Target, recovery: &str) -> anyhow::Result<()> {
    wait_for("sessions through HAProxy", PATIENCE, async || {
        for _ in 0..6 {
            let session = target.connect(QUERY).await?;
            let found = session.value("select pg_is_in_recovery()", QUERY).await?;
            ensure!(found == recovery, "a server that is in recovery: {found}");
        }
        Ok(Some(()))
    })
    .await
}

#[test]
fn haproxy_checks_keepers_over_tls_and_believes_none_of_another_authority() {
    let files = Files::new().expect("certificates");
    on_prepared(Plan::new(3), async |cluster| {
        files.equip(cluster, 3)?;
        let ports = cluster.start_answering(3).await?;
        let backend =
            |number: usize| Backend { postgres: cluster.instance(number).port, checks: ports[number - 1] };
        let backends = [backend(1), backend(2), backend(3)];
        let to = |port: u16| Target { port, ..cluster.proxy() };
        let haproxy = HaProxy::start_over_tls(backends, &files.path("keepers.pem"))?;
        leads_to(&to(haproxy.primary), "f").await?;
        leads_to(&to(haproxy.standbys), "t").await?;

        let deceived = HaProxy::start_over_tls(backends, &files.path("strangers.pem"))?;
        for port in [deceived.primary, deceived.standbys] {
            wait_for("HAProxy without a server", PATIENCE, async || {
                Ok(to(port).connect(QUERY).await.is_err().then_some(()))
            })
            .await?;
        }
        // The keepers were there all the time.
        leads_to(&to(haproxy.primary), "f").await
    });
}
