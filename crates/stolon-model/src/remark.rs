//! What is legal in a specification, and worth a word all the same.

use crate::spec::{ClusterSpec, InitMode, Role};

/// Something about a valid specification that its author should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpecRemark {
    /// `sleepInterval` is zero.
    NoSleep,
    /// Existing data are adopted in a standby cluster.
    AdoptionInStandbyCluster,
    /// A field is set that is not read.
    FieldWithoutEffect {
        /// Name of the field.
        field: &'static str,
        /// With what it would be read, such as `initMode "new"`.
        read_with: &'static str,
    },
    /// `synchronousReplication` is set in a standby cluster.
    SynchronousStandbyCluster,
    /// Synchronous replication that needs no standby.
    NoSynchronousStandbyNeeded,
    /// A line of `pgHBA` lets in whoever can reach PostgreSQL.
    TrustsTheWorld {
        /// The line.
        line: String,
    },
    /// An entry of `pgHBA` that PostgreSQL cannot read.
    NoHbaRecord {
        /// The line.
        line: String,
    },
}

impl SpecRemark {
    /// True if it was hardly meant; false if it may well be, and does no harm.
    pub fn is_warning(&self) -> bool {
        matches!(
            self,
            Self::NoSleep
                | Self::AdoptionInStandbyCluster
                | Self::TrustsTheWorld { .. }
                | Self::NoHbaRecord { .. }
        )
    }
}

impl std::fmt::Display for SpecRemark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoSleep => {
                "sleepInterval is 0s: Stolon's own programs would go round without a pause, ours wait a little"
            }
            Self::AdoptionInStandbyCluster => {
                "initMode \"existing\" with role \"standby\": the adopted data become a primary that takes writes; use \
                 initMode \"pitr\" for a standby cluster"
            }
            Self::FieldWithoutEffect { field, read_with } => {
                return write!(f, "{field} is only read with {read_with}");
            }
            Self::TrustsTheWorld { line } => {
                return write!(f, "the line {line:?} of pgHBA lets in everybody who can reach PostgreSQL, without any proof");
            }
            Self::NoHbaRecord { line } => {
                return write!(
                    f,
                    "the entry {line:?} of pgHBA is no line of pg_hba.conf and keepers will leave it out: a line begins with local, \
                     host, hostssl, hostnossl, hostgssenc or hostnogssenc, then come database, user, address (not with local) and method"
                );
            }
            Self::SynchronousStandbyCluster => "synchronousReplication is ignored while role is \"standby\"",
            Self::NoSynchronousStandbyNeeded => {
                "minSynchronousStandbys is 0: commits do not wait when no standby is left, so acknowledged rows can be lost"
            }
        })
    }
}

impl ClusterSpec {
    /// Everything that is legal and worth a word, warnings first.
    pub fn remarks(&self) -> Vec<SpecRemark> {
        let spec = self.effective();
        let mut remarks = Vec::new();
        let mut add_if = |applies: bool, remark: SpecRemark| remarks.extend(applies.then_some(remark));
        add_if(spec.sleep_interval.is_zero(), SpecRemark::NoSleep);
        add_if(
            spec.init_mode == InitMode::Existing && spec.role == Role::Standby,
            SpecRemark::AdoptionInStandbyCluster,
        );
        for line in self.pg_hba.iter().flatten().filter(|line| trusts_the_world(line)) {
            add_if(true, SpecRemark::TrustsTheWorld { line: line.clone() });
        }
        for line in self.pg_hba.iter().flatten().filter(|line| !is_hba_record(line)) {
            add_if(true, SpecRemark::NoHbaRecord { line: line.clone() });
        }
        for (field, read_with) in self.fields_without_effect() {
            add_if(true, SpecRemark::FieldWithoutEffect { field, read_with });
        }
        let synchronous = spec.synchronous_replication;
        add_if(synchronous && spec.role == Role::Standby, SpecRemark::SynchronousStandbyCluster);
        add_if(synchronous && spec.min_synchronous_standbys == 0, SpecRemark::NoSynchronousStandbyNeeded);
        remarks
    }
}

/// Whether PostgreSQL could take it for a line at all; in doubt it could (PostgreSQL manual, "The pg_hba.conf File").
fn is_hba_record(line: &str) -> bool {
    let text = line.trim();
    let words = text.split_whitespace().count();
    match text.split_whitespace().next().map(|word| word.trim_matches('"')) {
        None => true,
        Some(word) if word.starts_with('#') => true,
        Some("local") => words >= 4,
        Some("host" | "hostssl" | "hostnossl" | "hostgssenc" | "hostnogssenc") => words >= 5,
        Some("include" | "include_if_exists" | "include_dir") => words >= 2,
        Some(_) => false,
    }
}

/// Whether it is a line for TCP from everywhere with the method `trust` (PostgreSQL manual, "The pg_hba.conf File").
fn trusts_the_world(line: &str) -> bool {
    let plain = line.replace('"', "");
    let fields: Vec<&str> = plain.split_whitespace().collect();
    let [kind, _, _, address, rest @ ..] = fields.as_slice() else { return false };
    let everywhere = match rest {
        ["trust", ..] => *address == "all" || address.ends_with("/0"),
        [mask, "trust", ..] => matches!(*mask, "0.0.0.0" | "::"),
        _ => false,
    };
    kind.starts_with("host") && everywhere
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_for_the_world_is_told_from_trust_for_somebody() {
        for (line, expected) in [
            ("host all all 0.0.0.0/0 trust", true),
            ("hostnossl\tall\tapp\t::/0\ttrust", true),
            ("host all all ::0/0 \"trust\"", true),
            ("host all all all trust # for now", true),
            ("host all all 0.0.0.0 0.0.0.0 trust", true),
            ("host all all 10.0.0.0/8 trust", false),
            ("host all all 10.0.0.0 255.0.0.0 trust", false),
            ("host all all all md5", false),
            ("local all all trust", false),
            ("# host all all all trust", false),
            ("", false),
        ] {
            assert_eq!(trusts_the_world(line), expected, "{line}");
            let spec = ClusterSpec { pg_hba: Some(vec![line.to_owned()]), ..ClusterSpec::default() };
            assert_eq!(spec.remarks().iter().any(SpecRemark::is_warning), expected, "{line}");
        }
    }
}
