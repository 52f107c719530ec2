//! Faults and operators: how each begins, and how it ends.

use std::time::Duration;

use crate::Time;
use crate::coverage::Point;
use crate::host::{HostId, Power};
use crate::keeper::KeeperEvent;
use crate::names::Names;
use crate::postgres::{Disk, Thaw};
use crate::scenario::{Command, Direction, Placement, Program, What};
use crate::store::Changed;
use crate::world::{Event, Life, World};

impl World {
    pub(crate) fn fault_begins(&mut self, index: usize) {
        let fault = self.scenario.faults[index].clone();
        self.log.say(self.now, "##", || format!("fault {index}: {:?} for {} ms", fault.what, fault.lasts));
        self.digest(index as u64);
        self.ledger.disturbances += 1;
        self.ledger.last_disturbance = self.now;
        self.inflict(&fault.what);
        self.ledger.active_faults += 1;
        if self.is_reason(&fault.what) {
            self.ledger.active_reasons += 1;
            self.ledger.last_reason = self.now;
        }
        self.after(Duration::from_millis(fault.lasts), Event::FaultEnds(index));
    }

    pub(crate) fn fault_ends(&mut self, index: usize) {
        // Peace begins after the last of them; an operator who puts the document back writes, too.
        self.whole = None;
        let fault = self.scenario.faults[index].clone();
        if fault.lasts > 0 {
            self.log.say(self.now, "##", || format!("fault {index} ends: {:?}", fault.what));
        }
        self.ledger.active_faults -= 1;
        if let What::DiskHangs(keeper) = fault.what {
            let undisturbed_since = self.ledger.last_disturbance;
            self.troubles(keeper).thaw = Some(Thaw { undisturbed_since, at: self.now });
        }
        self.ledger.last_disturbance = self.now;
        if self.is_reason(&fault.what) {
            self.ledger.active_reasons -= 1;
            self.ledger.last_reason = self.now;
        }
        self.mend(&fault.what);
    }

    /// Whether something is a reason to replace a primary. What befalls sentinels, proxies and the store is none, as long as they do
    /// not run on its host; an outage of the store is one where a report that was on its way when the store came back can be given up,
    /// and followed by the next one, only after `failInterval`.
    fn is_reason(&self, what: &What) -> bool {
        match what {
            What::Killed(program) | What::Stopped(program) => matches!(program, Program::Keeper(_)),
            What::SentinelCutFromStore(..) => self.scenario.placement == Placement::WithKeepers,
            What::ProxyCutFromStore(..) | What::ProxyCutFromKeeper(..) | What::NamesFail(_) => false,
            What::StoreDown => {
                let spec = &self.scenario.spec;
                spec.fail < 3 * spec.sleep
            }
            _ => true,
        }
    }

    fn inflict(&mut self, what: &What) {
        match what {
            What::Killed(program) => self.kill_program(*program),
            What::Stopped(program) => {
                if let Some(process) = self.processes.get_mut(program).filter(|it| it.life == Life::Running) {
                    process.life = Life::Stopped;
                }
            }
            What::ServerKilled(keeper) => self.crash_server(*keeper, "kill -9"),
            What::PostmasterHangs(keeper) => {
                self.coverage.reached(Point::HungServer);
                self.troubles(*keeper).postmaster_hangs = true;
            }
            What::CrashLoop(keeper, after) => {
                self.coverage.reached(Point::CrashLoop);
                self.troubles(*keeper).dies_after = Some(Duration::from_millis(*after));
                self.crash_server(*keeper, "kill -9");
            }
            What::HostFrozen(keeper) => {
                // Its end is known by the fault's own end.
                self.hosts[usize::from(*keeper)].frozen_until = Some(Time::MAX);
            }
            What::PowerLoss(keeper) => self.power_off(*keeper),
            What::PowerLossOfAll => (0..self.scenario.keepers).for_each(|keeper| self.power_off(keeper)),
            What::StoreDown => self.store_troubles.down += 1,
            What::StoreSlow(millis) => self.store_troubles.slow = Duration::from_millis(*millis),
            What::RepliesLost(percent) => self.store_troubles.lost_replies = *percent,
            What::WatchesLate(millis) => self.store_troubles.late_watches = Duration::from_millis(*millis),
            What::StoreRolledBack(millis, _) => {
                self.operator.busy += 1;
                self.roll_store_back(*millis);
            }
            What::StoreWiped => {
                self.coverage.reached(Point::StoreWiped);
                self.store.wipe();
                self.notify(Changed::Document);
            }
            What::DiskFull(keeper) => self.troubles(*keeper).disk = Disk::Full,
            What::DiskHangs(keeper) => self.troubles(*keeper).disk = Disk::Hung,
            What::DiskReadOnly(keeper) => self.troubles(*keeper).disk = Disk::ReadOnly,
            What::DiskSlow(keeper, millis) => {
                self.troubles(*keeper).slow_flush = Duration::from_millis(*millis);
            }
            What::DataRemoved(keeper) => self.remove_data(*keeper),
            What::HostRestored(keeper) => self.take_snapshot(*keeper),
            What::RewindFails(keeper) => self.troubles(*keeper).rewind_fails = true,
            What::BackupFails(keeper) => self.troubles(*keeper).backup_fails = true,
            What::NamesFail(_) | What::NamesFailAtKeeper(_) | What::NamesFailForAll | What::NamesLate(_) => {
                self.names_become(what, Names::Fail);
            }
            What::Joins(keeper) => self.keeper_joins(*keeper),
            What::ClockRate(keeper, per_mille) => self.set_clock_rate(*keeper, *per_mille),
            What::WallClockJumps(keeper, millis) => {
                self.hosts[usize::from(*keeper)].wall_offset_ms += millis;
            }
            What::Load(mebibytes) => self.client_writes(0, mebibytes << 20),
            What::WaitsCancelled(keeper) => self.cancel_waits(*keeper),
            What::Operator(Command::Recover) => self.watch_for_losses(),
            What::Operator(command) => self.operate(command),
            What::ToldToEnd(keeper) => {
                if let Some(run) = self.run_of(Program::Keeper(*keeper)) {
                    let told = Event::Keeper(*keeper, run, KeeperEvent::ToldToEnd);
                    self.after(Duration::ZERO, told);
                }
            }
            What::ToldToDepart(keeper) => {
                if let Some(run) = self.run_of(Program::Keeper(*keeper)) {
                    let told = Event::Keeper(*keeper, run, KeeperEvent::ToldToDepart);
                    self.after(Duration::ZERO, told);
                }
            }
            What::StoreSeenBy(keeper) => self.cut_store_but_for(*keeper, Switch::Cut),
            cut => self.change_links(cut, Switch::Cut),
        }
    }

    fn mend(&mut self, what: &What) {
        match what {
            What::Killed(program) => self.after(Duration::ZERO, Event::ProgramStarts(*program)),
            What::Stopped(program) => {
                if let Some(process) = self.processes.get_mut(program).filter(|it| it.life == Life::Stopped) {
                    process.life = Life::Running;
                    self.release_program(*program);
                }
            }
            What::PostmasterHangs(keeper) => self.troubles(*keeper).postmaster_hangs = false,
            What::CrashLoop(keeper, _) => self.troubles(*keeper).dies_after = None,
            What::HostFrozen(keeper) => {
                self.hosts[usize::from(*keeper)].frozen_until = Some(self.now);
                self.after(Duration::ZERO, Event::Thaws(HostId(*keeper)));
            }
            What::PowerLoss(keeper) => self.power_on(*keeper),
            What::HostRestored(keeper) => self.restore_snapshot(*keeper),
            What::PowerLossOfAll => (0..self.scenario.keepers).for_each(|keeper| self.power_on(keeper)),
            What::StoreDown => self.store_troubles.down -= 1,
            What::StoreSlow(_) => self.store_troubles.slow = Duration::ZERO,
            What::RepliesLost(_) => self.store_troubles.lost_replies = 0,
            What::WatchesLate(_) => self.store_troubles.late_watches = Duration::ZERO,
            What::StoreWiped => self.write_document_back(),
            What::StoreRolledBack(_, how) => self.call_operator(*how),
            What::DiskFull(keeper) | What::DiskHangs(keeper) | What::DiskReadOnly(keeper) => {
                self.troubles(*keeper).disk = Disk::Works;
            }
            What::DiskSlow(keeper, _) => self.troubles(*keeper).slow_flush = Duration::ZERO,
            What::RewindFails(keeper) => self.troubles(*keeper).rewind_fails = false,
            What::BackupFails(keeper) => self.troubles(*keeper).backup_fails = false,
            What::NamesFail(_) | What::NamesFailAtKeeper(_) | What::NamesFailForAll | What::NamesLate(_) => {
                self.names_become(what, Names::Work);
            }
            What::ClockRate(keeper, _) => self.set_clock_rate(*keeper, 0),
            What::Operator(Command::RemoveKeeper(keeper)) => {
                self.after(Duration::ZERO, Event::ProgramStarts(Program::Keeper(*keeper)));
            }
            What::Operator(Command::Recover) => self.operator.recovering -= 1,
            What::Operator(Command::Priority(keeper, _)) => self.operate(&Command::PriorityOfFlag(*keeper)),
            What::ServerKilled(_)
            | What::DataRemoved(_)
            | What::WallClockJumps(..)
            | What::Load(_)
            | What::WaitsCancelled(_)
            | What::ToldToEnd(_)
            | What::ToldToDepart(_)
            | What::Joins(_)
            | What::Operator(_) => {}
            What::StoreSeenBy(keeper) => self.cut_store_but_for(*keeper, Switch::Mend),
            cut => self.change_links(cut, Switch::Mend),
        }
    }

    fn troubles(&mut self, keeper: u8) -> &mut crate::postgres::Troubles {
        &mut self.postgres[usize::from(keeper)].troubles
    }

    fn set_clock_rate(&mut self, keeper: u8, per_mille: i64) {
        let now = self.now;
        self.hosts[usize::from(keeper)].set_rate(now, per_mille);
    }

    fn programs_on(&self, host: HostId) -> Vec<Program> {
        self.processes
            .iter()
            .filter(|(_, process)| process.host == host)
            .map(|(program, _)| *program)
            .collect()
    }

    pub(crate) fn power_off(&mut self, keeper: u8) {
        self.hosts[usize::from(keeper)].power = Power::Off;
        self.programs_on(HostId(keeper)).into_iter().for_each(|program| self.kill_program(program));
        self.lose_power(keeper);
    }

    pub(crate) fn power_on(&mut self, keeper: u8) {
        self.hosts[usize::from(keeper)].power = Power::On;
        for program in self.programs_on(HostId(keeper)) {
            let delay = self.random.millis(200, 3_000);
            self.after(delay, Event::ProgramStarts(program));
        }
    }

    /// `rm -rf` of PGDATA under a server that runs, which does not outlive it.
    fn remove_data(&mut self, keeper: u8) {
        if !self.can_spare(keeper) || self.is_set_back() {
            return;
        }
        self.coverage.reached(Point::DataLost);
        self.crash_server(keeper, "its data are gone");
        self.postgres[usize::from(keeper)].data = None;
        self.forget_what_nobody_has();
    }

    fn roll_store_back(&mut self, millis: u64) {
        // A store that is set back while the primary's data are gone leaves nothing to settle by: two disasters at a time.
        let Some((uid, primary)) = self.elected() else { return };
        if self.local_instance(primary) != Some(uid) || self.postgres[usize::from(primary)].data.is_none() {
            return;
        }
        let moment = self.store_time().saturating_sub(Duration::from_millis(millis));
        if let Some(document) = self.store.document_at(moment) {
            self.coverage.reached(Point::StoreRollback);
            let document = self.as_the_store_is_set_back(document);
            self.store.put(self.store_time(), Some(document));
            self.document_replaced();
            self.notify(Changed::Document);
        }
    }

    /// An operator writes the document back that a backup of the store holds: the last one.
    fn write_document_back(&mut self) {
        if let Some(document) = self.store.document_at(Time::MAX) {
            self.note_decided(&document);
            self.store.put(self.store_time(), Some(document));
            self.document_replaced();
            self.notify(Changed::Document);
        }
    }
}

/// Whether links are cut or mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Switch {
    Cut,
    Mend,
}

/// What happens to one link.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Cut,
    Slow(Duration),
    Lossy(u8),
}

impl World {
    fn cut_store_but_for(&mut self, keeper: u8, switch: Switch) {
        let others = (0..self.scenario.keepers).filter(|other| *other != keeper);
        let keepers = others.map(|other| What::CutFromStore(other, Direction::Both));
        // Where there are several, one of them sees who takes over.
        let cut_off = self.scenario.proxies.saturating_sub(1).max(1);
        let proxies = (0..cut_off).map(|proxy| What::ProxyCutFromStore(proxy, Direction::Both));
        let cuts: Vec<What> = keepers.chain(proxies).collect();
        cuts.iter().for_each(|cut| self.change_links(cut, switch));
    }

    fn change_links(&mut self, what: &What, switch: Switch) {
        let store = self.store_host();
        let everybody: Vec<HostId> = (0..self.network.hosts() as u8).map(HostId).collect();
        let (here, others, direction, harm) = match what {
            What::Isolated(keeper, direction) => (HostId(*keeper), everybody, *direction, Harm::Cut),
            What::CutFromStore(keeper, direction) => (HostId(*keeper), vec![store], *direction, Harm::Cut),
            What::CutApart(one, other, direction) => {
                (HostId(*one), vec![HostId(*other)], *direction, Harm::Cut)
            }
            What::ProxyCutFromStore(proxy, direction) => {
                (self.host_of(Program::Proxy(*proxy)), vec![store], *direction, Harm::Cut)
            }
            What::ProxyCutFromKeeper(proxy, keeper) => {
                (self.host_of(Program::Proxy(*proxy)), vec![HostId(*keeper)], Direction::Both, Harm::Cut)
            }
            What::SentinelCutFromStore(sentinel, direction) => {
                (self.host_of(Program::Sentinel(*sentinel)), vec![store], *direction, Harm::Cut)
            }
            What::Slow(keeper, millis) => {
                (HostId(*keeper), everybody, Direction::Both, Harm::Slow(Duration::from_millis(*millis)))
            }
            What::Lossy(keeper, percent) => {
                (HostId(*keeper), everybody, Direction::Both, Harm::Lossy(*percent))
            }
            _ => return,
        };
        for there in others.into_iter().filter(|there| *there != here) {
            if direction != Direction::In {
                self.change_link(here, there, harm, switch);
            }
            if direction != Direction::Out {
                self.change_link(there, here, harm, switch);
            }
        }
    }

    fn change_link(&mut self, from: HostId, to: HostId, harm: Harm, switch: Switch) {
        let link = self.network.link(from, to);
        match (harm, switch) {
            (Harm::Cut, Switch::Cut) => link.cuts += 1,
            (Harm::Cut, Switch::Mend) => link.cuts -= 1,
            (Harm::Slow(extra), Switch::Cut) => link.extra = extra,
            (Harm::Slow(_), Switch::Mend) => link.extra = Duration::ZERO,
            (Harm::Lossy(percent), Switch::Cut) => link.loss = percent,
            (Harm::Lossy(_), Switch::Mend) => link.loss = 0,
        }
    }
}
