//! Signals, and the frame around a program.

use std::process::ExitCode;

use stolon_model::Explained;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::usage::{UsageError, explained};
use crate::{Program, logging};

/// Tells the parts of a program that it must stop.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    stop: CancellationToken,
    escalate: CancellationToken,
    insist: CancellationToken,
}

impl Shutdown {
    /// Cancelled by the first SIGINT or SIGTERM: stop in good order.
    pub fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Cancelled by the second SIGINT or SIGTERM: stop now.
    pub fn escalated(&self) -> CancellationToken {
        self.escalate.clone()
    }

    /// Cancelled by the third SIGINT or SIGTERM, for a program whose stop has one stage more.
    pub fn insisted(&self) -> CancellationToken {
        self.insist.clone()
    }

    /// What a signal does: the first call stops, the second one escalates, the third one insists.
    pub fn request(&self) {
        let next = [&self.stop, &self.escalate, &self.insist].into_iter().find(|token| !token.is_cancelled());
        if let Some(token) = next {
            token.cancel();
        }
    }
}

/// Run a program on a runtime of one thread. SIGINT and SIGTERM are handled from the very first moment, also
/// where the parent process left them ignored, so parse the flags inside `body`. For `stolonctl` and the
/// keeper, SIGHUP is one of them: what they run belongs to their terminal, and must not outlive them. Under `nohup` it stays ignored.
///
/// An error ends the program: [`UsageError`] with status 2, everything else with status 1. Daemons write it as
/// a line of level FATAL once logging was set up; `stolonctl` prints it bare.
pub fn run<F>(program: Program, body: F) -> ExitCode
where
    F: AsyncFnOnce(Shutdown) -> anyhow::Result<ExitCode>,
{
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{}: cannot start: {error}", program.name());
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        let shutdown = Shutdown::default();
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        tokio::spawn(follow_signals(interrupt, "SIGINT", shutdown.clone()));
        tokio::spawn(follow_signals(terminate, "SIGTERM", shutdown.clone()));
        if matches!(program, Program::Ctl | Program::Keeper) && !is_ignored(SignalKind::hangup()) {
            let hangup = signal(SignalKind::hangup())?;
            tokio::spawn(follow_signals(hangup, "SIGHUP", shutdown.clone()));
        }
        body(shutdown).await
    });
    // A name lookup or a read of stdin may hang in a helper thread, and is not waited for.
    runtime.shutdown_background();
    outcome.unwrap_or_else(|error| report(program, &error))
}

async fn follow_signals(mut signals: Signal, name: &'static str, shutdown: Shutdown) {
    while signals.recv().await.is_some() {
        tracing::info!(signal = name, "signal received");
        shutdown.request();
    }
}

/// Whether the parent process wants this process to outlive a signal, as `nohup` does (proc(5), `SigIgn`).
fn is_ignored(kind: SignalKind) -> bool {
    let status = procfs::process::Process::myself().and_then(|process| process.status());
    let mask = status.map_or(0, |status| status.sigign);
    mask >> (kind.as_raw_value() - 1) & 1 == 1
}

fn report(program: Program, error: &anyhow::Error) -> ExitCode {
    show(program, &explained(error));
    match error.is::<UsageError>() {
        true => ExitCode::from(2),
        false => ExitCode::FAILURE,
    }
}

/// Tell a person why the program ends.
pub(crate) fn show(program: Program, explained: &Explained) {
    if program != Program::Ctl && logging::is_set_up() {
        return logging::fatal(&explained.sentence, explained.hint.as_deref());
    }
    eprintln!("{}", logging::redact(&explained.sentence));
    if let Some(hint) = &explained.hint {
        eprintln!("hint: {hint}");
    }
}
