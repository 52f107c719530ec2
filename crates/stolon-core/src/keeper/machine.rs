//! The keeper as a machine: events in, effects out.
//!
//! # Contract
//!
//! [`Machine::handle`] is given the time and what happened, and returns what is to be done. The machine holds everything that a keeper
//! remembers, decides everything that a keeper decides, and touches nothing: no clock, file, socket, log or randomness.
//! The same events at the same times give the same effects.
//!
//! * `now` is a monotonic clock that goes on while the process, or the whole machine, sleeps (`CLOCK_BOOTTIME`), from any
//!   origin. It never goes back.
//! * The first event is [`Event::Started`].
//! * At any time at most one step, one look, one knock, one reading of the cluster data, one of our own report, one of all reports, one
//!   publication, and one write of each file is under way. Each is asked for by one effect and answered by exactly one event, whatever becomes of it:
//!   [`Effect::Take`] by [`Event::StepEnded`], [`Effect::Look`] by [`Event::Looked`], [`Effect::Knock`] by [`Event::Knocked`], [`Effect::ReadCluster`] by
//!   [`Event::ClusterRead`], [`Effect::ReadOwnReport`] by [`Event::OwnReportRead`], [`Effect::ReadReports`] by
//!   [`Event::ReportsRead`], [`Effect::Publish`] by [`Event::ReportTaken`] or
//!   [`Event::ReportRefused`], [`Effect::Save`] by [`Event::Saved`]. Each instance is asked for one pledge at a time: [`Effect::AskForPledge`],
//!   answered by [`Event::PledgeAnswered`]; and [`Event::PledgeAsked`] is answered by one [`Effect::AnswerPledge`], unless the machine is stopping.
//! * Different activities run beside each other: a report goes out, and PostgreSQL is looked at, while a base backup runs.
//! * [`Effect::WakeAt`] replaces the time that was asked for before. [`Event::TimePassed`] may come at any time.
//! * [`Event::EndRequested`] is answered by [`Effect::End`] in the end. After that, and after [`Event::StopRequested`], the machine has called
//!   off what is under way and asks for nothing more. Stopping PostgreSQL for good is the program's last act, once all that was under way
//!   has ended; after [`Event::DepartureRequested`] it is left as it is.
//!
//! # Looks and steps
//!
//! An instance is something that can be looked at and that takes steps: the real PostgreSQL in the keeper's program, a model of it
//! in tests and in the simulator. A look tells facts ([`super::Look`]) and changes nothing. A step changes one thing, checks before
//! it begins what can be checked without a change, and ends with a [`super::StepOutcome`] whose kind, never whose sentence, decides how it
//! goes on. Steps that only change what the machine remembers, or what it has written down, never reach an instance
//! ([`super::Step::is_taken_by_machine`]).

mod ailments;
mod blame;
mod course;
mod deaths;
mod disks;
mod fence;
mod files;
mod handing;
mod intake;
mod lease;
mod leaving;
mod limits;
mod looks;
mod namesake;
mod orders;
mod patience;
mod picture;
mod pledges;
mod publisher;
mod reporting;
mod served;
mod standby_admission;
mod steps;
mod stragglers;
mod survivor;
mod testimony;
mod voice;
mod witness;

use std::time::Duration;

use stolon_model::{ClusterUid, Explained, KeeperState, Parameters, Served};

use super::event::{ClusterRead, Effect, Event, Measure, StateFile};
use super::goal::Identity;
use super::observation::LocalState;
use super::outcome::ServerDeath;
use super::room::RoomForSlots;
use super::say::Saying;

use blame::Blame;
use course::{Making, Pursuit, Reaction};
use deaths::Deaths;
use disks::Disks;
use fence::FenceWatch;
use files::Files;
use handing::{Casting, Handing};
use intake::IntakeWatch;
use lease::LeaseWatch;
use leaving::Leaving;
use looks::Looks;
pub use namesake::Predecessor;
use orders::{Change, Orders};
use patience::{Haste, RestartUnderWay, RestartWait, Watchfulness};
use pledges::Pledges;
use publisher::News;
use reporting::Reporting;
use served::ServedMark;
use standby_admission::StandbyAdmission;
use stragglers::Stragglers;
use testimony::Testimony;
use voice::{Announcements, Troubles};
use witness::Witness;

use super::observation::Gate;

/// What a keeper is made from: its flags, and what its data directory holds.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// Who we are.
    pub identity: Identity,
    /// What we say of ourselves in every report.
    pub advertised: Advertised,
    /// `keeperstate`: the cluster that we last belonged to; empty before the first.
    pub cluster: ClusterUid,
    /// `dbstate`.
    pub local: LocalState,
    /// The parameters that PostgreSQL last came up with, if an earlier keeper wrote them down.
    pub proven: Option<Parameters>,
    /// The highest point that an earlier keeper served at.
    pub served: Option<Served>,
    /// Who reported last from the data directory.
    pub predecessor: Predecessor,
    /// For how long an earlier keeper may have pledged, just before it ended, not to promote the instance; zero: it has not.
    pub pledged: Duration,
}

/// What a keeper says of itself by its flags.
#[derive(Clone, Debug)]
pub struct Advertised {
    /// `--pg-advertise-address`.
    pub address: String,
    /// `--pg-advertise-port`.
    pub port: String,
    /// Where the keeper answers other keepers and proxies, `host:port`; empty: nowhere.
    pub http_address: String,
    /// `--can-be-master`.
    pub can_be_primary: bool,
    /// `--can-be-synchronous-replica`.
    pub can_be_synchronous_replica: bool,
    /// `--failover-priority`.
    pub failover_priority: u32,
    /// `--zone`; empty: none is named.
    pub zone: String,
}

/// A keeper.
#[derive(Debug)]
pub struct Machine {
    identity: Identity,
    now: Duration,
    effects: Vec<Effect>,
    stopping: bool,
    orders: Orders,
    testimony: Testimony,
    pursuit: Pursuit,
    making: Making,
    server: ServerMemory,
    blame: Blame,
    looks: Looks,
    disk: Disk,
    reporting: Reporting,
    witness: Witness,
    handing: Handing,
    leaving: Option<Leaving>,
    pledges: Pledges,
    lease: LeaseWatch,
    fence: FenceWatch,
    intake: IntakeWatch,
    voice: Voice,
}

/// What is remembered of the server process and of those who wait for it.
#[derive(Debug)]
struct ServerMemory {
    deaths: Deaths,
    /// One that dies again and again is not started before this.
    not_before: Duration,
    /// Whether clients are let in.
    gate: Gate,
    /// Who may count as synchronous.
    sync: StandbyAdmission,
    stragglers: Stragglers,
    restart: RestartWait,
    watchful: Watchfulness,
    haste: Haste,
    /// What slots may hold.
    room: RoomForSlots,
    disks: Disks,
    /// The last request that it read its files again that was carried out.
    reloaded: Option<String>,
}

/// What is in the data directory beside PostgreSQL.
#[derive(Debug)]
struct Disk {
    files: Files,
    local: LocalState,
    served: ServedMark,
}

/// What is said.
#[derive(Debug)]
struct Voice {
    troubles: Troubles,
    announced: Announcements,
}

impl Machine {
    /// A keeper that has seen nothing yet.
    pub fn new(beginning: Beginning) -> Self {
        let Beginning { identity, advertised, cluster, local, proven, served, predecessor, pledged } =
            beginning;
        Machine {
            identity,
            now: Duration::ZERO,
            effects: Vec::new(),
            stopping: false,
            orders: Orders::new(cluster),
            testimony: Testimony::default(),
            pursuit: Pursuit::Look,
            making: Making::default(),
            server: ServerMemory {
                deaths: Deaths::new(),
                not_before: Duration::ZERO,
                gate: Gate::default(),
                sync: StandbyAdmission::default(),
                stragglers: Stragglers::default(),
                restart: RestartWait::default(),
                watchful: Watchfulness::default(),
                haste: Haste::default(),
                room: RoomForSlots::default(),
                disks: Disks::default(),
                reloaded: None,
            },
            blame: Blame::new(proven),
            looks: Looks::default(),
            disk: Disk { files: Files::default(), local, served: ServedMark::new(served) },
            reporting: Reporting::new(advertised, predecessor),
            witness: Witness::default(),
            handing: Handing::default(),
            leaving: None,
            pledges: Pledges::after(pledged),
            lease: LeaseWatch::default(),
            fence: FenceWatch::default(),
            intake: IntakeWatch::default(),
            voice: Voice { troubles: Troubles::new(), announced: Announcements::default() },
        }
    }

    /// What is to be done about `event`, which happened at `now`.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        self.now = self.now.max(now);
        if self.stopping {
            return Vec::new();
        }
        let time_passed = matches!(event, Event::TimePassed);
        match event {
            Event::Started(found) => {
                self.found(found);
                self.pledges.begins(self.now);
                self.measure(Measure::SleepInterval(self.orders.pace().sleep));
            }
            Event::Looked(look) => {
                self.note_replayed_limits(&look);
                self.survivor_looked(&look);
                self.looked(*look);
            }
            Event::ServerDied(death) => self.server_died(&death),
            Event::StepProgressed(progress) => self.reporting.progress = progress,
            Event::StepEnded(outcome) => self.step_ended(outcome),
            Event::ClusterChanged => self.read_cluster(self.orders.pace().oldest_reading()),
            Event::ClusterRead { read, as_of } => self.cluster_read(read, as_of),
            Event::OwnReportRead(read) => self.own_report_read(read),
            Event::ReportsRead(read) => self.reports_read(read),
            Event::ReceiverEnded { process } => self.receiver_ended(process),
            Event::Knocked(found) => self.knocked(found),
            Event::ReportTaken => self.report_taken(),
            Event::ReportRefused(why) => self.report_refused(why),
            Event::PledgeAsked { number, request } => self.pledge_asked(number, request),
            Event::PledgeAnswered { instance, term } => self.pledge_answered(&instance, term),
            Event::Saved(kind, outcome) => self.saved(kind, outcome),
            Event::TimePassed => {}
            Event::EndRequested { patience } => self.end_requested(patience),
            Event::DepartureRequested => self.departure_requested(),
            Event::StopRequested => self.stop(),
        }
        self.leave_when_done();
        if !self.stopping {
            self.writes_may_be_late();
            self.give_up_survivor_when_due();
            self.answer_who_waits();
            self.kill_what_must_not_serve_and_hangs();
            self.kill_what_is_fenced_and_silent();
            self.watch_lease();
            self.pursue();
            self.knock_when_due();
            self.ask_for_pledges_when_due();
            self.look_when_due();
            self.read_cluster_when_due();
            // When time passed and nothing came of it but another look there is nothing new to tell.
            let quiet = |effect: &Effect| {
                matches!(
                    effect,
                    Effect::Look { .. }
                        | Effect::ReadCluster { .. }
                        | Effect::Knock { .. }
                        | Effect::AskForPledge { .. }
                )
            };
            let nothing = time_passed && self.effects.iter().all(quiet);
            self.publish_when_due(if nothing { News::None } else { News::Perhaps });
            self.wake_when_due();
        }
        std::mem::take(&mut self.effects)
    }

    /// Nothing is begun any more.
    fn stop(&mut self) {
        self.stopping = true;
        if self.pursuit.step_under_way().is_some() {
            self.ask_for(Effect::CallOff);
        }
    }

    /// Death is news at once, whatever is under way; unless the server is being started: then the step fails for it.
    fn server_died(&mut self, death: &ServerDeath) {
        self.looks.something_happened(self.now);
        self.blame.stopped();
        self.server.sync.reset();
        self.server.stragglers.reset();
        self.server.disks.server_ended();
        self.survivor_ended();
        if self.pursuit.is_starting() {
            return;
        }
        self.say(Saying::ServerDied(death.clone()));
        self.reporting.server_is_gone();
        let pause = self.server.deaths.died(self.now);
        self.server.not_before = self.now + pause;
        if !pause.is_zero() {
            let ServerDeath { status, explanation, .. } = death;
            self.voice.troubles.died(format!("PostgreSQL ended ({status}): {explanation}"));
        }
        self.pursuit.plan_anew();
    }

    /// Reads the cluster data; what is known already will do if it is not older than `at_most`.
    fn read_cluster(&mut self, at_most: Duration) {
        if let Some(at_most) = self.orders.ask(self.now, at_most) {
            self.ask_for(Effect::ReadCluster { at_most });
        }
    }

    fn read_cluster_when_due(&mut self) {
        if self.orders.due().is_some_and(|due| self.now >= due) {
            self.read_cluster(self.orders.pace().oldest_reading());
        }
    }

    fn cluster_read(&mut self, read: ClusterRead, as_of: Duration) {
        let is_usable = matches!(read, ClusterRead::Usable(_));
        let belonged_to = self.orders.cluster().clone();
        let was_primary = self.orders.goal().is_to_serve();
        let change = self.orders.read(self.now, read, as_of, &self.identity, &self.disk.served);
        self.note_challenges();
        self.note_fence();
        if self.handing.given(self.orders.part()) == Casting::ToBeSeen {
            // What a look under way finds may be of before.
            self.looks.something_happened(self.now);
        }
        if is_usable {
            self.measure(Measure::ValidUpdate);
            self.measure(Measure::SleepInterval(self.orders.pace().sleep));
        }
        if is_usable && !self.orders.goal().is_to_serve() {
            self.server.restart.under_way = RestartUnderWay::No;
        }
        if *self.orders.cluster() != belonged_to {
            let (uid, cluster_uid) = (self.identity.keeper.clone(), self.orders.cluster().clone());
            self.save(StateFile::Keeper(KeeperState { uid, cluster_uid }));
        }
        self.answer_who_waits();
        if let Some(at_most) = self.orders.must_read_again() {
            self.read_cluster(at_most);
        }
        if !was_primary && self.orders.goal().is_to_serve() {
            // Before a primary is started they have to be known: a slow store answers while PostgreSQL is looked at.
            self.read_reports();
        }
        if change == Change::Goal {
            self.voice.troubles.try_at_once();
            self.server.haste.over();
        }
        let reaction = self.pursuit.orders_came(change, self.orders.goal());
        self.call_off_if_asked(reaction);
    }

    fn call_off_if_asked(&mut self, reaction: Reaction) {
        if reaction == Reaction::CallOff {
            self.say(Saying::CallingOff);
            self.ask_for(Effect::CallOff);
        }
    }

    /// One time for everything that waits for one.
    fn wake_when_due(&mut self) {
        let times = [
            self.pursuit_wake(),
            self.looks.wake(self.orders.pace().sleep),
            self.knock_wake(),
            self.pledge_wake(),
            self.lease_wake(),
            self.orders.due(),
            self.publication_wake(),
            self.disk.files.wake(),
            self.leaving_wake(),
            self.orders.survivor_is_forlorn_at(),
        ];
        if let Some(time) = times.into_iter().flatten().min() {
            self.ask_for(Effect::WakeAt(time));
        }
    }

    /// Something keeps us from the goal: it is tried again after a pause, or when something happens.
    fn troubled(&mut self, complaint: &Explained) {
        let (pause, said) = self.voice.troubles.troubled(complaint);
        self.say(said);
        self.server.haste.over();
        self.pursuit = Pursuit::Rest { until: self.now + pause };
    }

    fn save(&mut self, file: StateFile) {
        if let Some(file) = self.disk.files.save(self.now, file) {
            self.ask_for(Effect::Save(Box::new(file)));
        }
    }

    fn ask_for(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn say(&mut self, saying: Saying) {
        self.effects.push(Effect::Say(Box::new(saying)));
    }

    fn say_all(&mut self, sayings: Vec<Saying>) {
        sayings.into_iter().for_each(|saying| self.say(saying));
    }

    fn measure(&mut self, measure: Measure) {
        self.effects.push(Effect::Measure(measure));
    }
}
