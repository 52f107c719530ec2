//! Operators: the decisions of `stolonctl` from `stolon-core`, on a document that nobody else writes meanwhile.

use std::rc::Rc;
use std::time::Duration;

use stolon_core::operator::{
    Edit, Errand, LastCopy, Wanted, ask_for_switchover, choose_priority, fail_keeper, new_cluster, pause,
    place_errand, refuse_pause, remove_keeper, resume,
};
use stolon_core::sentinel::{Witnesses, fitness, recover, spare};
use stolon_model::{
    ClusterDocument, ClusterUid, GoDuration, KeeperUid, Lsn, Patch, Pause, RequestKind, UsableCluster,
};

use crate::coverage::Point;
use crate::postgres::Position;
use crate::scenario::{Command, Program, Rewind};
use crate::store::Changed;
use crate::world::{Event, World};

/// The default of `stolonctl switchover --timeout`.
const PATIENCE: Duration = Duration::from_secs(60);

impl World {
    /// What `stolonctl` does: read, judge, change, compare-and-put. What it refuses changes nothing.
    pub(crate) fn operate(&mut self, command: &Command) {
        if *command == Command::Init {
            return self.make_the_cluster_anew();
        }
        let Some(mut document) = self.store.document().map(|document| (**document).clone()) else { return };
        if self.edit(command, &mut document) != Some(Edit::Write) {
            return;
        }
        let document = Rc::new(document);
        self.note_decided(&document);
        self.store.put(self.store_time(), Some(document));
        self.notify(Changed::Document);
    }

    /// None: refused.
    fn edit(&mut self, command: &Command, document: &mut ClusterDocument) -> Option<Edit> {
        let now = self.true_wall();
        let uid = self.uid_of_request();
        match command {
            Command::FailKeeper(keeper) => {
                let edit = fail_keeper(document, &self.uid_of(*keeper), &uid, now).ok()?;
                self.coverage.reached(Point::ForcedFailure);
                Some(edit)
            }
            Command::RemoveKeeper(keeper) => {
                let edit = self.remove(*keeper, document)?;
                self.kill_program(Program::Keeper(*keeper));
                Some(edit)
            }
            Command::RemoveKeeperThatRuns(keeper) => {
                let edit = self.remove(*keeper, document)?;
                self.coverage.reached(Point::RemovedWhileItRan);
                Some(edit)
            }
            Command::Switchover(to) => {
                let to = to.map(|keeper| self.uid_of(keeper));
                let usable = UsableCluster::try_from(document.clone()).ok()?;
                let judged = fitness(&usable, &self.store.keeper_reports(), to.as_ref());
                if judged.is_err_and(|obstacle| !obstacle.may_pass()) {
                    self.coverage.reached(Point::SwitchoverNotAsked);
                    return None;
                }
                let wanted = Wanted { uid: &uid, to: to.as_ref(), timeout: GoDuration::from(PATIENCE) };
                ask_for_switchover(document, wanted, now).ok()
            }
            Command::Pause(millis) => {
                let span = Duration::from_millis(*millis);
                let until = self.true_wall_after(span);
                self.note_pause(span);
                let asked = Pause { since: now, until, operator: "o@sim".to_owned(), reason: String::new() };
                Some(pause(document, &asked))
            }
            Command::Resume => {
                resume(document)?;
                self.coverage.reached(Point::Resumed);
                Some(Edit::Write)
            }
            Command::Reinit(keeper) => {
                let usable = UsableCluster::try_from(document.clone()).ok()?;
                refuse_pause(usable.data()).ok()?;
                spare(&usable, &self.store.keeper_reports(), &self.uid_of(*keeper)).ok()?;
                self.place(*keeper, RequestKind::Reinit, document, Point::ReinitAsked)
            }
            Command::Restart(keeper) => {
                self.place(*keeper, RequestKind::Restart, document, Point::RestartAsked)
            }
            Command::Reload(keeper) => {
                self.place(*keeper, RequestKind::Reload, document, Point::ReloadAsked)
            }
            Command::Priority(keeper, chosen) => {
                let edit = choose_priority(document, &self.uid_of(*keeper), Some(*chosen)).ok()?;
                self.coverage.reached(Point::PriorityChosen);
                Some(edit)
            }
            Command::PriorityOfFlag(keeper) => choose_priority(document, &self.uid_of(*keeper), None).ok(),
            Command::Synchronous(limits) => self.update(document, &match limits {
                None => {
                    r#"{"synchronousReplication":false,"minSynchronousStandbys":null,"maxSynchronousStandbys":null}"#
                        .to_owned()
                }
                Some((minimum, maximum)) => format!(
                    r#"{{"synchronousReplication":true,"minSynchronousStandbys":{minimum},"maxSynchronousStandbys":{}{}}}"#,
                    maximum.max(&1),
                    self.scenario.spec.quorum.map_or(String::new(), |quorum| {
                        format!(r#","synchronousQuorum":{}"#, quorum.min(*maximum).max(1))
                    })
                ),
            }),
            Command::Parameters(value) => self.update(
                document,
                &format!(r#"{{"pgParameters":{{"work_mem":"{}kB"}}}}"#, 1024 + u64::from(*value)),
            ),
            Command::ProxyTimings(timeout, interval) => self.update(
                document,
                &format!(r#"{{"proxyTimeout":"{timeout}ms","proxyCheckInterval":"{interval}ms"}}"#),
            ),
            Command::Rewind(rewind) => {
                self.update(document, &format!(r#"{{"usePgrewind":{}}}"#, *rewind == Rewind::Used))
            }
            Command::Standbys(most) => {
                self.update(document, &format!(r#"{{"maxStandbysPerSender":{most}}}"#))
            }
            Command::Recover => {
                (0..self.scenario.keepers).find_map(|keeper| self.recover(keeper, document))
            }
            Command::Init => None,
        }
    }

    fn uid_of_request(&self) -> String {
        format!("o{}", self.now.as_millis())
    }

    fn uid_of(&self, keeper: u8) -> KeeperUid {
        self.keepers[usize::from(keeper)].uid().clone()
    }

    /// `stolonctl update --patch`
    fn update(&mut self, document: &mut ClusterDocument, patch: &str) -> Option<Edit> {
        let cluster = document.cluster.as_mut()?;
        let old = cluster.spec.clone().unwrap_or_default();
        let new = Patch::parse(patch).and_then(|patch| patch.apply(&old)).ok()?;
        let known = old.impossibilities();
        let is_possible = new.impossibilities().iter().all(|found| known.contains(found));
        if old.check_update(&new).is_err() || !is_possible {
            return None;
        }
        self.coverage.reached(Point::Updated);
        let is_news = cluster.spec.replace(new) != cluster.spec;
        Some(if is_news { Edit::Write } else { Edit::Unneeded })
    }

    /// `stolonctl removekeeper`. What the primary held a moment ago is with others only: that nobody can know from the store, so that who
    /// removes a keeper looks first.
    fn remove(&mut self, keeper: u8, document: &mut ClusterDocument) -> Option<Edit> {
        self.elected().filter(|(_, it)| *it != keeper && self.holds_everything(*it))?;
        let uid = self.uid_of(keeper);
        let reports = self.store.keeper_reports();
        let edit = remove_keeper(document, &reports, &uid, LastCopy::Kept).ok()?;
        self.store.remove_keeper_report(&uid);
        self.coverage.reached(Point::KeeperRemoved);
        Some(edit)
    }

    fn place(
        &mut self,
        keeper: u8,
        kind: RequestKind,
        document: &mut ClusterDocument,
        point: Point,
    ) -> Option<Edit> {
        let keeper = self.uid_of(keeper);
        let report = self.store.holds().keepers.get(&keeper);
        let started = report.and_then(|report| report.activity.as_ref()?.started);
        let started = started.filter(|_| kind == RequestKind::Restart);
        let uid = self.uid_of_request();
        let edit =
            place_errand(document, &keeper, &Errand { uid: &uid, kind, started }, self.true_wall()).ok()?;
        self.coverage.reached(point);
        Some(edit)
    }

    /// `stolonctl recover KEEPER --allow-data-loss`
    fn recover(&mut self, keeper: u8, document: &mut ClusterDocument) -> Option<Edit> {
        let usable = UsableCluster::try_from(document.clone()).ok()?;
        let (keepers, sentinels) = (self.store.keeper_reports(), self.sentinel_reports());
        let witnesses = Witnesses { keepers: &keepers, sentinels: &sentinels };
        let (_, next) = recover(&usable, &witnesses, &self.uid_of(keeper), self.true_wall()).ok()?;
        self.coverage.reached(Point::Recovered);
        self.ledger.give_up_everything();
        self.leave_other_branches(&next);
        self.ledger.synchronous = next.primary().is_some_and(|it| it.spec.synchronous_replication);
        *document = next.into();
        Some(Edit::Write)
    }

    /// `stolonctl init --yes` on a cluster that there is already: everything is given up, and what keepers hold is overwritten.
    fn make_the_cluster_anew(&mut self) {
        self.coverage.reached(Point::MadeAnew);
        let uid = ClusterUid::from(self.random.uid8());
        let data = new_cluster(uid, self.scenario.spec.cluster_spec(), self.true_wall());
        self.ledger.give_up_everything();
        for branch in self.histories.all() {
            self.leave_behind(Position { branch, lsn: Lsn(0) });
        }
        self.ledger.begin_anew();
        self.snapshots.clear();
        self.challenged = None;
        let document = Rc::new(ClusterDocument::from(data));
        self.note_decided(&document);
        self.store.forget_the_past();
        self.store.put(self.store_time(), Some(document));
        self.document_replaced();
        self.notify(Changed::Document);
    }

    /// A keeper is added: it is started for the first time.
    pub(crate) fn keeper_joins(&mut self, keeper: u8) {
        let program = Program::Keeper(keeper);
        if self.processes.get(&program).is_some_and(|process| process.run == 0) {
            self.coverage.reached(Point::KeeperJoined);
        }
        self.after(Duration::ZERO, Event::ProgramStarts(program));
    }
}
