//! Runs a command with a store that lives as long as the command: `with-store KIND PROGRAM ARGUMENTS…`. The options that lead to the store
//! are added to the arguments. For `./quickstart --store`.

use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;

use anyhow::{Context, bail};
use stolon_testkit::{StoreKind, StoreServer};
use tokio::signal::unix::{SignalKind, signal};

/// The name of the cluster, which pods are labelled with.
const CLUSTER: &str = "quickstart";
/// As many pods of each kind wait for a program.
const PODS: usize = 9;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let word = arguments.next().context("which store? etcdv3, etcdv2, consul or kubernetes")?;
    let kind = match word.to_str() {
        Some("etcdv3") => StoreKind::Etcd,
        Some("etcdv2" | "etcd") => StoreKind::EtcdV2,
        Some("consul") => StoreKind::Consul,
        Some("kubernetes") => StoreKind::Kubernetes,
        _ => bail!("{word:?} is no store that can be started here: etcdv3, etcdv2, consul or kubernetes"),
    };
    let program = arguments.next().context("which program?")?;
    let server = StoreServer::start(kind).await?;
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).args(["--cluster-name", CLUSTER, "--store-backend", kind.backend()]);
    if let Some(endpoints) = server.endpoints().filter(|endpoints| !endpoints.is_empty()) {
        command.args(["--store-endpoints", &endpoints]);
    }
    if let Some(kubernetes) = &server.kubernetes {
        for number in 1..=PODS {
            for program in ["sentinel", "keeper", "proxy"] {
                server.house(&format!("{program}{number}"), CLUSTER)?;
            }
        }
        let kubeconfig = kubernetes.programs_kubeconfig_file()?;
        // The programs may run as another user. There is no secret in it.
        std::fs::set_permissions(kubernetes.directory(), std::fs::Permissions::from_mode(0o755))?;
        command.args(["--kube-resource-kind", "configmap", "--kubeconfig"]).arg(kubeconfig);
    }
    // A Ctrl-C at the terminal reaches the command as well: the store must outlive it.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut child = command.spawn().context("the command cannot be started")?;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {
                let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(id.try_into().ok()?));
                if let Some(pid) = pid {
                    // It may have ended just now.
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                }
            }
        }
    };
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
