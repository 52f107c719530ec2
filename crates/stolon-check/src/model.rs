//! The model for the checker: who can have a turn, what can go wrong, and what must never be.

use stateright::{Model, Property};
use stolon_core::proxy::Event;

use crate::actors::Outcome;
use crate::bound::{Bound, Recovery, Replication};
use crate::world::{Actor, KEEPERS, Node, NodeState, SENTINELS, World, at};

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A second passes: WAL flows, deadlines come, followers look, and a client commits wherever one can.
    Tick,
    /// A leading sentinel reads, decides and writes.
    Round(usize),
    /// One fault: its write is done, but it hears nothing.
    RoundUnconfirmed(usize),
    /// One fault: a sentinel reads, and is then paused.
    Pause(usize),
    /// A paused sentinel goes on: it decides on what it had read, and writes.
    Resume(usize),
    /// One fault: the other sentinel leads from now on.
    TakeOver,
    /// A keeper reads the cluster data, acts and reports.
    Keep(usize),
    /// One fault: the same, but the report is late.
    KeepWithLateReport(usize),
    /// A late report arrives.
    Deliver(usize),
    /// One fault: a host is lost with keeper and PostgreSQL.
    Crash(usize),
    /// One fault: a keeper reaches no store; its PostgreSQL goes on.
    CutOff(usize),
    /// One fault: a PostgreSQL receives no WAL.
    Lag(usize),
    /// A host, link or stream is back.
    Return(usize),
    /// The proxy checks.
    Check,
    /// One fault: its publication does not get through.
    CheckUnpublished,
    /// One fault: its publication gets through, but it hears nothing.
    CheckUnconfirmed,
    /// One fault: the proxy reaches no store.
    CutOffProxy,
    /// The proxy reaches the store again.
    ReturnProxy,
}

/// The cluster within a bound.
#[derive(Clone, Debug)]
pub struct ClusterModel {
    /// The bound.
    pub bound: Bound,
}

/// Turns without a fault until the cluster is in its steady state and the proxy forwards.
const WARM_UP: usize = 6;

impl ClusterModel {
    fn steady(&self) -> World {
        let mut world = World::formed(&self.bound);
        for _ in 0..WARM_UP {
            for number in 0..SENTINELS {
                let view = world.view();
                world.decide(&self.bound, number, &view, Outcome::Taken);
            }
            for keeper in 0..KEEPERS {
                world.keep(keeper);
            }
            world.proxy_turn(&self.bound, Event::ClusterChanged, Outcome::Taken);
            self.pass_time(&mut world);
        }
        world.origin = world.tick;
        world.faults_left = u8::try_from(self.bound.given.len()).unwrap_or(u8::MAX);
        for action in &self.bound.given {
            world = self.next_state(&world, *action).unwrap_or(world);
        }
        world.faults_left = self.bound.faults;
        world
    }

    /// Whether a fault may strike now.
    fn can_fail(&self, world: &World) -> bool {
        let is_first = world.faults_left == self.bound.faults && self.bound.given.is_empty();
        world.faults_left > 0 && (!is_first || world.tick == world.origin)
    }

    fn pass_time(&self, world: &mut World) {
        world.tick += 1;
        world.acted.clear();
        world.replicate();
        if world.proxy.deadline.is_some_and(|deadline| deadline <= at(world.tick)) {
            world.proxy_turn(&self.bound, Event::TimePassed, Outcome::Taken);
        }
        for number in 0..SENTINELS {
            if !world.sentinels[number].leads && world.sentinels[number].view.is_none() {
                let view = world.view();
                world.decide(&self.bound, number, &view, Outcome::Taken);
            }
        }
        for keeper in 0..KEEPERS {
            if self.can_commit(world, keeper) {
                world.keepers[keeper].postgres.wal.push(world.commits);
                world.waiting.insert(world.commits, keeper);
                world.commits += 1;
            }
        }
        world.acknowledge();
    }

    /// Between seconds, before or after WAL flows: within one a fault of a host, a link or an office makes no other difference than
    /// before or after the turn of the one that it strikes.
    fn faults(&self, world: &World, actions: &mut Vec<Action>) {
        let is_between = world.acted.is_empty() || world.is_complete();
        if !is_between || !self.can_fail(world) {
            return;
        }
        for (keeper, node) in world.keepers.iter().enumerate() {
            if node.state == NodeState::Up {
                actions.extend([Action::Crash(keeper), Action::CutOff(keeper)]);
                if !node.postgres.is_primary() {
                    actions.push(Action::Lag(keeper));
                }
            }
        }
        if world.proxy.reaches_store {
            actions.push(Action::CutOffProxy);
        }
        if world.sentinels[0].leads {
            actions.push(Action::TakeOver);
        }
    }

    fn turns(&self, world: &World, actions: &mut Vec<Action>) {
        let can_fail = self.can_fail(world);
        for (number, sentinel) in world.sentinels.iter().enumerate() {
            if sentinel.view.is_some() {
                actions.push(Action::Resume(number));
            } else if sentinel.leads && !world.acted.contains(&Actor::Sentinel(number)) {
                actions.push(Action::Round(number));
                if can_fail {
                    actions.extend([Action::RoundUnconfirmed(number), Action::Pause(number)]);
                }
            }
        }
        if let Some(keeper) = world.next_keeper() {
            actions.push(Action::Keep(keeper));
            if can_fail {
                actions.push(Action::KeepWithLateReport(keeper));
            }
        }
        if world.proxy.reaches_store && !world.acted.contains(&Actor::Proxy) {
            actions.push(Action::Check);
            if can_fail {
                actions.extend([Action::CheckUnpublished, Action::CheckUnconfirmed]);
            }
        }
    }

    /// In synchronous mode clients may come in by any way; in asynchronous mode only the proxy's count.
    fn can_commit(&self, world: &World, keeper: usize) -> bool {
        let node = &world.keepers[keeper];
        let arrives = match self.bound.replication {
            Replication::Synchronous => true,
            Replication::Asynchronous => world.proxy.target == Some(keeper),
        };
        arrives
            && node.state != NodeState::Down
            && node.postgres.is_primary()
            && node.postgres.admits_clients()
    }
}

impl World {
    /// Keepers have their turns in order: what one does is seen by another only through the store.
    fn next_keeper(&self) -> Option<usize> {
        (0..KEEPERS).find(|keeper| {
            let acts = matches!(self.keepers[*keeper].state, NodeState::Up | NodeState::Lagging);
            acts && !self.acted.contains(&Actor::Keeper(*keeper))
        })
    }

    /// Everybody who can has had a turn in this second.
    fn is_complete(&self) -> bool {
        let sentinels = self.sentinels.iter().enumerate().all(|(number, sentinel)| {
            !sentinel.leads || sentinel.view.is_some() || self.acted.contains(&Actor::Sentinel(number))
        });
        let proxy = !self.proxy.reaches_store || self.acted.contains(&Actor::Proxy);
        sentinels && proxy && self.next_keeper().is_none()
    }

    fn keep(&mut self, keeper: usize) {
        if let Some(report) = self.keeper_turn(keeper) {
            self.keeper_reports.insert(report.uid.clone(), report);
        }
        self.acted.insert(Actor::Keeper(keeper));
    }

    fn fault(&mut self) {
        self.faults_left -= 1;
    }

    fn node(&mut self, keeper: usize, state: NodeState) -> &mut Node {
        let node = &mut self.keepers[keeper];
        node.state = state;
        node
    }

    /// What must hold in every state.
    fn judge(&mut self, bound: &Bound) {
        let opened = self.document.proxy.spec.primary.as_ref().and_then(|uid| self.keeper_of(uid));
        if let (Some(opened), Some(target)) = (opened, self.proxy.target)
            && opened != target
        {
            self.broken = Some("clients are sent to one primary while the proxy still forwards to another");
        }
        let elected = self.document.cluster.status.primary.as_ref().and_then(|uid| self.keeper_of(uid));
        let Some(elected) = elected.filter(|keeper| {
            let node = &self.keepers[*keeper];
            let uid = self.document.cluster.status.primary.as_ref();
            node.state != NodeState::Down
                && node.postgres.is_primary()
                && uid == Some(&node.postgres.local.uid)
        }) else {
            return;
        };
        let wal = &self.keepers[elected].postgres.wal;
        if bound.replication == Replication::Synchronous
            && !self.acknowledged.iter().all(|commit| wal.contains(commit))
        {
            self.broken = Some("the primary lacks a commit that a client was told to be safe");
        }
        if bound.replication == Replication::Asynchronous
            && self
                .proxy
                .target
                .is_some_and(|target| target != elected && self.keepers[target].state != NodeState::Down)
        {
            self.broken = Some("a primary was promoted while the proxy still forwards to the one before");
        }
    }
}

impl Model for ClusterModel {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.steady()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.broken.is_some() || world.tick >= world.origin + self.bound.ticks {
            return;
        }
        if world.is_complete() {
            actions.push(Action::Tick);
        }
        self.turns(world, actions);
        self.faults(world, actions);
        // What comes back does so at the beginning of a second.
        let returns = world.acted.is_empty() && self.bound.recovery == Recovery::AnyTime;
        for (keeper, node) in world.keepers.iter().enumerate() {
            if node.delayed.is_some() {
                actions.push(Action::Deliver(keeper));
            }
            if node.state != NodeState::Up && returns {
                actions.push(Action::Return(keeper));
            }
        }
        if !world.proxy.reaches_store && returns {
            actions.push(Action::ReturnProxy);
        }
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        let bound = &self.bound;
        match action {
            Action::Tick => self.pass_time(&mut world),
            Action::Round(number) | Action::RoundUnconfirmed(number) => {
                let outcome = match action {
                    Action::Round(_) => Outcome::Taken,
                    _ => {
                        world.fault();
                        Outcome::Unconfirmed
                    }
                };
                world.acted.insert(Actor::Sentinel(number));
                let view = world.view();
                world.decide(bound, number, &view, outcome);
            }
            Action::Pause(number) => {
                world.fault();
                world.acted.insert(Actor::Sentinel(number));
                let view = world.view();
                world.sentinels[number].view = Some(view);
            }
            Action::Resume(number) => {
                let view = world.sentinels[number].view.take()?;
                let leads = std::mem::replace(&mut world.sentinels[number].leads, true);
                world.decide(bound, number, &view, Outcome::Taken);
                world.sentinels[number].leads = leads;
            }
            Action::TakeOver => {
                world.fault();
                world.sentinels[0].leads = false;
                world.sentinels[1].leads = true;
            }
            Action::Keep(keeper) => world.keep(keeper),
            Action::KeepWithLateReport(keeper) => {
                world.fault();
                world.acted.insert(Actor::Keeper(keeper));
                world.keepers[keeper].delayed = world.keeper_turn(keeper);
            }
            Action::Deliver(keeper) => {
                let report = world.keepers[keeper].delayed.take()?;
                world.keeper_reports.insert(report.uid.clone(), report);
            }
            Action::Crash(keeper) => {
                world.fault();
                let node = world.node(keeper, NodeState::Down);
                node.postgres.running = false;
                node.delayed = None;
            }
            Action::CutOff(keeper) => {
                world.fault();
                world.node(keeper, NodeState::CutOff);
            }
            Action::Lag(keeper) => {
                world.fault();
                world.node(keeper, NodeState::Lagging);
            }
            Action::Return(keeper) => {
                let was_down = world.keepers[keeper].state == NodeState::Down;
                let node = world.node(keeper, NodeState::Up);
                if was_down {
                    node.boots += 1;
                }
            }
            Action::Check | Action::CheckUnpublished | Action::CheckUnconfirmed => {
                let outcome = match action {
                    Action::Check => Outcome::Taken,
                    Action::CheckUnpublished => Outcome::Lost,
                    _ => Outcome::Unconfirmed,
                };
                if outcome != Outcome::Taken {
                    world.fault();
                }
                world.acted.insert(Actor::Proxy);
                world.proxy_turn(bound, Event::ClusterChanged, outcome);
            }
            Action::CutOffProxy => {
                world.fault();
                world.proxy.reaches_store = false;
            }
            Action::ReturnProxy => world.proxy.reaches_store = true,
        }
        world.acknowledge();
        world.judge(bound);
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("safe", |_, world: &World| world.broken.is_none()),
            Property::sometimes("clients commit", |_, world: &World| !world.acknowledged.is_empty()),
            Property::sometimes("another primary", |_, world: &World| {
                world.proxy.target.is_some_and(|keeper| keeper != 0)
            }),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steady(replication: Replication) -> World {
        let bound = Bound {
            ticks: 1,
            faults: 0,
            given: Vec::new(),
            recovery: Recovery::Never,
            replication,
            without: None,
        };
        ClusterModel { bound }.steady()
    }

    #[test]
    fn the_steady_state_is_one() {
        for replication in [Replication::Synchronous, Replication::Asynchronous] {
            let world = steady(replication);
            assert_eq!(world.proxy.target, Some(0), "{world:#?}");
            assert_eq!(world.document.proxy.spec.primary, world.document.cluster.status.primary);
            let primary = &world.keepers[0].postgres;
            assert!(primary.is_primary() && primary.admits_clients(), "{primary:#?}");
            let names = usize::from(replication == Replication::Synchronous);
            assert_eq!(primary.waits_for().len(), names, "{:?}", primary.waits_for());
            for standby in &world.keepers[1..] {
                assert!(standby.postgres.running && !standby.postgres.is_primary());
                assert_eq!(standby.postgres.upstream_port(), Some("5401"));
            }
        }
    }
}
