//! The loop of a keeper: observe, plan, apply.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use stolon_core::keeper::{
    Attempt, Config, DataKind, Demands, Gate, Goal, Identity, InstanceRole, LeaveAlone, LocalState, NextLook,
    Patience, PendingRestart, Plan, Refusals, Step, plan,
};
use stolon_model::{
    Advise as _, ClusterData, Explained, InstanceState, KeeperState, Parameters, UsableCluster,
};
use stolon_postgres::{PostgresError, ServerState};
use stolon_runtime::Backoff;
use stolon_store::{Watch, WatchScope};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::configure::{Checked, proven_parameters};
use crate::metrics::{Flag, RoleLabel};
use crate::shared::{Pace, Shared};
use crate::state_files::{StateFileError, store};

/// Between looks while somebody waits for what is about to happen.
const SOON: Duration = Duration::from_millis(25);
/// The same when it has not happened for a while.
const NOT_SO_SOON: Duration = Duration::from_millis(250);
const SOON_LASTS: Duration = Duration::from_secs(10);
/// First pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause between attempts to copy or restore.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A server that lived shorter than this is not started again at once.
const LIVES_WELL: Duration = Duration::from_secs(3);
/// How long a primary's restart waits for its standbys to restart first.
const RESTART_PATIENCE: Duration = Duration::from_secs(10);

/// The activity that brings PostgreSQL to what the cluster data asks for.
pub struct Keeper<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) stop: CancellationToken,
    identity: Identity,
    watch: Watch,
    server: watch::Receiver<ServerState>,
    goal: Goal,
    pub(crate) local: LocalState,
    pub(crate) memory: Memory,
    backoff: Backoff,
    troubled: Option<String>,
    announced: Announced,
}

/// What this process remembers between passes.
pub(crate) struct Memory {
    pub(crate) gate: Gate,
    /// What the running server was given.
    pub(crate) applied: Option<Config>,
    /// What was written last, for the next start or reload.
    pub(crate) configured: Option<Config>,
    /// The parameters that a server last came up with.
    pub(crate) proven: Option<Parameters>,
    /// The parameters that PostgreSQL itself last found nothing wrong with.
    pub(crate) checked: Checked,
    /// When refused settings were last asked about.
    pub(crate) reconsidered: Option<Instant>,
    pub(crate) refusals: Refusals,
    /// Lines of `pgHBA` that PostgreSQL refused, with its words, until the parameters change.
    pub(crate) refused_hba: BTreeMap<String, String>,
    /// Refused because the server did not start with them; not yet confirmed by a start without them.
    pub(crate) suspects: Vec<String>,
    pub(crate) demands: Option<Demands>,
    pub(crate) attempt: Attempt,
    /// Captured, not yet written down.
    pub(crate) captured: Option<Parameters>,
    /// Lines that the running server did not take.
    pub(crate) line_problems: Vec<String>,
    /// Slots that could not be changed, with the reason.
    pub(crate) kept_slots: Vec<(String, String)>,
    /// The disk has no room for two copies.
    pub(crate) old_data_in_the_way: bool,
    pub(crate) waiting_to_restart: Option<Instant>,
    /// When the server was started.
    pub(crate) started: Option<Instant>,
    early_deaths: Backoff,
    gated_since: Option<Instant>,
}

impl Memory {
    fn new(proven: Option<Parameters>) -> Self {
        Memory {
            gate: Gate::default(),
            applied: None,
            configured: None,
            proven,
            checked: Checked::default(),
            reconsidered: None,
            refusals: Refusals::new(),
            refused_hba: BTreeMap::new(),
            suspects: Vec::new(),
            demands: None,
            attempt: Attempt::default(),
            captured: None,
            line_problems: Vec::new(),
            kept_slots: Vec::new(),
            old_data_in_the_way: false,
            waiting_to_restart: None,
            started: None,
            early_deaths: Backoff::new(FIRST_PAUSE, Duration::from_secs(5)),
            gated_since: None,
        }
    }
}

/// What was logged last, so that it is logged once.
#[derive(Default)]
struct Announced {
    reasons: Vec<String>,
    generation: i64,
    parameter_problems: BTreeSet<String>,
}

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PassError {
    /// PostgreSQL or one of its tools.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// Our own files.
    #[error(transparent)]
    StateFile(#[from] StateFileError),
    /// One sentence.
    #[error("{0}")]
    Refused(String),
}

/// When the next pass is due.
enum Next {
    /// At once.
    Now,
    /// In some tens of milliseconds.
    Soon,
    /// After this, unless something happens before.
    After(Duration),
}

/// What a step says about the steps after it.
pub(crate) enum Applied {
    /// Go on.
    Done,
    /// Something was learned: look and plan again.
    Replan,
}

impl<'a> Keeper<'a> {
    /// A keeper whose data directory holds `instance`, according to its state file.
    pub(crate) fn new(shared: &'a Shared, instance: InstanceState, stop: CancellationToken) -> Self {
        let mut keeper = Keeper {
            shared,
            stop,
            identity: shared.identity(),
            watch: shared.store.watch(WatchScope::ClusterData),
            server: shared.postgres.server(),
            goal: Goal::LeaveAlone(LeaveAlone::NoClusterData),
            local: LocalState::default(),
            memory: Memory::new(proven_parameters(&shared.settings.data_dir)),
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            troubled: None,
            announced: Announced::default(),
        };
        keeper.set_local(LocalState {
            uid: instance.uid,
            generation: instance.generation,
            initializing: instance.initializing,
            captured: instance.init_pg_parameters,
        });
        keeper
    }

    /// Runs until told to stop; what is under way then is called off.
    pub(crate) async fn run(mut self) {
        self.read_goal().await;
        while !self.stop.is_cancelled() {
            let next = match self.pass().await {
                Ok(next) => next,
                Err(_) if self.stop.is_cancelled() => return,
                Err(error) => {
                    // Deaths during the pass are what failed it.
                    self.server.borrow_and_update();
                    self.failed(&error)
                }
            };
            self.wait(next).await;
        }
    }

    async fn pass(&mut self) -> Result<Next, PassError> {
        if self.server.has_changed().unwrap_or_default()
            && let Some(pause) = self.death().filter(|pause| !pause.is_zero())
        {
            return Ok(Next::After(pause));
        }
        let mut seen = self.observe().await?;
        self.reconsider_refusals(&mut seen).await;
        let plan = plan(&self.goal, &seen);
        self.announce(&plan);
        for step in &plan.steps {
            if matches!(step, Step::Reobserve) {
                self.read_goal().await;
                return Ok(Next::Now);
            }
            match self.take(step).await? {
                Applied::Done => {}
                Applied::Replan => return Ok(Next::Now),
            }
        }
        Ok(self.finished(&plan))
    }

    /// Until the next pass is due. Cluster data that asks for nothing new wakes nobody.
    async fn wait(&mut self, next: Next) {
        let due = match next {
            Next::Now => return,
            Next::Soon => Instant::now() + self.soon(),
            Next::After(pause) => Instant::now() + pause,
        };
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                _ = self.server.changed() => {
                    if let Some(pause) = self.death() {
                        self.stop.clone().run_until_cancelled(tokio::time::sleep(pause)).await;
                        return;
                    }
                }
                () = self.watch.changed() => {
                    if self.read_goal().await == Changed::Yes {
                        self.backoff.reset();
                        return;
                    }
                }
                () = tokio::time::sleep_until(due) => {
                    if matches!(next, Next::After(_)) {
                        self.read_goal().await;
                    }
                    return;
                }
            }
        }
    }

    /// The pause to make when the server's last change was its death.
    fn death(&mut self) -> Option<Duration> {
        let state = self.server.borrow_and_update().clone();
        match state {
            ServerState::Died { status, explanation, .. } => Some(self.server_died(&status, &explanation)),
            ServerState::Stopped | ServerState::Running { .. } => None,
        }
    }

    /// A server that lived for a while is started again at once; one that dies again and again is given pauses.
    fn server_died(&mut self, status: &str, explanation: &str) -> Duration {
        tracing::error!(status, "postgres ended unexpectedly: {explanation}");
        let lived = self.memory.started.take().map_or(LIVES_WELL, |started| started.elapsed());
        if lived >= LIVES_WELL {
            self.memory.early_deaths.reset();
            return Duration::ZERO;
        }
        self.shared
            .tell(|news| news.activity.problem = format!("PostgreSQL ended ({status}): {explanation}"));
        self.memory.early_deaths.next_pause()
    }

    fn soon(&mut self) -> Duration {
        let since = *self.memory.gated_since.get_or_insert_with(Instant::now);
        if since.elapsed() < SOON_LASTS { SOON } else { NOT_SO_SOON }
    }

    /// Reads the cluster data; a store that does not answer asks us to leave everything as it is.
    pub(crate) async fn read_goal(&mut self) -> Changed {
        let goal = match self.shared.store.cluster_document().await {
            Err(error) => {
                Goal::LeaveAlone(LeaveAlone::Unusable(format!("error retrieving cluster data: {error}")))
            }
            Ok(None) => Goal::LeaveAlone(LeaveAlone::NoClusterData),
            Ok(Some(document)) => match UsableCluster::try_from(document.value) {
                Err(error) => Goal::LeaveAlone(LeaveAlone::Unusable(error.to_string())),
                Ok(cluster) => self.goal_of(&cluster),
            },
        };
        let changed = if goal.asks_the_same_as(&self.goal) { Changed::No } else { Changed::Yes };
        self.goal = goal;
        changed
    }

    fn goal_of(&mut self, cluster: &UsableCluster) -> Goal {
        let spec = cluster.spec();
        self.shared.metrics.valid_update_now();
        self.shared.metrics.set_sleep_interval(spec.sleep_interval);
        let pace = Pace::new(spec.sleep_interval, spec.request_timeout);
        self.shared.pace.send_if_modified(|now| std::mem::replace(now, pace) != pace);
        if let Err(error) = self.join_cluster(cluster.data()) {
            return Goal::LeaveAlone(LeaveAlone::Unusable(error.to_string()));
        }
        let specified = Rc::new(spec.pg_parameters.clone().unwrap_or_default());
        let goal = Goal::of(cluster, &self.identity);
        self.shared.tell(|news| {
            news.specified = specified;
            news.upstream = goal.upstream_address();
        });
        goal
    }

    /// Remembers the cluster that we belong to, so that we can report to it.
    fn join_cluster(&mut self, cluster: &ClusterData) -> Result<(), StateFileError> {
        let uid = &cluster.cluster.uid;
        if &self.shared.news.borrow().cluster_uid == uid {
            return Ok(());
        }
        let state = KeeperState { uid: self.shared.uid.clone(), cluster_uid: uid.clone() };
        store(&self.shared.settings.data_dir.join("keeperstate"), &state)?;
        self.shared.tell(|news| news.cluster_uid = uid.clone());
        Ok(())
    }

    /// Says what is about to be done, and what is wrong; each thing once.
    fn announce(&mut self, plan: &Plan) {
        let reasons: Vec<String> = plan.because.iter().map(ToString::to_string).collect();
        let generation = match &self.goal {
            Goal::Reach(goal) => goal.generation,
            Goal::LeaveAlone(_) | Goal::Stop(_) => 0,
        };
        if reasons != self.announced.reasons || generation != self.announced.generation {
            let db = self.local.uid.as_str();
            if reasons != self.announced.reasons {
                reasons.iter().for_each(|reason| tracing::info!(db, "{reason}"));
            }
            if reasons.is_empty() && plan.trouble.is_none() && generation != 0 {
                tracing::info!("postgres parameters not changed");
            }
            (self.announced.reasons, self.announced.generation) = (reasons, generation);
        }
        let problems: BTreeSet<String> =
            plan.parameter_problems.iter().chain(&self.memory.line_problems).cloned().collect();
        for problem in problems.difference(&self.announced.parameter_problems) {
            tracing::warn!("{problem}");
        }
        if let Goal::LeaveAlone(_) = self.goal {
            // Nothing was looked at, so nothing is known to be better.
            return;
        }
        let waits_for_restart = plan.restart == PendingRestart::Yes;
        self.shared.metrics.set_needs_restart(Flag::from(waits_for_restart));
        self.shared.tell(|news| {
            let list: Vec<String> = problems.iter().cloned().collect();
            news.activity.parameter_problems = (!list.is_empty()).then_some(list);
            news.activity.pending_restart = waits_for_restart;
        });
        self.announced.parameter_problems = problems;
    }

    /// A pass reached its end.
    fn finished(&mut self, plan: &Plan) -> Next {
        if let Some(trouble) = &plan.trouble {
            return self.troubled_by(&trouble.explained());
        }
        if let Goal::LeaveAlone(why @ (LeaveAlone::Unusable(_) | LeaveAlone::Impossible(_))) = &self.goal {
            return self.troubled_by(&Explained::new(why.to_string()));
        }
        self.backoff.reset();
        self.troubled = None;
        self.shared.readiness.set_ready();
        self.shared.tell(|news| news.activity.problem.clear());
        if matches!(self.goal, Goal::Reach(_)) {
            self.shared.metrics.sync_success_now();
        }
        if plan.restart == PendingRestart::Yes {
            self.memory.waiting_to_restart.get_or_insert_with(Instant::now);
        } else {
            self.memory.waiting_to_restart = None;
        }
        match plan.next_look {
            NextLook::Soon => Next::Soon,
            NextLook::Later => {
                self.memory.gated_since = None;
                Next::After(self.shared.pace().sleep)
            }
        }
    }

    fn failed(&mut self, error: &PassError) -> Next {
        let hint = match error {
            PassError::Postgres(error) => error.hint(),
            PassError::StateFile(_) | PassError::Refused(_) => None,
        };
        self.troubled_by(&Explained { sentence: error.to_string(), hint })
    }

    /// Says what is wrong, and when it will be tried again.
    fn troubled_by(&mut self, trouble: &Explained) -> Next {
        let pause = self.backoff.next_pause();
        let again = stolon_model::GoDuration::from(pause).to_string();
        let line = stolon_runtime::redact(&trouble.on_one_line()).to_string();
        if self.troubled.as_deref() == Some(line.as_str()) {
            tracing::warn!(try_again_in = %again, "still: {line}");
        } else {
            tracing::error!(try_again_in = %again, "{line}");
        }
        self.troubled = Some(line.clone());
        self.shared.readiness.set_not_ready(line.clone());
        self.shared.tell(|news| {
            news.activity.problem = line;
            news.activity.step.clear();
        });
        Next::After(pause)
    }

    pub(crate) fn goal(&self) -> &Goal {
        &self.goal
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// True when we are asked to be a standby.
    pub(crate) fn follows(&self) -> bool {
        matches!(&self.goal, Goal::Reach(goal) if matches!(goal.role, InstanceRole::Standby(_)))
    }

    pub(crate) fn restart_patience(&self) -> Patience {
        match self.memory.waiting_to_restart {
            Some(since) if since.elapsed() > RESTART_PATIENCE => Patience::Spent,
            _ => Patience::Left,
        }
    }

    pub(crate) fn show_roles(&self, local: Option<DataKind>) {
        let target = match &self.goal {
            Goal::Reach(goal) => Some(match goal.role {
                InstanceRole::Primary(_) => RoleLabel::Master,
                InstanceRole::Standby(_) => RoleLabel::Standby,
            }),
            Goal::Stop(_) => Some(RoleLabel::Undefined),
            // The last one that was asked for still counts.
            Goal::LeaveAlone(_) => None,
        };
        self.shared.metrics.set_roles(target, local.map_or(RoleLabel::Undefined, RoleLabel::from));
    }

    /// Writes down what the data directory holds.
    pub(crate) fn write_local(&mut self, local: LocalState) -> Result<(), StateFileError> {
        let state = InstanceState {
            uid: local.uid.clone(),
            generation: local.generation,
            initializing: local.initializing,
            init_pg_parameters: local.captured.clone(),
        };
        store(&self.shared.settings.data_dir.join("dbstate"), &state)?;
        self.set_local(local);
        Ok(())
    }

    fn set_local(&mut self, local: LocalState) {
        self.shared.tell(|news| {
            if let Some(state) = news.state.as_mut().filter(|_| news.instance != local.uid) {
                // What was seen was seen of another instance.
                state.healthy = false;
            }
            news.instance = local.uid.clone();
            news.generation = local.generation;
        });
        self.local = local;
    }
}

/// Whether the goal is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// It is.
    Yes,
    /// It asks the same of us.
    No,
}
