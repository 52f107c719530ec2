//! Programs that may do in etcd what docs/security.md grants them, and nothing else: the commands of the page are what is granted here.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use etcd_client::{Certificate, Client, ConnectOptions, Identity, Permission, TlsOptions, UserAddOptions};
use stolon_store::{Backend, StoreOptions};
use stolon_testkit::authority::Authority;
use stolon_testkit::etcd::{Access, Etcd};
use stolon_testkit::local::Account;
use stolon_testkit::{Cluster, PATIENCE, Plan, on_prepared};

/// Whoever has a certificate here is who it names (etcd manual, "Role-based access control": `--client-cert-auth`).
const USERS: [&str; 6] =
    ["root", "stolon-keeper", "stolon-sentinel", "stolon-proxy", "stolon-viewer", "stolon-operator"];

/// An etcd that knows its clients by their certificates.
struct Guarded {
    etcd: Etcd,
    files: tempfile::TempDir,
}

impl Guarded {
    async fn start(cluster: &str) -> anyhow::Result<Self> {
        let files = tempfile::Builder::new().prefix("stolon-etcd-").tempdir()?;
        let account = Account::for_postgresql()?;
        account.own(files.path())?;
        let path = |name: &str| files.path().join(name);
        let authority = Authority::new("etcd")?;
        account.write_private(&path("ca"), authority.pem())?;
        for (name, addresses) in
            USERS.iter().map(|user| (*user, &[][..])).chain([("server", &["127.0.0.1"][..])])
        {
            let certified = authority.certify(name, addresses)?;
            account.write_private(&path(&format!("{name}.crt")), &certified.certificate)?;
            account.write_private(&path(&format!("{name}.key")), &certified.key)?;
        }
        let access = Access::Https {
            certificate: path("server.crt"),
            key: path("server.key"),
            client_authority: Some(path("ca")),
        };
        let guarded = Self { etcd: Etcd::start(1, access).await?, files };
        let mut root = guarded.client("root").await?;
        for command in printed(cluster)? {
            obey(&mut root, &command).await.with_context(|| format!("etcdctl {}", command.join(" ")))?;
        }
        Ok(guarded)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    async fn client(&self, user: &str) -> anyhow::Result<Client> {
        let read = |name: &str| std::fs::read(self.path(name));
        let identity = Identity::from_pem(read(&format!("{user}.crt"))?, read(&format!("{user}.key"))?);
        let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read("ca")?)).identity(identity);
        Ok(Client::connect([self.etcd.endpoint(0)], Some(ConnectOptions::new().with_tls(tls))).await?)
    }

    /// The flags of a program that is this user.
    fn flags(&self, user: &str) -> Vec<(&'static str, String)> {
        let text = |name: String| self.path(&name).display().to_string();
        vec![
            ("--store-ca-file", text("ca".to_owned())),
            ("--store-cert-file", text(format!("{user}.crt"))),
            ("--store-key", text(format!("{user}.key"))),
        ]
    }

    /// Has the programs of a cluster, and the test itself, use it, each as its own user.
    fn given_to(&self, cluster: &mut Cluster) -> anyhow::Result<()> {
        cluster.layout.store_backend = Backend::Etcdv3.to_string();
        cluster.layout.store_endpoints = self.etcd.endpoints();
        for name in cluster.services() {
            let user = format!("stolon-{}", name.trim_end_matches(char::is_numeric));
            // Of several occurrences the last one counts.
            cluster.add_flag(&name, "--store-backend", &cluster.layout.store_backend.clone())?;
            cluster.add_flag(&name, "--store-endpoints", &self.etcd.endpoints())?;
            for (flag, value) in self.flags(&user) {
                cluster.add_flag(&name, flag, &value)?;
            }
        }
        let options = StoreOptions::new(Backend::Etcdv3, self.etcd.endpoints(), &cluster.layout.cluster_name);
        cluster.store = stolon_store::open(&StoreOptions {
            ca_file: Some(self.path("ca")),
            cert_file: Some(self.path("stolon-viewer.crt")),
            key_file: Some(self.path("stolon-viewer.key")),
            ..options
        })?;
        Ok(())
    }

    /// `stolonctl` of this user; whether it succeeded, and what it said.
    async fn stolonctl(
        &self,
        cluster: &Cluster,
        user: &str,
        command: &[&str],
    ) -> anyhow::Result<(bool, String)> {
        let flags = self.flags(user).into_iter().map(|(flag, value)| format!("{flag}={value}"));
        let arguments: Vec<String> = flags.chain(command.iter().map(|&word| word.to_owned())).collect();
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = cluster.stolonctl(&words, "").await?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    }
}

/// The arguments of each `etcdctl` of the page, for a cluster of this name.
fn printed(cluster: &str) -> anyhow::Result<Vec<Vec<String>>> {
    let page = include_str!("../../../docs/security.md");
    let (_, block) = page.split_once("```\nK=stolon/cluster/production\n").context("the commands")?;
    let (block, _) = block.split_once("```").context("their end")?;
    let keys = format!("stolon/cluster/{cluster}/");
    let words = |line: &str| {
        Some(line.replace("$K/", &keys).strip_prefix("etcdctl ")?.split(' ').map(str::to_owned).collect())
    };
    block.lines().map(|line| words(line).with_context(|| line.to_owned())).collect()
}

async fn obey(etcd: &mut Client, command: &[String]) -> anyhow::Result<()> {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["role", "add", role] => etcd.role_add(*role).await.map(drop)?,
        ["role", "grant-permission", role, kind, key @ ..] => {
            let (is_prefix, key) = match key {
                ["--prefix", key] => (true, *key),
                [key] => (false, *key),
                _ => bail!("which key?"),
            };
            let permission = match *kind {
                "read" => Permission::read(key),
                "readwrite" => Permission::read_write(key),
                other => bail!("{other}?"),
            };
            let permission = if is_prefix { permission.with_prefix() } else { permission };
            etcd.role_grant_permission(*role, permission).await.map(drop)?;
        }
        ["user", "add", user, "--no-password"] => {
            let without = UserAddOptions::new().with_no_pwd();
            etcd.user_add(*user, "", Some(without)).await.map(drop)?;
        }
        ["user", "grant-role", user, role] => etcd.user_grant_role(*user, *role).await.map(drop)?,
        ["auth", "enable"] => etcd.auth_enable().await.map(drop)?,
        _ => bail!("the test does not know that command"),
    }
    Ok(())
}

#[test]
fn a_cluster_lives_with_the_roles_of_etcd_that_the_page_prints() {
    on_prepared(Plan::new(2), async |cluster| {
        let guarded = Guarded::start(&cluster.layout.cluster_name).await?;
        guarded.given_to(cluster)?;
        cluster.start_services()?;
        cluster.wait_writable(PATIENCE).await?;
        cluster.wait_streaming(1, PATIENCE).await?;
        cluster.replace_primary(1, PATIENCE).await?;
        // Another term of a leader among the sentinels.
        cluster.stop_service("sentinel1").await?;
        cluster.start_service("sentinel1")?;
        cluster.replace_primary(1, PATIENCE).await?;

        let change = ["update", "--patch", r#"{"maxStandbys":7}"#];
        for (user, command, may) in [
            ("stolon-viewer", &["status"][..], true),
            ("stolon-viewer", &["spec"], true),
            ("stolon-viewer", &change, false),
            ("stolon-keeper", &change, false),
            ("stolon-proxy", &change, false),
            ("stolon-operator", &change, true),
        ] {
            let (done, said) = guarded.stolonctl(cluster, user, command).await?;
            ensure!(done == may, "{user}: {command:?}: {said}");
            ensure!(may || said.contains("permission denied"), "{user}: {command:?}: {said}");
        }
        nothing_was_refused(cluster)
    });
}

/// What a program may not do shows in its log, also where it goes on without.
fn nothing_was_refused(cluster: &Cluster) -> anyhow::Result<()> {
    for name in cluster.services() {
        let log = cluster.log(&name);
        let refused = log.lines().find(|line| line.contains("permission denied"));
        ensure!(refused.is_none(), "{name}: {}", refused.unwrap_or_default());
    }
    Ok(())
}
