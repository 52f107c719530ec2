//! The decisions of a keeper: what is wanted of the instance in its charge, and the next steps towards it.
//!
//! [`Machine`] is the whole keeper without its hands: [`Goal::of`] reads the cluster data, [`plan()`] compares the goal with an
//! [`Observation`]. Doing the steps, and looking again, is the business of the program.

mod archiver;
mod configuration;
mod converge;
mod event;
mod goal;
mod hba;
mod inquiry;
mod instance;
mod look;
mod machine;
mod make;
mod observation;
mod outcome;
mod parameters;
mod part;
mod plan;
mod recovery;
mod room;
mod say;
mod slot_sync;
mod slots;
mod step;
mod store_commands;
mod warrant;

pub use archiver::{Archiver, Backlog, LastRun};
pub use event::{
    ClusterRead, Effect, Event, Exit, Found, FoundServer, Health, Knocked, Measure, Position, Progress,
    Reports, StandbyLag, StateFile, StateFileKind,
};
pub use goal::{
    Deposed, DocumentAge, Follow, Goal, Identity, InstanceGoal, InstanceRole, LeaveAlone, Make,
    OlderThanServed, OtherData, Peer, PrimaryGoal, RestartPolicy, Reuse, RewindCredentials, StopReason,
};
pub use hba::{
    Admission, HbaDatabase, HbaGoal, HbaLine, HbaOrigin, HbaRule, HbaUser, SlotReaders, Transport, User,
    hba_lines,
};
pub use inquiry::{Inquiry, Lag, No, Office, Orders, Picture, Server as ServerPicture, Vouched};
pub use instance::Instance;
pub use look::{Answer, ControlLook, Intake, Look, OrderlyEnd, ReplicationRow, ServerLook, WalReceiver};
pub use machine::{Advertised, Beginning, Machine, Predecessor};
pub use observation::{
    AlterSystem, Attempt, Config, Data, DataKind, Gate, Lease, Live, LocalState, Observation, Patience,
    Present, Server, Stage,
};
pub use outcome::{
    ConfigFile, DeathCause, FailureKind, Learned, LineProblem, Origin, RejectedSetting, RoleChange,
    ServerDeath, SlotChanges, SourceTrouble, StepFailure, StepOutcome,
};
pub use parameters::{
    Demands, ParameterFacts, ParameterGoal, ParameterProblem, Refusal, RefusalGround, Refusals,
    SyncAfterCrash, WalLevel, WantedParameters, captured_parameters, instances_of, reported_parameters,
    synchronous_names, wanted_parameters, with_what_was_left_out,
};
pub use part::Part;
pub use plan::plan;
pub use recovery::{
    PasswordProtocol, RecoveryMode, RecoverySettings, Upstream, UpstreamSlots, exclusive_targets,
    recovery_parameters,
};
pub use room::{DiskUse, FileSystem, Probed, Room};
pub use say::{NoHandOver, Parting, Saying};
pub use slot_sync::{DATABASE as SLOT_DATABASE, SlotSync};
pub use slots::{Failover, SlotKind, SlotRow};
pub use step::{AtFailure, ConfigMerge, NextLook, OldData, PendingRestart, Plan, Reason, Step, Trouble};
pub use store_commands::{BadCommandLine, NotAllowed, StoreCommands};
pub use warrant::{DestroyWarrant, Ground, assigned_anew, half_made};
