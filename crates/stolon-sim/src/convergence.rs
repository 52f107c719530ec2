//! I6, I15, I18: after the last fault has ended the cluster becomes whole again by itself, leaves nothing behind, and is quiet.

use std::time::Duration;

use stolon_core::sentinel::violations;
use stolon_model::{ClusterData, Instance, KeeperReport, Phase as ClusterPhase, Quorum, replication_name};

use crate::Time;
use crate::coverage::Point;
use crate::invariants::Invariant;
use crate::scenario::Program;
use crate::world::{Event, World};

/// Between looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// A cluster that has become whole is watched for so long.
const QUIET: Duration = Duration::from_secs(20);
/// A cluster that is whole has let a client commit within this.
const LAST_COMMIT: Duration = Duration::from_secs(10);

/// The cluster was seen whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole {
    since: Time,
    elections: u32,
    writes: u64,
    requests: u64,
}

impl World {
    /// How long the cluster may take to become whole.
    fn bound(&self) -> Duration {
        let spec = &self.scenario.spec;
        Duration::from_secs(240) + Duration::from_millis(spec.fail * 6 + spec.convergence * 4)
    }

    pub(crate) fn inspect(&mut self) {
        let quiet_at = Duration::from_millis(self.scenario.quiet_at);
        let missing = self.what_is_missing();
        match (missing, self.whole) {
            (None, None) => {
                self.log.say(self.now, "##", || "the cluster is whole".to_owned());
                self.whole = Some(Whole {
                    since: self.now,
                    elections: self.ledger.elections,
                    writes: self.store.writes,
                    requests: self.store.requests,
                });
            }
            (None, Some(whole)) if self.now - whole.since >= QUIET => {
                self.check_quiescence(whole);
                self.coverage.reached(Point::Converged);
                self.over = true;
            }
            (None, Some(_)) => {}
            (Some(missing), _) => {
                self.whole = None;
                if self.now > quiet_at + self.bound() {
                    let after = self.now - quiet_at;
                    self.violate(Invariant::I6Convergence, || {
                        format!("{} s after the last fault: {missing}", after.as_secs())
                    });
                }
            }
        }
        self.after(INTERVAL, Event::Inspect);
    }

    /// I18: nobody was replaced, and the store was asked as little as by a cluster on which nothing happens.
    fn check_quiescence(&mut self, whole: Whole) {
        let seconds = (self.now - whole.since).as_secs_f64();
        let beats = seconds / (self.scenario.spec.sleep as f64 / 1000.0);
        let writes = (self.store.writes - whole.writes) as f64;
        if self.ledger.elections > whole.elections {
            self.violate(Invariant::I18Quiescence, || "a primary was replaced in peace".to_owned());
        }
        // The leader writes once per sleep interval.
        if writes > beats * 1.5 + 4.0 {
            self.violate(Invariant::I18Quiescence, || format!("{writes} writes in {seconds} s of peace"));
        }
        let programs = self.processes.len() as f64;
        let requests = (self.store.requests - whole.requests) as f64;
        // Each program looks a few times per interval, and sentinels once for each report besides.
        let allowed = (beats + seconds) * programs * (6.0 + programs) + 50.0;
        if requests > allowed {
            self.violate(Invariant::I18Quiescence, || format!("{requests} requests in {seconds} s of peace"));
        }
    }

    /// What a whole cluster has and this one lacks.
    fn what_is_missing(&self) -> Option<String> {
        let Some(document) = self.store.document() else { return Some("the store is empty".to_owned()) };
        let Ok(data) = ClusterData::try_from((**document).clone()) else {
            return Some("the document cannot be read".to_owned());
        };
        if data.cluster.status.phase != Some(ClusterPhase::Normal) {
            return Some("the cluster was not made".to_owned());
        }
        if let Some(rule) = violations(&data).first() {
            return Some(format!("the document breaks a rule: {rule}"));
        }
        let Some(primary) = data.primary() else { return Some("there is no primary".to_owned()) };
        self.primary_lacks(primary)
            .or_else(|| self.standbys_lack(&data, primary))
            .or_else(|| self.proxies_lack(&data))
            .or_else(|| self.slots_lack(&data, primary))
            .or_else(|| self.restarts_count(&data))
            .or_else(|| match self.ledger.last_commit {
                Some(last) if self.now - last < LAST_COMMIT => None,
                _ => Some("no client can commit".to_owned()),
            })
    }

    /// A server that was restarted too often within a minute may be replaced later in that minute, once somebody can take over.
    fn restarts_count(&self, data: &ClusterData) -> Option<String> {
        let budget = data.cluster.spec.effective().max_restarts_per_minute;
        let restarts = |report: &KeeperReport| report.activity.as_ref().map_or(0, |it| it.restarts);
        let mut reports = self.store.keeper_reports().into_iter();
        let (keeper, _) = reports.find(|(_, report)| restarts(report) > budget)?;
        Some(format!("the server of {keeper} ended too often within a minute"))
    }

    fn primary_lacks(&self, primary: &Instance) -> Option<String> {
        let keeper = self.keeper_index(&primary.spec.keeper_uid)?;
        let server = self.postgres[usize::from(keeper)].server.as_ref();
        match server {
            _ if !self.accepts_connections(keeper) => Some(format!("the primary pg{keeper} does not run")),
            Some(server) if server.in_recovery => Some(format!("the primary pg{keeper} is in recovery")),
            Some(server) if server.locked => Some(format!("the primary pg{keeper} lets no clients in")),
            _ if !primary.status.healthy || primary.status.current_generation != primary.generation => {
                Some(format!("the primary pg{keeper} has not reached its generation"))
            }
            _ => None,
        }
    }

    fn standbys_lack(&self, data: &ClusterData, primary: &Instance) -> Option<String> {
        let spec = data.cluster.spec.effective();
        let wanted = usize::from(self.scenario.keepers - 1).min(spec.max_standbys_per_sender.into());
        let standbys: Vec<&Instance> = data.instances.values().filter(|it| it.uid != primary.uid).collect();
        if standbys.len() != wanted {
            return Some(format!("{} standbys instead of {wanted}", standbys.len()));
        }
        let head = self.keeper_index(&primary.spec.keeper_uid)?;
        for standby in standbys {
            let keeper = self.keeper_index(&standby.spec.keeper_uid)?;
            let incarnation = self.postgres[usize::from(head)].incarnation;
            let server = self.postgres[usize::from(keeper)].server.as_ref();
            if server.and_then(|server| server.upstream) != Some((head, incarnation)) {
                return Some(format!("pg{keeper} does not stream from pg{head}"));
            }
            if !standby.status.healthy || standby.status.current_generation != standby.generation {
                return Some(format!("the standby pg{keeper} has not reached its generation"));
            }
        }
        if !spec.synchronous_replication {
            return None;
        }
        let listed = primary.spec.synchronous_standbys.as_deref().unwrap_or_default();
        let known = primary.status.synchronous_standbys.as_deref().unwrap_or_default();
        let wanted = wanted.min(spec.max_synchronous_standbys.into());
        if primary.spec.synchronous_quorum > 0 {
            let asked = Quorum::of(primary.spec.synchronous_quorum, listed.iter().cloned());
            return match (listed.len() == wanted, primary.status.quorums.as_deref() == Some(&[asked])) {
                (false, _) => Some(format!("{} members of the quorum instead of {wanted}", listed.len())),
                (true, false) => Some("the quorum is not known to hold everything".to_owned()),
                (true, true) => None,
            };
        }
        if spec.synchronous_quorum.is_some() {
            return Some("commits wait for no quorum".to_owned());
        }
        match (listed.len() == wanted, listed == known) {
            (false, _) => Some(format!("{} synchronous standbys instead of {wanted}", listed.len())),
            (true, false) => Some("synchronous standbys are not known to be in sync".to_owned()),
            (true, true) => None,
        }
    }

    fn proxies_lack(&self, data: &ClusterData) -> Option<String> {
        let target = data.proxy.spec.primary.as_ref();
        if target.is_none() || target != data.cluster.status.primary.as_ref() {
            return Some("proxies are sent nowhere".to_owned());
        }
        let keeper = data.primary().and_then(|primary| self.keeper_index(&primary.spec.keeper_uid));
        (0..self.scenario.proxies)
            .find(|proxy| {
                self.run_of(Program::Proxy(*proxy)).is_some()
                    && self.open_route(*proxy).map(|(to, _)| to) != keeper
            })
            .map(|proxy| format!("p{proxy} does not forward to the primary"))
    }

    /// I15: slots that nobody uses hold back WAL until the disk is full.
    fn slots_lack(&self, data: &ClusterData, primary: &Instance) -> Option<String> {
        for instance in data.instances.values() {
            let keeper = self.keeper_index(&instance.spec.keeper_uid)?;
            let slots = &self.postgres[usize::from(keeper)].data.as_ref()?.slots;
            let allowed = |slot: &String| {
                instance.uid == primary.uid
                    && data.instances.values().any(|it| replication_name(&it.uid) == *slot)
            };
            if let Some(slot) = slots.keys().find(|slot| !allowed(slot)) {
                return Some(format!("pg{keeper} keeps the slot {slot} for nobody"));
            }
        }
        None
    }
}
