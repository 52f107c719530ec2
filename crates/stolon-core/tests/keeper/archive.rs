//! What a server had yet to archive, before its data are rewound or replaced.

use stolon_core::keeper::*;
use stolon_model::{InstanceInitMode as Init, InstanceUid, Role};

use crate::given::*;

/// Where the archive comes in, among the steps that look at the source and the first one that writes something down.
fn position(source_system: &str, rewinds: bool, change: impl FnOnce(&mut Observation)) -> Option<usize> {
    let mut cluster = asked(Role::Standby, Init::Resync);
    ours(&mut cluster).spec.use_pg_rewind = rewinds;
    let mut seen = here(DataKind::Primary);
    seen.local.uid = "old".into();
    change(&mut seen);
    if !source_system.is_empty() {
        cluster.instances.get_mut(&"pp".into()).unwrap().status.system_identifier = source_system.into();
    }
    let steps = plan(&goal(&cluster), &seen).steps;
    let marked = steps.iter().position(|step| matches!(step, Step::MarkInitializing(_))).unwrap();
    let archived = steps.iter().position(|step| *step == Step::Archive);
    assert!(archived.is_none_or(|at| at < marked && steps[at - 1] != Step::Stop), "{steps:?}");
    archived
}

#[test]
fn what_a_server_of_ours_had_left_is_archived_before_its_data_are_touched() {
    for rewinds in [true, false] {
        assert!(position("", rewinds, |_| ()).is_some(), "{rewinds}");
        let half_made = |seen: &mut Observation| seen.local.initializing = true;
        assert_eq!(position("", rewinds, half_made), None, "it may hold what its source has yet to archive");
        let nobodys = |seen: &mut Observation| seen.local.uid = InstanceUid::default();
        assert_eq!(position("", rewinds, nobodys), None);
        assert_eq!(position("another", rewinds, |_| ()), None, "another cluster has an archive of its own");
    }
}
