//! On the way to the goal: resting, looking, or following a plan step by step.

use std::collections::VecDeque;
use std::time::Duration;

use stolon_model::{Advise, Explained, Lsn, Parameters};

use crate::keeper::event::{Effect, Health, Measure, StateFile};
use crate::keeper::goal::{Goal, InstanceGoal, InstanceRole, LeaveAlone};
use crate::keeper::look::{ControlLook, Look, ServerLook};
use crate::keeper::observation::{Attempt, Data, DataKind, Gate, Lease, Live, Observation, Server, Stage};
use crate::keeper::parameters::{Demands, Refusals, WalLevel};
use crate::keeper::plan::plan;
use crate::keeper::say::Saying;
use crate::keeper::step::{AtFailure, ConfigMerge, NextLook, PendingRestart, Plan, Step, Trouble};
use crate::postgres::{Support, Version};
use crate::settings::MAJORS;

use super::Machine;
use super::looks::{WATCHED, Worth};
use super::orders::{Change, Freshness};
use super::patience::RestartUnderWay;
use super::stragglers::Keeping;

/// Where we are on the way to the goal.
#[derive(Debug)]
pub(super) enum Pursuit {
    /// There is nothing to do until then, unless something happens.
    Rest { until: Duration },
    /// The next look decides what is to be done.
    Look,
    /// A plan is followed.
    Course(Box<Course>),
}

/// A plan that is followed.
#[derive(Debug)]
pub(super) struct Course {
    /// What it leads to.
    pub(super) goal: Goal,
    /// What it says besides its steps.
    pub(super) trouble: Option<Explained>,
    pub(super) restart: PendingRestart,
    pub(super) next_look: NextLook,
    pub(super) at_failure: AtFailure,
    /// Not begun yet.
    pub(super) steps: VecDeque<Step>,
    pub(super) awaits: Awaits,
    /// It makes an instance: what was begun is ended, unless it is of no use any more.
    pub(super) making: bool,
    /// Something happened that it was not made for: the steps that are left are not taken.
    pub(super) outdated: bool,
    called_off: bool,
}

/// What a course waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Awaits {
    /// Nothing: the next step can be taken.
    Nothing,
    /// The end of this step.
    Step(Step),
    /// The answer of the binaries, before this configuration is written.
    Check(Step),
    /// The answer of the binaries about settings that were refused before.
    Reconsidering,
    /// A file, which this step writes.
    Save(Step),
    /// The store's present word, before this step is taken.
    Orders(Step),
    /// What others report, before this step is taken.
    Reports(Step),
}

impl Awaits {
    /// An instance is at it, which takes one step at a time.
    fn is_of_instance(&self) -> bool {
        matches!(self, Awaits::Step(_) | Awaits::Check(_) | Awaits::Reconsidering)
    }

    /// Nothing is under way here.
    fn is_idle(&self) -> bool {
        matches!(self, Awaits::Nothing | Awaits::Orders(_) | Awaits::Reports(_))
    }
}

/// What new orders mean for the step under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    Nothing,
    CallOff,
}

/// What is remembered of the making of an instance.
#[derive(Debug, Default)]
pub(super) struct Making {
    pub(super) attempt: Attempt,
    /// Captured, not yet written down.
    pub(super) captured: Option<Parameters>,
    /// What the control data demand of a server that replays WAL.
    pub(super) demands: Option<Demands>,
    /// What the data had been written with then.
    pub(super) wal_level: WalLevel,
    /// It was said that they cannot be found out.
    pub(super) demands_were_missed: bool,
}

impl Pursuit {
    pub(super) fn step_under_way(&self) -> Option<&Step> {
        match self {
            Pursuit::Course(course) => match &course.awaits {
                Awaits::Step(step) | Awaits::Check(step) => Some(step),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the step under way is one that fails when the server ends.
    pub(super) fn is_starting(&self) -> bool {
        matches!(
            self,
            Pursuit::Course(course) if matches!(&course.awaits, Awaits::Step(step) if step.is_start())
        )
    }

    /// What was planned was planned for something else: the step under way is ended, then everything is looked at anew.
    pub(super) fn plan_anew(&mut self) {
        match self {
            Pursuit::Course(course) if !course.awaits.is_idle() => {
                course.outdated = true;
            }
            _ => *self = Pursuit::Look,
        }
    }

    /// The cluster data were read, and ask for `goal`.
    pub(super) fn orders_came(&mut self, change: Change, goal: &Goal) -> Reaction {
        if let Pursuit::Course(course) = self {
            let given_up = course.goal.is_given_up_by(goal);
            if course.making && !given_up {
                // What is made comes first; parameters and the like come into force afterwards.
                course.stop_awaiting_orders();
                return Reaction::Nothing;
            }
            let long = matches!(&course.awaits, Awaits::Step(step) if step.takes_long());
            // A server in recovery is waited for as long as it goes on, and may be let out of it with its clients.
            let deposed = matches!(&course.awaits, Awaits::Step(Step::WaitReady(_)))
                && goal.is_deposed()
                && !course.goal.is_deposed();
            let moot = matches!(
                &course.awaits,
                Awaits::Step(Step::Checkpoint(change)) if !goal.wants_checkpoint_for(change)
            );
            if (given_up || deposed || moot) && long && !std::mem::replace(&mut course.called_off, true) {
                course.outdated = true;
                return Reaction::CallOff;
            }
            if change == Change::Nothing {
                course.stop_awaiting_orders();
                return Reaction::Nothing;
            }
        }
        if change == Change::Goal {
            self.plan_anew();
        }
        Reaction::Nothing
    }
}

impl Pursuit {
    /// Clients are to be locked out at once: nothing is waited for that takes long.
    pub(super) fn shut(&mut self) -> Reaction {
        self.plan_anew();
        match self {
            Pursuit::Course(course) => {
                let long = matches!(&course.awaits, Awaits::Step(step) if step.takes_long());
                match long && !course.making && !std::mem::replace(&mut course.called_off, true) {
                    true => Reaction::CallOff,
                    false => Reaction::Nothing,
                }
            }
            Pursuit::Rest { .. } | Pursuit::Look => Reaction::Nothing,
        }
    }

    /// Nothing matters but that the server is killed.
    pub(super) fn kill(&mut self, goal: &Goal) -> Reaction {
        match self {
            Pursuit::Course(course) if course.kills() => Reaction::Nothing,
            Pursuit::Course(course) if course.awaits.is_of_instance() => {
                course.outdated = true;
                match std::mem::replace(&mut course.called_off, true) {
                    true => Reaction::Nothing,
                    false => Reaction::CallOff,
                }
            }
            _ => {
                *self = Pursuit::Course(Box::new(Course::one(goal.clone(), Step::Kill)));
                Reaction::Nothing
            }
        }
    }
}

impl Course {
    fn kills(&self) -> bool {
        self.awaits == Awaits::Step(Step::Kill) || self.steps.front() == Some(&Step::Kill)
    }

    fn stop_awaiting_orders(&mut self) {
        if let Awaits::Orders(step) = &self.awaits {
            self.steps.push_front(step.clone());
            self.awaits = Awaits::Nothing;
        }
    }
}

impl Machine {
    /// The next step, or a look to plan on; as far as it goes without waiting.
    pub(super) fn pursue(&mut self) {
        loop {
            match &mut self.pursuit {
                Pursuit::Rest { until } if self.now >= *until => self.pursuit = Pursuit::Look,
                Pursuit::Rest { .. } => return,
                Pursuit::Look => {
                    if self.may_plan() && !self.looks.is_under_way() {
                        self.begin_look();
                    }
                    return;
                }
                Pursuit::Course(course) if course.awaits == Awaits::Nothing => {
                    if course.outdated {
                        self.pursuit = Pursuit::Look;
                        continue;
                    }
                    match course.steps.pop_front() {
                        Some(step) => self.begin_step(step),
                        None => self.course_ended(),
                    }
                }
                Pursuit::Course(_) => return,
            }
        }
    }

    pub(super) fn pursuit_wake(&self) -> Option<Duration> {
        match &self.pursuit {
            Pursuit::Rest { until } => Some(*until),
            Pursuit::Look if self.now < self.server.not_before => Some(self.server.not_before),
            Pursuit::Look | Pursuit::Course(_) => None,
        }
    }

    /// Nothing is planned before the store was asked once, nor while a server that dies again and again is given a pause.
    fn may_plan(&self) -> bool {
        self.now >= self.server.not_before && self.orders.is_known() && !self.is_kept_down_for_its_disk()
    }

    pub(super) fn look_when_due(&mut self) {
        if self.looks.is_due(self.now) {
            self.begin_look();
        }
        if self.looks.takes_long(self.now, self.orders.pace().sleep) {
            self.say(Saying::LookTakesLong);
            self.measure(Measure::Health(Health::LookHangs));
            self.reporting.server_is_gone();
        }
    }

    fn begin_look(&mut self) {
        self.looks.begin(self.now);
        self.ask_for(Effect::Look { within: self.orders.pace().request });
    }

    /// What a look found is remembered, reported, and planned on when a plan waits for it.
    pub(super) fn looked(&mut self, look: Look) {
        let usual = self.orders.pace().sleep / 2;
        if self.handing.awaits_end() {
            self.looks.stay_restless(self.now);
        }
        if self.looks.ended(self.now, usual) == Worth::Outdated {
            return;
        }
        let kind = look.data.kind();
        self.measure(Measure::LocalRole(kind));
        match self.orders.goal() {
            // The last one that was asked for still counts.
            Goal::LeaveAlone(_) => {}
            Goal::Stop(_) => self.measure(Measure::TargetRole(None)),
            Goal::Reach(goal) => self.measure(Measure::TargetRole(Some(goal.role.kind()))),
        }
        match &look.server {
            ServerLook::Stopped => {
                self.blame.stopped();
                self.looks.calm_down(self.now, usual);
            }
            ServerLook::Answering(answer) => {
                self.server.restart.under_way = RestartUnderWay::No;
                self.server.sync.looked(self.disk.local.generation, answer);
                if self.server.stragglers.looked(self.now, answer) == Keeping::Behind {
                    self.looks.within(self.now, WATCHED);
                }
                let waiting: Vec<String> = answer.pending_restart.keys().cloned().collect();
                if let Some(proven) = self.blame.came_up(&waiting) {
                    self.save(StateFile::Proven(proven));
                }
            }
            ServerLook::Starting | ServerLook::Silent(_) | ServerLook::Stranger(_) => {}
        }
        self.server.room.looked(&look.room);
        self.handing.looked(&look);
        let said = self.server.disks.looked(self.now, &look.room, self.orders.pace().sleep);
        self.say_all(said.into_iter().collect());
        self.kill_what_must_not_serve_and_hangs();
        self.note_for_report(&look);
        self.note_receiver(&look);
        self.note_intake(&look);
        if matches!(self.pursuit, Pursuit::Look) && self.may_plan() {
            self.plan_on(&look);
        }
    }

    fn plan_on(&mut self, look: &Look) {
        self.write_again();
        if let Goal::Reach(goal) = self.orders.goal() {
            let uid = goal.uid.clone();
            self.making.attempt = std::mem::take(&mut self.making.attempt).at(&uid);
            if let Err(complaint) = self.note_demands(look) {
                return self.troubled(&complaint);
            }
        }
        let seen = self.observation(look);
        let goal = self.orders.goal_for(&seen, self.server.restart.under_way);
        if let (Goal::Reach(_), Some(complaint)) = (&goal, self.unusable_binaries()) {
            if goal.is_deposed() && seen.is_running() {
                self.pursuit = Pursuit::Course(Box::new(Course::stop(goal, complaint)));
                return;
            }
            return self.troubled(&complaint);
        }
        if self.blame.wants_to_reconsider(self.now)
            && let Some(config) = config_without_refusals(&goal, &seen)
        {
            self.pursuit = Pursuit::Course(Box::new(Course::question(goal)));
            let step = Step::CheckSettings { config, merge: ConfigMerge::Replace };
            return self.take(step);
        }
        let plan = plan(&goal, &seen);
        self.reporting.holds_primary_data = plan.trouble == Some(Trouble::CannotDemote);
        self.announce(&goal, &plan);
        self.pursuit = Pursuit::Course(Box::new(Course::of(goal, plan, &seen)));
    }

    /// Why nothing can be planned for these binaries.
    fn unusable_binaries(&self) -> Option<Explained> {
        match self.reporting.version() {
            Err(why) => {
                Some(Explained::new(format!("the version of the PostgreSQL binaries is not known: {why}")))
            }
            Ok(version) if version.support() == Support::TooOld => {
                let sentence = format!("PostgreSQL {version} is older than this keeper can run");
                let (first, last) = (MAJORS.start(), MAJORS.end());
                let hint = format!("name the programs of PostgreSQL {first} to {last} with --pg-bin-path");
                Some(Explained::new(sentence).with_hint(hint))
            }
            Ok(_) => None,
        }
    }

    /// Says what is about to be done, and what is wrong; each thing once.
    fn announce(&mut self, goal: &Goal, plan: &Plan) {
        let generation = match goal {
            Goal::Reach(goal) => goal.generation,
            Goal::LeaveAlone(_) | Goal::Stop(_) => 0,
        };
        let said = self.voice.announced.plan(plan, generation, &self.disk.local.uid);
        self.say_all(said);
        let problems = plan.parameter_problems.iter().chain(self.blame.line_problems()).cloned().collect();
        if let Goal::LeaveAlone(_) = goal {
            // Nothing was looked at, so nothing is known to be better.
            return;
        }
        let said = self.voice.announced.parameter_problems(problems);
        self.say_all(said);
        let waits = plan.restart == PendingRestart::Yes;
        self.reporting.pending_restart = waits;
        self.measure(Measure::NeedsRestart(waits));
    }

    /// Data that replays WAL of another server has to be run with at least that server's limits.
    fn note_demands(&mut self, look: &Look) -> Result<(), Explained> {
        let initializing = self.disk.local.initializing;
        match &look.server {
            ServerLook::Stopped => {
                let half_made = initializing && self.making.attempt.stage != Stage::Nothing;
                let kind = look.data.kind();
                let counts = kind.is_some_and(|kind| kind == DataKind::Standby || half_made);
                self.making.wal_level = match &look.control {
                    ControlLook::Demands(demands) => demands.wal_level,
                    _ => WalLevel::default(),
                };
                self.making.demands = match &look.control {
                    ControlLook::Demands(demands) if counts => Some(*demands),
                    ControlLook::NoProgram(program) if counts => {
                        self.demands_are_unknown(program);
                        None
                    }
                    ControlLook::Unreadable(why) if counts => return Err(Explained::new(why.to_string())),
                    _ => None,
                };
            }
            // Recovery is over: what is asked for counts from the next restart on.
            ServerLook::Answering(answer) if !answer.in_recovery && !initializing => {
                self.making.demands = None;
            }
            _ => {}
        }
        Ok(())
    }

    /// PostgreSQL itself says at its start which limit is too low, if one is.
    fn demands_are_unknown(&mut self, program: &str) {
        if !std::mem::replace(&mut self.making.demands_were_missed, true) {
            self.say(Saying::DemandsUnknown(program.to_owned()));
        }
    }

    /// Everything that a plan depends on besides the goal.
    fn observation(&self, look: &Look) -> Observation {
        Observation {
            // Only what must be reached asks for the version, and is not planned for without it.
            version: self.reporting.version().unwrap_or(Version { major: 0, minor: 0 }),
            local: self.disk.local.clone(),
            data: look.data.clone(),
            demands: self.making.demands,
            wal_level: self.making.wal_level,
            server: match &look.server {
                ServerLook::Stopped => Server::Stopped,
                ServerLook::Starting | ServerLook::Silent(_) | ServerLook::Stranger(_) => {
                    Server::Running(None)
                }
                ServerLook::Answering(answer) => Server::Running(Some(Live {
                    in_recovery: answer.in_recovery,
                    timeline: answer.timeline,
                    lsn: answer.lsn,
                    history: answer.history.clone(),
                    in_sync: self.server.sync.in_sync(answer),
                    quorum: self.server.sync.quorum(answer).map(|report| report.quorum),
                    pending_restart: answer.pending_restart.keys().cloned().collect(),
                    slots: answer.slots.clone(),
                    started: answer.started,
                })),
            },
            ended: look.ended,
            checkpoint_tried: self.handing.checkpoint_tried(),
            reloaded: self.server.reloaded.clone(),
            applied: self.blame.applied().cloned(),
            gate: self.server.gate,
            lease: self.lease(),
            refusals: self.blame.refusals().clone(),
            refused_hba: self.blame.refused_hba().clone(),
            slots_on_disk: look.slots_on_disk.clone(),
            room_for_slots: self.server.room.megabytes(),
            position: self.reached(look),
            alter_system: look.alter_system,
            attempt: self.making.attempt.clone(),
            restart_patience: self.server.restart.patience(self.now),
        }
    }

    /// What was written down may be half a minute old: the last checkpoint may lie beyond it.
    fn reached(&self, look: &Look) -> Option<Lsn> {
        let served = self.disk.served.position_in(self.orders.cluster());
        served.map(|served| served.max(look.checkpoint.unwrap_or_default()))
    }

    /// The next plan is made on another look, at once unless that has led nowhere too often.
    pub(super) fn plan_again(&mut self) {
        self.pursuit = match self.server.haste.another() {
            None => Pursuit::Look,
            Some(pause) => {
                self.looks.calm_down(self.now, pause);
                Pursuit::Rest { until: self.now + pause }
            }
        };
    }

    /// All steps are taken.
    fn course_ended(&mut self) {
        let Pursuit::Course(course) = std::mem::replace(&mut self.pursuit, Pursuit::Look) else { return };
        if let Some(complaint) = &course.trouble {
            return self.troubled(complaint);
        }
        if let (Some(doubt), NextLook::Later) = (self.orders.doubt(), course.next_look) {
            let complaint = Explained::new(doubt.to_string());
            return self.troubled(&complaint);
        }
        self.voice.troubles.over();
        self.server.haste.over();
        self.testimony.forget();
        self.measure(Measure::Ready);
        if matches!(course.goal, Goal::Reach(_)) {
            self.measure(Measure::SyncSuccess);
        }
        self.server.restart.passed(self.now, course.restart);
        let pause = match course.next_look {
            NextLook::Soon => self.server.watchful.pause(self.now),
            NextLook::Later => {
                self.server.watchful.over();
                self.orders.pace().sleep
            }
        };
        self.pursuit = Pursuit::Rest { until: self.now + pause };
    }

    /// Whether this is something that only one may do, so that it is not done on an old word; or something after which such a thing
    /// has to follow.
    pub(super) fn needs_fresh_orders(&self, step: &Step, course: &Course) -> bool {
        let opens = *step == Step::SetGate(Gate::Open) && self.server.gate == Gate::Closed;
        let risky = course.makes_primary(step)
            || opens && matches!(&course.goal, Goal::Reach(goal) if is_primary(goal));
        // Where nobody else can be promoted, nothing newer is to be known.
        let is_pledged = opens && self.lease() == Lease::Pledged;
        risky && !is_pledged && self.orders.freshness(self.now) == Freshness::Stale
    }
}

fn is_primary(goal: &InstanceGoal) -> bool {
    matches!(goal.role, InstanceRole::Primary(_))
}

/// The configuration that would be written if nothing were refused.
fn config_without_refusals(goal: &Goal, seen: &Observation) -> Option<Box<crate::keeper::Config>> {
    let without = Observation { refusals: Refusals::new(), ..seen.clone() };
    plan(goal, &without).steps.into_iter().find_map(|step| match step {
        Step::Configure { config, merge: ConfigMerge::Replace } => Some(config),
        _ => None,
    })
}

impl Course {
    fn of(goal: Goal, plan: Plan, seen: &Observation) -> Self {
        let unusable = match &goal {
            Goal::LeaveAlone(
                LeaveAlone::KeeperUnknown | LeaveAlone::NoClusterData | LeaveAlone::BootNotAcknowledged,
            ) => None,
            Goal::LeaveAlone(LeaveAlone::NotAllowed(refused)) => Some(refused.explained()),
            Goal::LeaveAlone(why) => Some(Explained::new(why.to_string())),
            Goal::Stop(_) | Goal::Reach(_) => None,
        };
        let trouble = plan.trouble.as_ref().map(|trouble| trouble.explained());
        Course {
            making: matches!(&goal, Goal::Reach(goal) if seen.local.uid != goal.uid || seen.local.initializing),
            trouble: trouble.or(unusable),
            restart: plan.restart,
            next_look: plan.next_look,
            at_failure: plan.at_failure,
            steps: plan.steps.into(),
            awaits: Awaits::Nothing,
            outdated: false,
            called_off: false,
            goal,
        }
    }

    /// What is stopped now is started afterwards.
    pub(super) fn restarts_primary(&self) -> bool {
        let starts = self.steps.iter().any(|step| matches!(step, Step::Start(_)));
        starts && !self.making && matches!(&self.goal, Goal::Reach(goal) if is_primary(goal))
    }

    /// Whether a server takes writes after this step, or is stopped so that it can be started again.
    pub(super) fn makes_primary(&self, step: &Step) -> bool {
        let Goal::Reach(goal) = &self.goal else { return false };
        match step {
            Step::Promote => true,
            Step::Start(_) => is_primary(goal),
            Step::Stop => self.restarts_primary(),
            _ => false,
        }
    }

    /// Something is asked; then everything is looked at again.
    fn question(goal: Goal) -> Self {
        Course { awaits: Awaits::Reconsidering, ..Course::one(goal, Step::Reobserve) }
    }

    /// PostgreSQL is stopped, and what led to that stays to be mended.
    pub(super) fn stop(goal: Goal, trouble: Explained) -> Self {
        Course { trouble: Some(trouble), ..Course::one(goal, Step::Stop) }
    }

    fn one(goal: Goal, step: Step) -> Self {
        Course {
            goal,
            trouble: None,
            restart: PendingRestart::No,
            next_look: NextLook::Later,
            at_failure: AtFailure::TryAgain,
            steps: VecDeque::from([step]),
            awaits: Awaits::Nothing,
            making: false,
            outdated: false,
            called_off: false,
        }
    }
}

impl Data {
    fn kind(&self) -> Option<DataKind> {
        match self {
            Data::Present(present) => Some(present.kind),
            Data::Absent | Data::Incomplete { .. } | Data::Unreadable(_) => None,
        }
    }
}

impl InstanceRole {
    fn kind(&self) -> DataKind {
        match self {
            InstanceRole::Primary(_) => DataKind::Primary,
            InstanceRole::Standby(_) => DataKind::Standby,
        }
    }
}
