//! The sampler: looks at PostgreSQL twice in each interval, and whenever something happened to it; then more often for a
//! while, since what was begun shows its effect a little later.

use std::time::Duration;

use stolon_core::keeper::{Answer, Data, WalReceiver, reported_parameters, with_what_was_left_out};
use stolon_model::PostgresState;
use stolon_postgres::{Limit, PostgresError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Flag;
use crate::shared::Shared;

/// Between looks while what was begun may yet show its effect: a standby that was given another primary streams from it
/// some tens or hundreds of milliseconds later, and synchronous commits wait until the sentinel knows that.
const SOON: Duration = Duration::from_millis(50);
/// How long that may take.
const SOON_LASTS: Duration = Duration::from_secs(2);

/// Runs until `stop`.
pub(crate) async fn run(shared: &Shared, stop: &CancellationToken) {
    let mut server = shared.postgres.server();
    let mut happened = Instant::now();
    let mut ailments = Ailments::default();
    loop {
        look(shared, &mut ailments, stop).await;
        let usual = shared.pace().sleep / 2;
        let pause = if happened.elapsed() < SOON_LASTS { usual.min(SOON) } else { usual };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // The channel lives as long as `shared`, so that an error cannot be.
            _ = server.changed() => happened = Instant::now(),
            () = shared.look.notified() => happened = Instant::now(),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One look; what it finds becomes news. A look that takes too long is bad news by itself.
async fn look(shared: &Shared, ailments: &mut Ailments, stop: &CancellationToken) {
    let pace = shared.pace();
    let mut work = std::pin::pin!(state(shared, ailments, pace.request, stop));
    let overdue = Instant::now() + pace.sleep;
    let state = tokio::select! {
        state = &mut work => state,
        () = tokio::time::sleep_until(overdue) => {
            tracing::warn!("postgres takes long to answer, reporting it as unhealthy");
            publish(shared, |state| state.healthy = false);
            work.await
        }
    };
    if stop.is_cancelled() {
        return;
    }
    shared.metrics.set_healthy(Flag::from(state.healthy));
    publish(shared, |published| *published = state);
}

fn publish(shared: &Shared, change: impl FnOnce(&mut PostgresState)) {
    shared.tell(|news| change(news.state.get_or_insert_default()));
}

/// What is known: the fields that could not be found out keep their zero values, and `healthy` stays false.
async fn state(
    shared: &Shared,
    ailments: &mut Ailments,
    timeout: Duration,
    stop: &CancellationToken,
) -> PostgresState {
    let limit = Limit::within(timeout, stop);
    let mut state = PostgresState::default();
    match shared.postgres.version(&limit).await {
        Ok(version) => shared.tell(|news| news.version = version.into()),
        Err(error) if error.is_cancelled() => {}
        Err(error) => tracing::warn!(%error, "cannot find out the version of the postgres binaries"),
    }
    let running = shared.postgres.server().borrow().is_running();
    let facts = shared.postgres.facts();
    let is_instance = matches!(facts, Ok(Data::Present(_)));
    let nothing = matches!(facts, Ok(Data::Absent));
    shared.tell(|news| news.data_is_gone = nothing && !running);
    if !running || !is_instance || shared.postgres.says_starting() {
        ailments.note(shared, None);
        return state;
    }
    match shared.postgres.sample(&limit).await {
        Ok(sample) => {
            ailments.note(shared, Some(&sample));
            fill(shared, &mut state, sample);
        }
        Err(error) if error.is_cancelled() => {}
        Err(error) => ailments.no_answer(&error),
    }
    state
}

/// What was found wrong by the last looks: whether the server answers, and whether a standby receives WAL. PostgreSQL itself is
/// healthy without, and tries again for ever.
#[derive(Default)]
struct Ailments {
    since: Option<Instant>,
    unanswered: bool,
}

impl Ailments {
    /// The server runs and says nothing: once for all looks in a row, since those that follow would say the same.
    fn no_answer(&mut self, error: &PostgresError) {
        if std::mem::replace(&mut self.unanswered, true) {
            tracing::debug!(%error, "cannot get pg state");
        } else {
            tracing::warn!(%error, "cannot get pg state, reporting it as unhealthy");
        }
    }

    /// Twice the interval, since a standby that changes its primary, or whose primary restarts, may well wait a moment.
    fn note(&mut self, shared: &Shared, sample: Option<&Answer>) {
        if sample.is_some() && std::mem::take(&mut self.unanswered) {
            tracing::info!("postgres answers again");
        }
        let upstream = shared.news.borrow().upstream.clone();
        let sentence = match upstream.filter(|_| {
            sample.is_some_and(|sample| sample.in_recovery && sample.receiver != WalReceiver::Streaming)
        }) {
            Some(upstream) => {
                let since = *self.since.get_or_insert_with(Instant::now);
                (since.elapsed() > shared.pace().sleep * 2).then(|| {
                    let words = shared.postgres.replication_failure();
                    let why = words.map(|words| format!(": {words}")).unwrap_or_default();
                    format!("the standby receives no WAL from {upstream}{why}")
                })
            }
            None => {
                self.since = None;
                None
            }
        };
        let sentence = sentence.unwrap_or_default();
        let before = shared.news.borrow().activity.replication_problem.clone();
        if before == sentence {
            return;
        }
        match sentence.as_str() {
            "" => tracing::info!("the standby receives WAL again"),
            sentence => tracing::warn!("{sentence}"),
        }
        shared.tell(|news| news.activity.replication_problem = sentence);
    }
}

fn fill(shared: &Shared, state: &mut PostgresState, sample: Answer) {
    let in_sync = match sample.in_recovery {
        true => Vec::new(),
        false => shared.in_sync(&sample.synchronous_standby_names, &sample.replication, sample.lsn),
    };
    let specified = shared.news.borrow().specified.clone();
    let is_specified = |name: &str| specified.keys().any(|key| key.eq_ignore_ascii_case(name));
    let reported = reported_parameters(&sample.configured_parameters, is_specified);
    state.pg_parameters = Some(with_what_was_left_out(reported, &specified));
    state.synchronous_standbys = Some(in_sync);
    state.system_identifier = sample.system_identifier;
    state.timeline = sample.timeline;
    state.lsn = sample.lsn;
    let first = sample.history.len().saturating_sub(2);
    let history = sample.history[first..].to_vec();
    state.timelines_history = (!history.is_empty()).then_some(history);
    state.older_wal_file = sample.older_wal_file;
    state.healthy = true;
}
