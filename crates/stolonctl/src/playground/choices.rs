//! What a playground remembers of itself: ports and passwords, so that a kept one can be resumed.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use stolon_local::{Account, Credentials, Layout, Ports, Server, is_free, try_port};
use stolon_runtime::{CommonArgs, UsageError, explained};

use super::Args;
use super::directory::Home;

/// What is chosen once and then kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Choices {
    cluster_name: String,
    store_backend: String,
    store_endpoints: String,
    /// For a store in Kubernetes.
    #[serde(default)]
    kubeconfig: Option<PathBuf>,
    keeper_ports: Vec<u16>,
    proxy_ports: Vec<u16>,
    superuser_password: String,
    replication_password: String,
}

const FILE: &str = "playground.json";

impl Choices {
    /// What an earlier run left here, changed by today's options; or chosen anew.
    ///
    /// # Errors
    /// Options that cannot be met, for example a port that is in use.
    pub fn load_or_choose(common: &CommonArgs, args: &Args, home: &Home) -> anyhow::Result<Choices> {
        let file = home.directory.join(FILE);
        let earlier = match std::fs::read_to_string(&file) {
            Ok(text) => Some(
                serde_json::from_str::<Choices>(&text)
                    .with_context(|| format!("{} is damaged", file.display()))?,
            ),
            Err(_) => None,
        };
        let choices = match earlier {
            Some(earlier) => earlier.resumed(common, args)?,
            None => Choices::chosen(common, args, &home.directory)?,
        };
        let text = serde_json::to_string_pretty(&choices)?;
        Account::Own.write_private(&file, &text)?;
        Ok(choices)
    }

    fn chosen(common: &CommonArgs, args: &Args, directory: &Path) -> anyhow::Result<Choices> {
        let mut ports = Ports::default();
        let backend = if common.store_backend.is_empty() { "sqlite" } else { &common.store_backend };
        let endpoints = match (backend, common.store_endpoints.as_str()) {
            ("sqlite", "") => directory.join("store.sqlite").display().to_string(),
            ("sqlite", named) => std::path::absolute(named)?.display().to_string(),
            (_, named) => named.to_owned(),
        };
        let kubeconfig = match (backend, common.kubeconfig.as_str()) {
            ("kubernetes", "") => {
                return Err(UsageError::new("a playground runs in no pod, so that nothing leads it to Kubernetes")
                    .hint("name a kubeconfig file with --kubeconfig; ./quickstart --store kubernetes brings all of it along")
                    .into());
            }
            ("kubernetes", named) => Some(std::path::absolute(named)?),
            _ => None,
        };
        // Two playgrounds on one etcd are two clusters.
        let cluster_name = match common.cluster_name.as_str() {
            "" if backend == "sqlite" => "playground".to_owned(),
            "" => format!("playground-{}", stolon_runtime::new_uid8()),
            named => named.to_owned(),
        };
        Ok(Choices {
            cluster_name,
            store_backend: backend.to_owned(),
            store_endpoints: endpoints,
            kubeconfig,
            keeper_ports: choose("--keeper-ports", &args.keeper_ports, &[], args.keepers, &mut ports)?,
            proxy_ports: choose("--proxy-ports", &args.proxy_ports, &[], args.proxies, &mut ports)?,
            superuser_password: password(),
            replication_password: password(),
        })
    }

    fn resumed(mut self, common: &CommonArgs, args: &Args) -> anyhow::Result<Choices> {
        for (flag, now, then) in [
            ("--cluster-name", &common.cluster_name, &self.cluster_name),
            ("--store-backend", &common.store_backend, &self.store_backend),
        ] {
            if !now.is_empty() && now != then {
                return Err(UsageError::new(format!(
                    "the cluster in this directory was made with {flag} {then}"
                ))
                .hint("leave the option out, or name another --data-dir")
                .into());
            }
        }
        let mut ports = Ports::default();
        let keepers = args.keepers.max(self.keeper_ports.len() as u16);
        self.keeper_ports =
            choose("--keeper-ports", &args.keeper_ports, &self.keeper_ports, keepers, &mut ports)?;
        self.proxy_ports =
            choose("--proxy-ports", &args.proxy_ports, &self.proxy_ports, args.proxies, &mut ports)?;
        Ok(self)
    }

    /// The paths of everything, and the command lines of the programs.
    ///
    /// # Errors
    /// PostgreSQL's programs are not found.
    pub fn layout(&self, args: &Args, home: &Home) -> anyhow::Result<Layout> {
        let pg_bin = match &args.pg_bin_path {
            Some(named) => std::path::absolute(named)?,
            None => Server::find_programs().map_err(|error| UsageError::from(explained(&error)))?,
        };
        if !pg_bin.join("postgres").is_file() {
            return Err(UsageError::new(format!("there is no program postgres in {}", pg_bin.display()))
                .hint("--pg-bin-path names the directory of PostgreSQL's programs, on Debian /usr/lib/postgresql/15/bin")
                .into());
        }
        Ok(Layout {
            directory: home.directory.clone(),
            cluster_name: self.cluster_name.clone(),
            store_backend: self.store_backend.clone(),
            store_endpoints: self.store_endpoints.clone(),
            kubeconfig: self.kubeconfig.clone(),
            programs: home.programs.clone(),
            pg_bin,
            account: Account::Own,
            credentials: Credentials {
                superuser: "stolon".to_owned(),
                superuser_password: self.superuser_password.clone(),
                replication_user: "repluser".to_owned(),
                replication_password: self.replication_password.clone(),
            },
        })
    }

    /// Ports of the PostgreSQL instances, one for each keeper.
    pub fn keeper_ports(&self) -> &[u16] {
        &self.keeper_ports
    }

    /// Ports of the proxies.
    pub fn proxy_ports(&self) -> &[u16] {
        &self.proxy_ports
    }
}

/// `count` ports: named ones must be free, those of the last run are used again if they are free, others are chosen.
fn choose(
    flag: &str,
    named: &[u16],
    earlier: &[u16],
    count: u16,
    ports: &mut Ports,
) -> anyhow::Result<Vec<u16>> {
    if named.len() > usize::from(count) {
        return Err(
            UsageError::new(format!("{flag} names {} ports for {count} programs", named.len())).into()
        );
    }
    let mut chosen = Vec::new();
    for index in 0..usize::from(count) {
        let port = match (named.get(index), earlier.get(index)) {
            (Some(port), _) if chosen.contains(port) => {
                return Err(UsageError::new(format!("{flag} names port {port} twice")).into());
            }
            (Some(&port), _) => {
                try_port(port).map_err(|error| {
                    UsageError::new(format!("port {port} of {flag} cannot be used: {error}"))
                        .hint("name another one, or leave the option out: free ports are chosen")
                })?;
                port
            }
            (None, Some(&port)) if is_free(port) => port,
            (None, Some(&port)) => {
                let other = ports.take()?;
                eprintln!("port {port} of the last run is in use now: taking {other}");
                other
            }
            (None, None) => ports.take()?,
        };
        ports.keep(port);
        chosen.push(port);
    }
    Ok(chosen)
}

fn password() -> String {
    format!("{}{}", stolon_runtime::new_uid8(), stolon_runtime::new_uid8())
}
