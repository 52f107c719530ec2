//! `stolonctl register`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use stolon_model::{Advise as _, ClusterData, Role};
use stolon_runtime::{CommonArgs, Shutdown, UsageError, explained};
use stolon_store::{CatalogueAccess, Service, ServiceCatalogue, TlsVerification};

use crate::output;
use crate::stored_cluster::StoredCluster;

/// Flags of `register`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "All services of the cluster's name count as this command's: those that are no healthy \
    instances are deregistered. What is registered stays when it ends."
)]
pub struct Args {
    /// Kind of the catalogue: consul
    #[arg(long, value_name = "KIND", default_value = "consul")]
    register_backend: String,

    /// The agent: http(s)://host:port
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8500")]
    register_endpoints: String,

    /// Client certificate, for an agent that asks for one (PEM)
    #[arg(long, value_name = "FILE")]
    register_cert_file: Option<PathBuf>,

    /// Private key of that certificate (PEM)
    #[arg(long, value_name = "FILE")]
    register_key: Option<PathBuf>,

    /// Certificates of the authorities that the agent's certificate may come from (PEM; default: the system's)
    #[arg(long, value_name = "FILE")]
    register_ca_file: Option<PathBuf>,

    /// Do not verify the agent's certificate
    #[arg(long)]
    register_skip_tls_verify: bool,

    /// Register the primary as well
    #[arg(long)]
    register_master: bool,

    /// Tags of the primary, separated by commas
    #[arg(long, value_name = "LIST", default_value = "master")]
    tag_master_as: String,

    /// Tags of standbys, separated by commas
    #[arg(long, value_name = "LIST", default_value = "slave")]
    tag_slave_as: String,

    /// Seconds between two rounds; at least 1
    #[arg(long, value_name = "SECONDS", default_value_t = 10, allow_negative_numbers = true)]
    sleep_interval: i64,

    #[arg(hide = true)]
    ignored: Vec<String>,
}

impl Args {
    fn catalogue(&self, timeout: Duration) -> Result<ServiceCatalogue, UsageError> {
        if self.register_backend != "consul" {
            return Err(UsageError::new(format!("unknown register backend: {:?}", self.register_backend))
                .hint("the only one is consul"));
        }
        let endpoint = self.register_endpoints.trim();
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(UsageError::new(format!(
                "--register-endpoints {endpoint:?} is no http or https URL"
            ))
            .hint("for example http://127.0.0.1:8500"));
        }
        let variable = |name: &str| std::env::var(name).ok();
        let access = CatalogueAccess {
            endpoint: endpoint.to_owned(),
            cert_file: self.register_cert_file.clone(),
            key_file: self.register_key.clone(),
            ca_file: self.register_ca_file.clone(),
            tls_verification: match self.register_skip_tls_verify {
                true => TlsVerification::Skip,
                false => TlsVerification::Full,
            },
            consul: stolon_store::ConsulAccess::from_variables(variable),
            timeout,
        };
        ServiceCatalogue::new(&access)
            .map_err(|error| UsageError::because("cannot reach a catalogue", &error))
    }

    /// Between two rounds.
    fn pause(&self) -> Result<Duration, UsageError> {
        match u64::try_from(self.sleep_interval) {
            Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
            _ => Err(UsageError::new("--sleep-interval must be from 1 to 86400 seconds")
                .hint("leave it out for 10")),
        }
    }

    fn tags(&self, role: Option<&Role>) -> Vec<String> {
        let list = if role == Some(&Role::Primary) { &self.tag_master_as } else { &self.tag_slave_as };
        list.split(',').map(str::to_owned).collect()
    }

    /// What the catalogue is to hold of these cluster data, by id.
    ///
    /// # Errors
    /// A healthy instance has no port that can be registered: then nothing is changed.
    fn wanted(&self, data: &ClusterData, name: &str) -> Result<BTreeMap<String, Service>, String> {
        let mut wanted = BTreeMap::new();
        for (uid, instance) in data.instances.iter().filter(|(_, instance)| instance.status.healthy) {
            if instance.spec.role == Some(Role::Primary) && !self.register_master {
                continue;
            }
            let port = instance.status.port.parse().map_err(|_| {
                format!(
                    "invalid database port {:?} for {name} with uid {uid}, nothing is changed",
                    instance.status.port
                )
            })?;
            let service = Service {
                id: uid.to_string(),
                name: name.to_owned(),
                tags: self.tags(instance.spec.role.as_ref()),
                port,
                address: instance.status.listen_address.clone(),
            };
            wanted.insert(service.id.clone(), service);
        }
        Ok(wanted)
    }
}

/// Mirror the healthy instances into the catalogue, until a signal ends it.
///
/// # Errors
/// The command line is wrong.
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
    let cluster = StoredCluster::open(common)?;
    let catalogue = args.catalogue(cluster.timeout)?;
    let pause = args.pause()?;
    let stop = shutdown.token();
    let rounds = async {
        loop {
            if let Err(error) = round(&cluster, &catalogue, args, &common.cluster_name).await {
                output::note(&explained(&error).on_one_line());
            }
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(ExitCode::SUCCESS),
        () = rounds => Ok(ExitCode::SUCCESS),
    }
}

/// Make the catalogue as it is to be. What fails is said, and done again in the next round.
async fn round(
    cluster: &StoredCluster,
    catalogue: &ServiceCatalogue,
    args: &Args,
    name: &str,
) -> anyhow::Result<()> {
    let found = catalogue.instances(name).await.map_err(|error| error.explained())?;
    let data = ClusterData::try_from(cluster.workable_document().await?.value)?;
    let wanted = args.wanted(&data, name).map_err(anyhow::Error::msg)?;
    for (id, service) in &found {
        if wanted.get(id) != Some(service) {
            match catalogue.deregister(id).await {
                Ok(()) => output::note(&format!("successfully deregistered {name} with uid {id}")),
                Err(error) => {
                    output::note(&format!("unable to deregister {name} with uid {id}, reason: {error}"))
                }
            }
        }
    }
    for (id, service) in &wanted {
        if found.get(id) != Some(service) {
            let what = format!("{name} with uid {id} as [{}]", service.tags.join(" "));
            match catalogue.register(service).await {
                Ok(()) => output::note(&format!("successfully registered {what}")),
                Err(error) => output::note(&format!("unable to register {what}, reason: {error}")),
            }
        }
    }
    Ok(())
}
