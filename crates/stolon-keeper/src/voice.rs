//! What the machine says, in words: levels, fields and sentences of the log.

use stolon_core::condition::{ArchiverWords, DiskWords};
use stolon_core::keeper::{Ground, NoHandOver, Parting, Reason, RoleChange, Saying, ServerDeath, Step};
use stolon_model::GoDuration;
use stolon_runtime::Readiness;

/// Writes it into the log; a trouble also tells those who ask whether the keeper is ready.
pub(crate) fn say(saying: &Saying, readiness: &Readiness) {
    match saying {
        Saying::Reason { instance, reason } => reason_line(instance.as_str(), reason),
        Saying::NothingChanged => tracing::info!("postgres parameters not changed"),
        Saying::Begins(step) => begins(step),
        Saying::CallingOff => {
            tracing::info!("the cluster data asks for something else, calling off what is under way");
        }
        Saying::ServerDied(ServerDeath { status, explanation, .. }) => {
            tracing::error!(status, "postgres ended unexpectedly: {explanation}");
        }
        Saying::StartFailed(failure) => {
            tracing::error!(error = %failure.sentence, "failed to start postgres");
        }
        Saying::Trouble { sentence, again_in, repeated } => {
            let again = GoDuration::from(*again_in).to_string();
            match repeated {
                true => tracing::warn!(try_again_in = %again, "still: {sentence}"),
                false => tracing::error!(try_again_in = %again, "{sentence}"),
            }
            readiness.set_not_ready(sentence.clone());
        }
        Saying::ParameterProblem(problem) => tracing::warn!("{problem}"),
        Saying::SlotCreated(slot) => tracing::info!(slot, "replication slot created"),
        Saying::SlotDropped(slot) => tracing::info!(slot, "replication slot dropped"),
        Saying::SlotLetGo(slot, held_bytes) => {
            tracing::warn!(
                slot,
                held_bytes,
                "nobody uses this replication slot and it held more WAL than maxSlotWalKeepSize: it is made anew, and its standby copied if \
                 it lacks WAL then"
            );
        }
        Saying::SlotKept(slot, why) => {
            tracing::warn!(slot, why, "replication slot not changed, trying again")
        }
        Saying::SlotsFailed(failure) => {
            tracing::warn!(error = %failure.sentence, "the replication slots are left as they are, trying again");
        }
        Saying::Role(change, role) => role_line(*change, role),
        Saying::SessionsEnded(sessions) => tracing::warn!(sessions, "ended the sessions of clients"),
        Saying::SetAside { instance, path } => tracing::warn!(
            kept = %path,
            "the data of db {instance} of another cluster were set aside: this cluster was made without stolonctl init, so nobody \
             agreed to overwrite them; delete them when you are sure that nobody needs them"
        ),
        Saying::Promoted => tracing::info!("postgres is promoted"),
        Saying::GenerationReached(db, generation) => tracing::info!(%db, generation, "generation reached"),
        Saying::NoAnswer(error) => tracing::warn!(%error, "cannot get pg state, reporting it as unhealthy"),
        Saying::DiskTrouble(disk) => tracing::error!("{}", DiskWords(disk)),
        Saying::DiskWorksAgain => tracing::info!("the disk takes what is written again"),
        Saying::ArchiverTrouble(archiver) => tracing::error!("{}", ArchiverWords(archiver)),
        Saying::ArchiverWorksAgain => tracing::info!("WAL gets to the archive again"),
        Saying::AnswersAgain => tracing::info!("postgres answers again"),
        Saying::LookTakesLong => tracing::warn!("postgres takes long to answer, reporting it as unhealthy"),
        Saying::VersionUnknown(error) => {
            tracing::warn!(%error, "cannot find out the version of the postgres binaries");
        }
        Saying::VersionNewer(version) => tracing::warn!(
            "PostgreSQL {version} is newer than this keeper knows: it is run like PostgreSQL {}, and parameters that changed since are \
             not checked",
            stolon_core::settings::MAJORS.end()
        ),
        Saying::DemandsUnknown(program) => tracing::warn!(
            "there is no {program}: which limits the data demand of max_connections and its kin is not known, and PostgreSQL itself \
             will tell if one is too low"
        ),
        Saying::ReceivesNoWal(sentence) => tracing::warn!("{sentence}"),
        Saying::ReceivesWalAgain => tracing::info!("the standby receives WAL again"),
        Saying::UpstreamRefuses(address) => {
            tracing::warn!(%address, "the instance that this standby follows refuses connections");
        }
        Saying::Pledges { term, primary } => tracing::warn!(
            term = %GoDuration::from(*term), %primary,
            "the store is away: pledging to the keeper of the primary that this instance is not promoted"
        ),
        Saying::AwaitsPledge { remaining } => tracing::info!(
            remaining = %GoDuration::from(*remaining),
            "the promotion waits for the end of what was pledged to the keeper of the former primary"
        ),
        Saying::VouchedFor => tracing::warn!(
            "the store is away: proxies go on to this primary for as long as the keepers of all other instances pledge not to promote them"
        ),
        Saying::VouchedForNoMore => tracing::error!(
            "the store is away, and a keeper of another instance does not pledge any more: proxies close"
        ),
        Saying::ReportRefused(error) => tracing::error!(%error, "failed to update keeper info"),
        Saying::NotSaved(kind, error) => {
            tracing::error!(%error, "cannot write the file of {kind}, trying again");
        }
        Saying::PerhapsNamesake { within } => tracing::info!(
            ?within,
            "the store holds a report under our uid that is not ours: waiting whether its writer lives"
        ),
        Saying::CannotLookForNamesake(error) => {
            tracing::warn!(%error, "cannot look for another keeper with our uid, trying again");
        }
        Saying::HandsOver { within } => tracing::info!(
            within = %GoDuration::from(*within),
            "told to end: asking for another keeper to take over the primary first; a second signal ends the waiting"
        ),
        Saying::AwaitsHeir(why) => {
            tracing::info!("waiting for another keeper that can take over the primary: {why}");
        }
        Saying::NoHandOver(NoHandOver::NoPrimary) => {}
        Saying::NoHandOver(why) => tracing::info!("the primary is not handed over: {why}"),
        Saying::Parts(Parting::Relieved) => tracing::info!("another keeper has the primary"),
        Saying::Parts(why) => tracing::warn!("the primary was not handed over: {why}"),
    }
}

fn reason_line(db: &str, reason: &Reason) {
    tracing::info!(db, "{reason}");
}

fn role_line(change: RoleChange, role: &str) {
    match change {
        RoleChange::ReplicationAddedToSuperuser => tracing::info!("replication role added to superuser"),
        RoleChange::SuperuserPasswordSet => tracing::info!("superuser password set"),
        RoleChange::ReplicationRoleCreated => tracing::info!(role, "replication role created"),
        RoleChange::RewindRoleCreated => tracing::info!("rewind role created"),
    }
}

/// Steps whose beginning people wait for.
fn begins(step: &Step) {
    match step {
        Step::Stop | Step::HandOver => tracing::info!("stopping database"),
        Step::Kill => tracing::warn!(
            "the database must not serve any more, and its disk hangs: ending it at once, so that nothing is acknowledged when the disk is back"
        ),
        Step::Wipe(warrant) => {
            let (db, interrupted) = (warrant.instance(), warrant.ground() == Ground::HalfMade);
            tracing::info!(%db, interrupted, "removing the data directory");
        }
        Step::BaseBackup { upstream, warrant, .. } => {
            tracing::info!(db = %warrant.instance(), source = %upstream.host, "running pg_basebackup");
        }
        Step::Rewind { upstream, warrant } => {
            tracing::info!(db = %warrant.instance(), source = %upstream.host, "running pg_rewind");
        }
        _ => {}
    }
}
