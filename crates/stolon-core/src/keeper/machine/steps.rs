//! Steps: how each begins, and what its end teaches.

use stolon_model::{Explained, InstanceState};

use crate::keeper::event::{Effect, Measure, Progress, StateFile, StateFileKind};
use crate::keeper::goal::Goal;
use crate::keeper::observation::{Gate, LocalState, Stage};
use crate::keeper::outcome::{FailureKind, Learned, StepFailure, StepOutcome};
use crate::keeper::parameters::captured_parameters;
use crate::keeper::say::Saying;
use crate::keeper::step::{AtFailure, OldData, Step};

use super::Machine;
use super::blame::Verdict;
use super::course::{Awaits, Course, Pursuit};
use super::files::{self, Written};
use super::orders::FRESH;
use super::patience::RestartUnderWay;
use super::standby_admission::quorum_in;
use super::testimony::{self, Finding};

impl Machine {
    /// Begins a step of the course: takes it itself, or has it taken.
    pub(super) fn begin_step(&mut self, step: Step) {
        if self.lacks_fresh_orders(&step) {
            if self.finding_before(&step) == Finding::Unread {
                self.read_reports();
            }
            self.await_with(Awaits::Orders(step));
            return self.read_cluster(FRESH);
        }
        match self.finding_before(&step) {
            Finding::Nothing => {}
            Finding::Unread => {
                self.await_with(Awaits::Reports(step));
                return self.read_reports();
            }
            Finding::Newer(ahead) => return self.troubled(&testimony::complaint(&ahead)),
        }
        match step {
            step if self.pledge_forbids(&step) => self.await_end_of_pledge(),
            Step::Reobserve => self.plan_again(),
            Step::SetGate(gate) => self.server.gate = gate,
            Step::TakeAsRewound => self.making.attempt.reached(Stage::Rewound),
            Step::MarkInitializing(ref uid) => {
                let local = LocalState { uid: uid.clone(), initializing: true, ..LocalState::default() };
                self.write_local(&local, step);
            }
            Step::Finish(ref uid) => {
                let captured = self.making.captured.clone();
                let local = LocalState { uid: uid.clone(), captured, ..LocalState::default() };
                self.write_local(&local, step);
            }
            Step::Commit(generation) if self.disk.local.generation == generation => {}
            Step::Commit(generation) => {
                let local = LocalState { generation, initializing: false, ..self.disk.local.clone() };
                self.write_local(&local, step);
            }
            Step::Configure { ref config, merge } if self.blame.must_ask(config, merge) => {
                let question = Step::CheckSettings { config: config.clone(), merge };
                self.have_taken(question);
                self.await_with(Awaits::Check(step));
            }
            step => {
                if let Step::Start(_) = step {
                    self.server.disks.server_starts();
                }
                if step == Step::Reload {
                    self.measure(Measure::NeedsReload(true));
                }
                self.take(step);
            }
        }
    }

    fn lacks_fresh_orders(&self, step: &Step) -> bool {
        match &self.pursuit {
            Pursuit::Course(course) => self.needs_fresh_orders(step, course),
            _ => false,
        }
    }

    /// Has a step taken, and waits for its end.
    pub(super) fn take(&mut self, step: Step) {
        let is_question =
            matches!(&self.pursuit, Pursuit::Course(course) if course.awaits == Awaits::Reconsidering);
        if is_question {
            return self.have_taken(step);
        }
        self.say(Saying::Begins(Box::new(step.clone())));
        self.have_taken(step.clone());
        self.await_with(Awaits::Step(step));
    }

    fn have_taken(&mut self, step: Step) {
        let request_timeout = self.orders.pace().request;
        self.reporting.progress = Progress::default();
        self.ask_for(Effect::Take { step: Box::new(step), request_timeout });
    }

    fn await_with(&mut self, awaits: Awaits) {
        if let Pursuit::Course(course) = &mut self.pursuit {
            course.awaits = awaits;
        }
    }

    /// What the data directory holds is written down before the next step.
    fn write_local(&mut self, local: &LocalState, step: Step) {
        self.await_with(Awaits::Save(step));
        self.save(StateFile::Instance(instance_state(local)));
        if self.disk.files.is_late(StateFileKind::Instance) {
            self.local_written(Err(files::late(StateFileKind::Instance)));
        }
    }

    /// A file is written, or is not.
    pub(super) fn saved(&mut self, kind: StateFileKind, outcome: Result<(), String>) {
        if let Err(why) = &outcome {
            self.say(Saying::NotSaved(kind, why.clone()));
        }
        let Written { file, next } = self.disk.files.saved(self.now, kind, &outcome);
        match kind {
            StateFileKind::Instance if next.is_none() => {
                let is_written = outcome.is_ok();
                self.local_written(outcome);
                // Somebody was to write it who has given up meanwhile.
                let present = StateFile::Instance(instance_state(&self.disk.local));
                if is_written && file.is_some_and(|file| file != present) {
                    self.save(present);
                }
            }
            StateFileKind::Boot => self.note_left(outcome),
            StateFileKind::Pledged if next.is_none() => {
                self.pledge_noted(file.as_ref().filter(|_| outcome.is_ok()));
            }
            StateFileKind::Served if outcome.is_err() => self.disk.served.not_written(),
            _ => {}
        }
        if let Some(file) = next {
            self.ask_for(Effect::Save(Box::new(file)));
        }
    }

    /// What could not be written is written again: of the instance what is true by now. A write that failed may have reached the disk, and
    /// data that nobody has touched must not be taken for half-made.
    pub(super) fn write_again(&mut self) {
        for file in self.disk.files.take_failed() {
            self.save(match file {
                StateFile::Instance(_) => StateFile::Instance(instance_state(&self.disk.local)),
                file => file,
            });
        }
    }

    /// A write that does not end is told, and nobody waits for it any longer.
    pub(super) fn writes_may_be_late(&mut self) {
        for kind in self.disk.files.newly_late(self.now) {
            let why = files::late(kind);
            self.say(Saying::NotSaved(kind, why.clone()));
            if kind == StateFileKind::Instance {
                self.local_written(Err(why));
            }
        }
    }

    /// That a generation is reached is known without the file, too: one that cannot be written is shown, and tried again. What is begun or
    /// ended with data has to be on the disk first.
    fn local_written(&mut self, outcome: Result<(), String>) {
        let Pursuit::Course(course) = &mut self.pursuit else { return };
        let step = match std::mem::replace(&mut course.awaits, Awaits::Nothing) {
            Awaits::Save(step) => step,
            other => {
                course.awaits = other;
                return;
            }
        };
        match (step, outcome) {
            (Step::Commit(generation), _) => {
                let local = LocalState { generation, initializing: false, ..self.disk.local.clone() };
                self.say(Saying::GenerationReached(local.uid.clone(), generation));
                self.set_local(local);
                self.looks.something_happened(self.now);
            }
            (_, Err(why)) => self.troubled(&Explained::new(why.to_string())),
            (Step::MarkInitializing(uid), Ok(())) => {
                self.set_local(LocalState { uid, initializing: true, ..LocalState::default() });
            }
            (Step::Finish(uid), Ok(())) => {
                let captured = self.making.captured.take();
                self.set_local(LocalState { uid, captured, ..LocalState::default() });
                self.making.attempt.reached(Stage::Nothing);
            }
            _ => {}
        }
    }

    fn set_local(&mut self, local: LocalState) {
        if local.uid != self.disk.local.uid {
            // What was seen was seen of another instance.
            self.reporting.server_is_gone();
        }
        self.disk.local = local;
    }

    /// The step under way has ended.
    pub(super) fn step_ended(&mut self, outcome: StepOutcome) {
        self.reporting.progress = Progress::default();
        let Pursuit::Course(course) = &mut self.pursuit else { return };
        match std::mem::replace(&mut course.awaits, Awaits::Nothing) {
            Awaits::Step(step) => {
                if step.name().is_some() || step == Step::Reload {
                    self.looks.something_happened(self.now);
                }
                match outcome {
                    StepOutcome::Done(learned) => self.step_done(&step, learned),
                    StepOutcome::Failed(failure) => self.step_failed(&step, &failure),
                }
            }
            Awaits::Check(configure) => self.settings_checked(configure, outcome),
            Awaits::Reconsidering => {
                if let StepOutcome::Done(Learned::Rejected(rejected)) = outcome {
                    self.blame.reconsidered(&rejected);
                }
            }
            other => course.awaits = other,
        }
    }

    /// The binaries were asked about a configuration before it is written.
    fn settings_checked(&mut self, configure: Step, outcome: StepOutcome) {
        let Step::Configure { config, merge } = &configure else { return };
        let rejected = match outcome {
            StepOutcome::Done(Learned::Rejected(rejected)) => rejected,
            StepOutcome::Done(_) => Vec::new(),
            StepOutcome::Failed(failure) => return self.step_failed(&configure, &failure),
        };
        match self.blame.answered(config, *merge, &rejected) {
            Verdict::Accepted => self.take(configure),
            Verdict::Replan => self.plan_again(),
            Verdict::Refused(sentence) => self.hindered(Explained::new(sentence)),
            Verdict::CommentOut(settings) => {
                for setting in &settings {
                    self.say(Saying::ParameterProblem(super::blame::sentence(setting)));
                }
                self.take(Step::CommentOut(settings));
            }
        }
    }

    fn step_done(&mut self, step: &Step, learned: Learned) {
        match step {
            Step::Stop | Step::HandOver | Step::Kill => {
                self.blame.stopped();
                self.server.deaths.stopped();
                if matches!(&self.pursuit, Pursuit::Course(course) if course.restarts_primary()) {
                    self.server.restart.under_way = RestartUnderWay::Yes;
                }
                self.server.disks.server_ended();
                self.survivor_ended();
            }
            Step::Wipe(_) => self.making.attempt.reached(Stage::Nothing),
            Step::Restore(_) => self.making.attempt.reached(Stage::Restored),
            Step::WaitRecoveryEnd(_) => self.making.attempt.reached(Stage::Recovered),
            Step::Rewind { .. } => self.making.attempt.reached(Stage::Rewound),
            Step::Checkpoint(change) => self.handing.checkpointed(change, Ok(())),
            Step::BaseBackup { .. } => {
                self.making.attempt.old_data = OldData::KeepUntilCopied;
                self.making.attempt.reached(Stage::Copied);
            }
            Step::CommentOut(_) => self.plan_again(),
            Step::Configure { config, .. } => self.blame.written(config),
            Step::TerminateClients => {
                self.lease.shut();
                self.fence.shut();
            }
            Step::Start(_) => {
                if self.server.gate == Gate::Closed {
                    self.lease.shut();
                }
                self.server.sync.reset();
                self.server.stragglers.reset();
                self.server.deaths.started(self.now);
                self.blame.started();
                // It has read everything, also what an earlier reload did not take.
                self.measure(Measure::NeedsReload(false));
            }
            // Whatever it was for: the files were read after the request.
            Step::Reload => {
                let names =
                    self.blame.applied().and_then(|it| it.parameters.get("synchronous_standby_names"));
                if names.is_some_and(|names| quorum_in(names).is_some()) {
                    // Who acknowledges now says nothing of each alone, also if it is never looked at.
                    self.server.sync.reset();
                }
                if let Pursuit::Course(course) = &self.pursuit
                    && let Goal::Reach(goal) = &course.goal
                {
                    self.server.reloaded = goal.reload_asked.clone().or(self.server.reloaded.take());
                }
            }
            Step::Promote => {
                self.server.sync.reset();
                self.server.stragglers.reset();
                self.say(Saying::Promoted);
            }
            _ => {}
        }
        self.learned(step, learned);
    }

    fn learned(&mut self, step: &Step, learned: Learned) {
        match learned {
            Learned::NotInForce(problems) => {
                self.measure(Measure::NeedsReload(false));
                self.voice.announced.acted();
                if self.blame.reloaded(&problems) == Verdict::Replan {
                    self.plan_again();
                }
            }
            Learned::Nothing if *step == Step::Reload => self.learned(step, Learned::NotInForce(Vec::new())),
            Learned::Configured(parameters) => {
                self.making.captured = Some(captured_parameters(&parameters));
            }
            Learned::Roles(changes) => {
                let role = self.identity.replication.name.clone();
                changes.into_iter().for_each(|change| self.say(Saying::Role(change, role.clone())));
            }
            Learned::Slots(changes) => {
                changes.created.into_iter().for_each(|slot| self.say(Saying::SlotCreated(slot)));
                let held = |slot: &String| match step {
                    Step::DropSlots(let_go) => let_go.get(slot).copied(),
                    _ => None,
                };
                let dropped = changes.dropped.into_iter().map(|slot| match held(&slot) {
                    Some(bytes) => Saying::SlotLetGo(slot, bytes),
                    None => Saying::SlotDropped(slot),
                });
                self.say_all(dropped.collect());
                self.reporting.slots_failed = None;
                let said = self.voice.announced.kept_slots(changes.kept);
                self.say_all(said);
            }
            Learned::SessionsEnded(0) | Learned::Nothing | Learned::Rejected(_) => {}
            Learned::SessionsEnded(count) => self.say(Saying::SessionsEnded(count)),
            Learned::KeptAt(path) => {
                if let Step::SetAside { instance, .. } = step {
                    self.say(Saying::SetAside { instance: instance.clone(), path });
                }
            }
        }
    }

    fn step_failed(&mut self, step: &Step, failure: &StepFailure) {
        let called_off = failure.kind == FailureKind::CalledOff;
        match step {
            Step::BaseBackup { .. } => {
                self.making.attempt.old_data = match failure.kind {
                    FailureKind::DiskFullHere => OldData::DeleteFirst,
                    _ => OldData::KeepUntilCopied,
                };
            }
            // No second attempt finds a tool that is not installed, or other data.
            Step::Rewind { .. }
                if called_off
                    || matches!(failure.kind, FailureKind::NoProgram | FailureKind::NotRewindable) =>
            {
                self.making.attempt.rewind_is_useless()
            }
            Step::Rewind { .. } => self.making.attempt.rewind_failures += 1,
            Step::Configure { .. } => self.blame.half_written(),
            _ => {}
        }
        if called_off {
            return self.plan_again();
        }
        let complaint = Explained { sentence: failure.sentence.clone(), hint: failure.hint.clone() };
        match step {
            // Successors meet the same limits, and commits do not wait for a slot: no reason to stay behind.
            Step::EnsureSlots(_) | Step::DropSlots(_) | Step::DropStaleSlots(_) | Step::AdvanceSlots(_) => {
                if self.reporting.slots_failed.as_ref() != Some(&failure.sentence) {
                    self.say(Saying::SlotsFailed(failure.clone()));
                }
                self.reporting.slots_failed = Some(failure.sentence.clone());
            }
            // The sentinel ends the change, and the primary goes on.
            Step::Checkpoint(change) => self.handing.checkpointed(change, Err(&failure.sentence)),
            step if step.is_start() => self.start_failed(failure, &complaint),
            _ => self.hindered(complaint),
        }
    }

    /// A step of the course cannot be taken. The plan says what must not go on for that.
    fn hindered(&mut self, complaint: Explained) {
        match &self.pursuit {
            Pursuit::Course(course) if course.at_failure == AtFailure::Stop => {
                let stop = Course::stop(course.goal.clone(), complaint);
                self.pursuit = Pursuit::Course(Box::new(stop));
            }
            _ => self.troubled(&complaint),
        }
    }

    /// A server did not start, or did not come up.
    fn start_failed(&mut self, failure: &StepFailure, complaint: &Explained) {
        self.say(Saying::StartFailed(failure.clone()));
        if self.disk.local.initializing {
            self.making.attempt.start_failed();
            return self.troubled(complaint);
        }
        match self.blame.did_not_start(failure) {
            Verdict::Replan => self.plan_again(),
            _ => self.troubled(complaint),
        }
    }

    /// True when our instance is here, is complete, and has reached what is asked of it.
    pub(super) fn is_converged(&self) -> bool {
        let local = &self.disk.local;
        matches!(
            self.orders.goal(),
            Goal::Reach(goal) if goal.uid == local.uid && goal.generation == local.generation && !local.initializing
        )
    }
}

fn instance_state(local: &LocalState) -> InstanceState {
    InstanceState {
        uid: local.uid.clone(),
        generation: local.generation,
        initializing: local.initializing,
        init_pg_parameters: local.captured.clone(),
    }
}
