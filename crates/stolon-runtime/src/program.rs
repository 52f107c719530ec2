//! The four programs, and what this crate must know of each.

/// One of the four programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `stolon-keeper`
    Keeper,
    /// `stolon-sentinel`
    Sentinel,
    /// `stolon-proxy`
    Proxy,
    /// `stolonctl`
    Ctl,
}

impl Program {
    /// The name of the binary.
    pub fn name(self) -> &'static str {
        match self {
            Program::Keeper => "stolon-keeper",
            Program::Sentinel => "stolon-sentinel",
            Program::Proxy => "stolon-proxy",
            Program::Ctl => "stolonctl",
        }
    }

    /// The value of the `component` label of `stolon_cluster_identifier`.
    pub fn component(self) -> &'static str {
        match self {
            Program::Keeper => "keeper",
            Program::Sentinel => "sentinel",
            Program::Proxy => "proxy",
            Program::Ctl => "stolonctl",
        }
    }

    /// What the names of its environment variables begin with.
    pub fn environment_prefix(self) -> &'static str {
        match self {
            Program::Keeper => "STKEEPER",
            Program::Sentinel => "STSENTINEL",
            Program::Proxy => "STPROXY",
            Program::Ctl => "STOLONCTL",
        }
    }

    /// The environment variable of a flag of the root command (`log-level` → `STPROXY_LOG_LEVEL`).
    pub fn environment_variable(self, flag: &str) -> String {
        format!("{}_{}", self.environment_prefix(), flag.to_uppercase().replace('-', "_"))
    }

    /// Flags that are accepted for the sake of old scripts, with what to use in their place.
    pub(crate) fn deprecated_flags(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Program::Keeper => &[("debug", DEBUG_ADVICE), ("id", "please use --uid")],
            Program::Sentinel | Program::Proxy => &[("debug", DEBUG_ADVICE)],
            Program::Ctl => &[],
        }
    }
}

impl Program {
    /// What other tools for PostgreSQL clusters call a command, and how the same is done here. A guess by the letters could be
    /// dangerous: `reinitialize` resembles `init`, which throws a cluster away.
    pub(crate) fn answer_to_foreign_command(self, command: &str) -> Option<&'static str> {
        if self != Program::Ctl {
            return None;
        }
        FOREIGN_COMMANDS.iter().find(|(names, _)| names.contains(&command)).map(|(_, answer)| *answer)
    }
}

const FOREIGN_COMMANDS: [(&[&str], &str); 7] = [
    (
        &["reinitialize", "rebuild", "resync"],
        "stolonctl reinit KEEPER has the data of a standby copied anew; one that cannot follow is made anew by itself",
    ),
    (&["list", "topology", "show", "members"], "stolonctl status shows the members and who follows whom"),
    (
        &["failover", "handover"],
        "stolonctl switchover has another keeper take over in good order; stolonctl failkeeper KEEPER with the keeper of the master does it where that one hangs",
    ),
    (
        &["maintenance", "disable", "enable"],
        "stolonctl pause has nobody elected and nothing removed for a while, stolonctl resume ends that",
    ),
    (&["reload"], "every change of the specification reaches PostgreSQL by itself"),
    (
        &["edit-config", "show-config", "config"],
        "stolonctl edit-spec changes the cluster specification, stolonctl spec prints it",
    ),
    (
        &["remove", "forget", "unregister"],
        "stolonctl removekeeper KEEPER forgets a keeper that does not come back",
    ),
];

const DEBUG_ADVICE: &str = "use --log-level=debug instead";

/// The version of this build: `STOLON_VERSION` at build time, otherwise the version of the crate.
pub fn version() -> &'static str {
    option_env!("STOLON_VERSION").unwrap_or(env!("CARGO_PKG_VERSION"))
}
