//! The command line.

use clap::CommandFactory;
use stolon_runtime::CommonArgs;

use crate::commands::{
    clusterdata, completion, dsn, edit_spec, failkeeper, history, init, migrate, pause, priority, promote,
    recover, register, reinit, reload, removekeeper, restart, settle, spec, status, switchover, update,
    version,
};
use crate::playground;

/// Create, inspect and change a PostgreSQL cluster
///
/// The common options may stand before or after the command, or in the environment: --cluster-name is also
/// STOLONCTL_CLUSTER_NAME, and so on. Exit status: 0 success, 1 the store or the cluster prevented it,
/// 2 invalid input.
#[derive(Debug, clap::Parser)]
#[command(name = "stolonctl", subcommand_value_name = "COMMAND")]
// Accepted because the daemons accept them; without effect here.
#[command(mut_arg("metrics_listen_address", |arg| arg.hide(true)))]
#[command(mut_arg("log_level", |arg| arg.hide(true)), mut_arg("log_color", |arg| arg.hide(true)))]
pub struct Cli {
    /// The options that all programs share.
    #[command(flatten)]
    pub common: CommonArgs,

    /// The command; without one the help is printed.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// One file per subcommand.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create a new cluster, replacing the cluster data that the store holds under this name
    Init(init::Args),
    /// Replace the cluster specification, or patch parts of it
    Update(update::Args),
    /// Print the cluster specification
    Spec(spec::Args),
    /// Edit the cluster specification in an editor
    EditSpec(edit_spec::Args),
    /// Show sentinels, proxies, keepers, the primary, and what is going on
    Status(status::Args),
    /// Show what operators and sentinels did to the cluster lately
    History(history::Args),
    /// Print a connection string that finds the primary, or a standby, without a proxy
    Dsn(dsn::Args),
    /// Make a standby cluster take writes
    Promote(promote::Args),
    /// Have another keeper take over in good order, without losing anything
    Switchover(switchover::Args),
    /// Have a live database move into the cluster, with seconds of write downtime
    Migrate(migrate::Args),
    /// Choose whom to prefer among those that are equally fit to be the primary
    Priority(priority::Args),
    /// Treat a keeper as failed once, so that another one takes over
    Failkeeper(failkeeper::Args),
    /// Have the data of a standby copied anew
    Reinit(reinit::Args),
    /// Restart the PostgreSQL of a keeper, or of all, one at a time
    Restart(restart::Args),
    /// Have the PostgreSQL of a keeper, or of all, read its files again
    Reload(reload::Args),
    /// Forget a keeper that does not come back
    Removekeeper(removekeeper::Args),
    /// Elect nobody and remove nothing for a while
    Pause(pause::Args),
    /// End a pause
    Resume(pause::ResumeArgs),
    /// Go on from what a keeper holds when the primary is lost and nobody takes over
    Recover(recover::Args),
    /// Choose what to go on from after the store went back in time
    Settle(settle::Args),
    /// Read or write the whole cluster data document
    Clusterdata(clusterdata::Args),
    /// Run a whole cluster on this machine, to try things out
    Playground(playground::Args),
    /// Print the version
    Version(version::Args),
    /// Print a completion script for a shell
    Completion(completion::Args),
    /// Keep the healthy instances registered in a catalogue of services
    Register(register::Args),
}

/// The command line with the common options on every subcommand, for help, completion and reference documentation.
pub fn command() -> clap::Command {
    Cli::command().mut_args(|arg| arg.global(true))
}
