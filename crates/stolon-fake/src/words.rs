use stolon_core::keeper::{ConfigMerge, Gate, RecoveryMode, Step};

/// A step as a word, short enough for tables; none for what nobody wants to read in one.
pub fn word(step: &Step) -> Option<String> {
    Some(match step {
        Step::Stop | Step::HandOver => "stop".into(),
        Step::Kill => "kill".into(),
        Step::SetGate(Gate::Closed) => "gate".into(),
        Step::SetGate(Gate::Open) | Step::Archive => return None,
        Step::MarkInitializing(_) => "mark".into(),
        Step::SetAside { instance, .. } => format!("aside:{instance}"),
        Step::Wipe(_) => "wipe".into(),
        Step::InitDb(_) => "initdb".into(),
        Step::Restore(_) => "restore".into(),
        Step::ExamineSource { .. } => "examine".into(),
        Step::BaseBackup { .. } => "copy".into(),
        Step::Rewind { .. } => "rewind".into(),
        Step::CheckSettings { .. } => "check".into(),
        Step::CommentOut(_) => "comment".into(),
        Step::Configure { config, merge } => {
            let mode = match config.recovery.mode {
                RecoveryMode::None => "primary",
                RecoveryMode::Standby => "standby",
                RecoveryMode::Recovery => "recovery",
            };
            let merged = if *merge == ConfigMerge::WithExisting { "+merged" } else { "" };
            format!("configure:{mode}{merged}")
        }
        Step::Start(_) => "start".into(),
        Step::WaitReady(_) => "ready".into(),
        Step::WaitFollowing(_) => "follows".into(),
        Step::WaitRecoveryEnd(_) => "recovered".into(),
        Step::CaptureParameters => "capture".into(),
        Step::SetUpRoles => "roles".into(),
        Step::Finish(_) => "finish".into(),
        Step::Reload => "reload".into(),
        Step::Promote => "promote".into(),
        Step::EnsureSlots(slots) if slots.is_empty() => "slots".into(),
        Step::EnsureSlots(slots) => {
            format!("slots:{}", slots.iter().cloned().collect::<Vec<_>>().join(","))
        }
        Step::DropSlots(slots) => {
            format!("drop:{}", slots.keys().cloned().collect::<Vec<_>>().join(","))
        }
        Step::AdvanceSlots(slots) => {
            let to = slots.iter().map(|(name, to)| format!("{name}={to}"));
            format!("advance:{}", to.collect::<Vec<_>>().join(","))
        }
        Step::DropStaleSlots(slots) => {
            format!("drop-stale:{}", slots.iter().cloned().collect::<Vec<_>>().join(","))
        }
        Step::TerminateClients => "terminate".into(),
        Step::Checkpoint(_) => "checkpoint".into(),
        Step::TakeAsRewound => "as-rewound".into(),
        Step::Commit(generation) => format!("commit:{generation}"),
        Step::Reobserve => "again".into(),
    })
}
