//! A sentinel's program: what stands around the machine of `stolon-core`.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use stolon_core::sentinel::{
    Change, Effect, Event as MachineEvent, Expected, Hold, KeeperFault, Machine, Now, Reading, Saying, Setup,
    Standing, Told, UidSource, WriteOutcome,
};
use stolon_model::{Explained, InstanceUid, SentinelReport, SentinelUid, Timestamp};

use crate::Time;
use crate::coverage::Point;
use crate::random::Random;
use crate::scenario::{Program, Scenario};
use crate::store::{Everything, LEADERSHIP_TTL, Reply, Request};
use crate::world::{Answered, Event, World};

/// Before a leadership ends in the store it ends for the leader.
const MARGIN: Duration = Duration::from_secs(5);
/// Between attempts to lead, and to go on leading.
const CAMPAIGN: Duration = Duration::from_secs(2);

/// Something that concerns a sentinel.
#[derive(Clone, Debug)]
pub(crate) enum SentinelEvent {
    /// The store answers.
    Reply(Answered),
    /// Something changed in the store.
    Woken,
    /// The time has come that the machine asked for.
    TimePassed(Time),
    /// It is time to ask for the lead.
    Campaign,
}

/// What an answer belongs to.
const READ: u32 = 1;
const WRITE: u32 = 2;
const LEAD: u32 = 3;

/// A sentinel.
#[derive(Clone, Debug)]
pub(crate) struct Sentinel {
    setup: Setup,
    random: Random,
    machine: Option<Machine>,
    /// When this run began.
    pub(crate) began: Time,
    /// When the last reading was asked for.
    pub(crate) read_at: Time,
    /// Readings of this run so far.
    pub(crate) readings: u32,
    /// The last reading, for a test of the simulator's teeth.
    pub(crate) last: Option<Rc<Everything>>,
    /// What it published about itself last.
    report: Option<SentinelReport>,
    /// The revision that the last reading gave.
    revision: Option<u64>,
    /// On the local clock.
    leads_until: Option<Duration>,
    campaigned_at: Duration,
    wake_at: Time,
    armed: Option<Time>,
}

struct Uids<'a>(&'a mut Random);

impl UidSource for Uids<'_> {
    fn instance_uid(&mut self) -> InstanceUid {
        self.0.uid8().into()
    }
}

impl Sentinel {
    pub(crate) fn new(index: u8, scenario: &Scenario, random: Random) -> Self {
        let setup = Setup {
            uid: SentinelUid::from(format!("sentinel{index}")),
            initial_spec: Some(scenario.spec.cluster_spec()),
        };
        Sentinel {
            setup,
            random,
            machine: None,
            began: Time::ZERO,
            read_at: Time::ZERO,
            readings: 0,
            last: None,
            report: None,
            revision: None,
            leads_until: None,
            campaigned_at: Duration::ZERO,
            wake_at: Time::ZERO,
            armed: None,
        }
    }
}

impl World {
    fn sentinel(&mut self, index: u8) -> &mut Sentinel {
        &mut self.sentinels[usize::from(index)]
    }

    pub(crate) fn start_sentinel(&mut self, index: u8, run: u32) {
        // Who starts a sentinel after the store was emptied gives it no specification for a new cluster.
        let is_known = self.decided().is_some();
        let began = self.now;
        let it = self.sentinel(index);
        it.began = began;
        let initial_spec = it.setup.initial_spec.clone().filter(|_| !is_known);
        it.machine = Some(Machine::new(Setup { initial_spec, ..it.setup.clone() }));
        it.readings = 0;
        it.report = None;
        it.revision = None;
        it.leads_until = None;
        it.armed = None;
        self.log.say(self.now, &format!("s{index}"), || "starts".to_owned());
        self.after(Duration::ZERO, Event::Sentinel(index, run, SentinelEvent::Campaign));
        self.tell_sentinel(index, MachineEvent::Started);
    }

    pub(crate) fn sentinel_event(&mut self, index: u8, event: SentinelEvent) {
        self.note_end_of_lead(index);
        match event {
            SentinelEvent::Campaign => {
                let run = self.run_of(Program::Sentinel(index)).unwrap_or_default();
                let local = self.local(Program::Sentinel(index));
                self.sentinel(index).campaigned_at = local;
                self.ask(Program::Sentinel(index), LEAD, Request::Lead(index));
                self.after(CAMPAIGN, Event::Sentinel(index, run, SentinelEvent::Campaign));
            }
            SentinelEvent::Woken => self.tell_sentinel(index, MachineEvent::StoreChanged),
            SentinelEvent::TimePassed(at) => {
                let now = self.now;
                let it = self.sentinel(index);
                if it.armed != Some(at) {
                    return;
                }
                it.armed = None;
                match it.wake_at <= now {
                    true => self.tell_sentinel(index, MachineEvent::TimePassed),
                    false => self.arm_sentinel(index),
                }
            }
            SentinelEvent::Reply(answered) => match answered.token {
                LEAD => self.lead_answered(index, &answered.reply),
                READ => self.view_read(index, &answered),
                _ => {
                    let outcome = match answered.reply {
                        Reply::Written => WriteOutcome::Written,
                        Reply::Conflict => WriteOutcome::Conflict,
                        _ => WriteOutcome::Unknown(Explained::new("the store does not answer")),
                    };
                    self.tell_sentinel(index, MachineEvent::WriteEnded(outcome));
                }
            },
        }
    }

    fn lead_answered(&mut self, index: u8, reply: &Reply) {
        let it = self.sentinel(index);
        let led = it.leads_until.is_some();
        match reply {
            Reply::Leads(true) => it.leads_until = Some(it.campaigned_at + LEADERSHIP_TTL - MARGIN),
            Reply::Leads(false) => it.leads_until = None,
            _ => {}
        }
        self.change_standing(index, led);
    }

    /// A lead that could not be renewed ends by the leader's own clock.
    fn note_end_of_lead(&mut self, index: u8) {
        let local = self.local(Program::Sentinel(index));
        let it = self.sentinel(index);
        if it.leads_until.is_some_and(|until| local >= until) {
            it.leads_until = None;
            self.change_standing(index, true);
        }
    }

    fn change_standing(&mut self, index: u8, led: bool) {
        let leads = self.sentinel(index).leads_until.is_some();
        if leads == led {
            return;
        }
        if leads {
            self.coverage.reached(Point::LeaderChanged);
        }
        let standing = if leads { Standing::Leader } else { Standing::Follower };
        self.log.say(self.now, &format!("s{index}"), || format!("is a {standing:?} now"));
        self.tell_sentinel(index, MachineEvent::StandingChanged(standing));
    }

    fn view_read(&mut self, index: u8, answered: &Answered) {
        let known = self.known_by(Program::Sentinel(index), answered);
        let known = known.map(|copy| (Rc::clone(&copy.seen), copy.as_of(), copy.told()));
        let Some((everything, as_of, told)) = known else {
            if let Some(reading) = self.what_a_sentinel_makes_up(index) {
                return self.tell_sentinel(index, MachineEvent::ViewRead(Box::new(reading)));
            }
            let why = Explained::new("the store does not answer");
            return self.tell_sentinel(index, MachineEvent::ViewUnreadable(why));
        };
        let seen = self.as_sentinels_see_it(index, &everything);
        let it = self.sentinel(index);
        it.readings += 1;
        it.revision = seen.document.as_ref().map(|(_, revision)| *revision);
        let told = Told { last: told, ..Told::default() };
        let reading = Reading { told, ..reading(&seen, as_of) };
        it.last = Some(seen);
        self.tell_sentinel(index, MachineEvent::ViewRead(Box::new(reading)));
    }

    fn tell_sentinel(&mut self, index: u8, event: MachineEvent) {
        let program = Program::Sentinel(index);
        let now = Now { monotonic: self.local(program), wall: self.wall(program) };
        let it = self.sentinel(index);
        let Some(machine) = &mut it.machine else { return };
        for effect in machine.handle(now, event, &mut Uids(&mut it.random)) {
            self.sentinel_effect(index, effect);
        }
    }

    fn sentinel_effect(&mut self, index: u8, effect: Effect) {
        let program = Program::Sentinel(index);
        match effect {
            Effect::ReadView { at_most, silence } => {
                self.sentinel(index).read_at = self.now;
                self.look_up_unless_silent(program, READ, at_most, silence);
            }
            Effect::CompareAndPut { document, expected } => {
                let expected = match expected {
                    Expected::AsRead => self.expected_revision(self.sentinels[usize::from(index)].revision),
                    Expected::Absent => None,
                };
                let document = Rc::new(Arc::unwrap_or_clone(document));
                self.ask(program, WRITE, Request::CompareAndPut { expected, document });
            }
            Effect::PublishReport { report, .. } => {
                // Only people read it.
                self.sentinel(index).report = Some(*report);
                self.tell_sentinel(index, MachineEvent::ReportEnded(Ok(())));
            }
            Effect::WakeAt(local) => {
                self.sentinel(index).wake_at = self.host(program).when(local, self.now);
                self.arm_sentinel(index);
            }
            Effect::Say(saying) => self.sentinel_says(index, &saying),
            // Positions wake it at its next look at the latest, also where it waits for them.
            Effect::Attend(_) | Effect::Measure(_) => {}
        }
    }

    fn arm_sentinel(&mut self, index: u8) {
        let Some(run) = self.run_of(Program::Sentinel(index)) else { return };
        let it = self.sentinel(index);
        let at = it.wake_at;
        if it.armed.is_none_or(|armed| armed > at) {
            it.armed = Some(at);
            self.at(at, Event::Sentinel(index, run, SentinelEvent::TimePassed(at)));
        }
    }

    fn sentinel_says(&mut self, index: u8, saying: &Saying) {
        match saying {
            Saying::Changed(Change::CommitsBlocked { .. }) => self.coverage.reached(Point::CommitsBlocked),
            Saying::Changed(Change::QuorumInForce { .. }) => self.coverage.reached(Point::QuorumInForce),
            Saying::Changed(Change::ReceivingStopped { .. }) => self.coverage.reached(Point::Compared),
            Saying::Changed(Change::Fenced { .. }) => self.coverage.reached(Point::ClientsOut),
            Saying::Changed(Change::KeeperFailed { keeper, because: KeeperFault::Refused { .. } }) => {
                let read = self.sentinels[usize::from(index)].read_at;
                self.check_evidence(keeper, read);
            }
            Saying::Held(hold) => self.coverage.held(kind_of(hold)),
            _ => {}
        }
        self.log.say(self.now, &format!("s{index}"), || match saying {
            Saying::Changed(change) => change.to_string(),
            Saying::Held(hold) => format!("holds: {hold}"),
            other => format!("{other:?}"),
        });
    }

    /// What the sentinels that run have published last.
    pub(crate) fn sentinel_reports(&self) -> BTreeMap<SentinelUid, SentinelReport> {
        let runs = |index: &usize| self.run_of(Program::Sentinel(*index as u8)).is_some();
        let reports =
            (0..self.sentinels.len()).filter(runs).filter_map(|it| self.sentinels[it].report.clone());
        reports.map(|report| (report.uid.clone(), report)).collect()
    }

    fn wall(&self, program: Program) -> Timestamp {
        wall_clock(self.now.as_millis() as i64 + self.host(program).wall_offset_ms)
    }

    /// What a wall clock shows that nothing is wrong with.
    pub(crate) fn true_wall(&self) -> Timestamp {
        self.true_wall_after(Duration::ZERO)
    }

    /// The same, `span` later.
    pub(crate) fn true_wall_after(&self, span: Duration) -> Timestamp {
        wall_clock((self.now + span).as_millis() as i64)
    }
}

/// The run begins in the year 2026.
fn wall_clock(millis: i64) -> Timestamp {
    Timestamp::utc(jiff::Timestamp::from_millisecond(1_790_000_000_000 + millis).unwrap_or_default())
}

/// What the machine is given of what the store holds, as of a time of its own clock.
pub(crate) fn reading(everything: &Everything, as_of: Duration) -> Reading {
    Reading {
        as_of,
        document: everything.document.as_ref().map(|(document, _)| (**document).clone()),
        keepers: everything.keepers.iter().map(|(uid, it)| (uid.clone(), Arc::new((**it).clone()))).collect(),
        proxies: everything.proxies.iter().map(|(uid, it)| (uid.clone(), (**it).clone())).collect(),
        unreadable_proxies: Default::default(),
        told: Told::default(),
    }
}

/// The kind of a hold, without what it is about.
fn kind_of(hold: &Hold) -> String {
    let text = format!("{hold:?}");
    text.split([' ', '{', '(']).next().unwrap_or_default().to_owned()
}
