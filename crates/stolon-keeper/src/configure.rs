//! Configuration files: asked about before they are written, and learned from when a start fails.

use std::path::Path;
use std::time::Duration;

use stolon_core::keeper::{
    Config, ConfigMerge, HbaLine, Live, Observation, Origin, Refusal, RefusalGround, Refusals,
    RejectedSetting, Step, plan,
};
use stolon_core::postgres::is_made_here;
use stolon_model::Parameters;
use stolon_postgres::{PostgresError, refused_hba_lines};
use tokio::time::Instant;

use crate::keeper::{Applied, Keeper, PassError};
use crate::state_files::replace;

/// File in the data directory with the parameters that PostgreSQL last came up with.
const PROVEN: &str = "proven-parameters.json";

/// Between questions about settings that were refused.
const RECONSIDER_INTERVAL: Duration = Duration::from_secs(30);
/// Only a start can tell whether these are right now, so they wait for another value.
const DID_NOT_START: &str = "PostgreSQL did not start with it";

impl Keeper<'_> {
    /// Asks PostgreSQL itself about the configuration, then writes it. What it refuses is remembered, and planned
    /// around.
    pub(crate) async fn configure(
        &mut self,
        config: &Config,
        merge: ConfigMerge,
    ) -> Result<Applied, PassError> {
        let limit = self.request_limit();
        let subject = Checked::of(config);
        if merge == ConfigMerge::WithExisting || !self.memory.checked.covers(&subject) {
            let rejected = self.shared.postgres.check_settings(config, merge, &limit).await?;
            if !rejected.is_empty() {
                return self.plan_around(config, merge, &rejected);
            }
            self.memory.checked = subject;
        }
        if self.memory.configured.as_ref().is_some_and(|before| before.parameters != config.parameters) {
            self.memory.refused_hba.clear();
        }
        self.shared.postgres.write_config(config, merge, &limit).await?;
        self.memory.configured = Some(config.clone());
        Ok(Applied::Done)
    }

    /// From time to time refused settings are asked about again: a missing file or library may be there now.
    pub(crate) async fn reconsider_refusals(&mut self, seen: &mut Observation) {
        let due = self.memory.reconsidered.is_none_or(|last| last.elapsed() > RECONSIDER_INTERVAL);
        if self.memory.refusals.is_empty() || !self.memory.suspects.is_empty() || !due {
            return;
        }
        if self.memory.reconsidered.replace(Instant::now()).is_none() {
            return;
        }
        let without = Observation { refusals: Refusals::new(), ..seen.clone() };
        let config = plan(self.goal(), &without).steps.into_iter().find_map(|step| match step {
            Step::Configure { config, merge: ConfigMerge::Replace } => Some(config),
            _ => None,
        });
        let Some(config) = config else { return };
        let Ok(rejected) =
            self.shared.postgres.check_settings(&config, ConfigMerge::Replace, &self.request_limit()).await
        else {
            return;
        };
        let still = |name: &str| rejected.iter().any(|setting| setting.name.eq_ignore_ascii_case(name));
        let unproven = |refusal: &Refusal| refusal.ground == RefusalGround::DidNotStart;
        self.memory.refusals.retain(|name, refusal| still(name) || unproven(refusal));
        seen.refusals = self.memory.refusals.clone();
    }

    fn plan_around(
        &mut self,
        config: &Config,
        merge: ConfigMerge,
        rejected: &[RejectedSetting],
    ) -> Result<Applied, PassError> {
        let mut learned = false;
        let mut in_foreign_files = Vec::new();
        for setting in rejected {
            let missing_library = setting.instead.is_some();
            match &setting.origin {
                // Data that was restored needs its libraries; leaving them out would start it half.
                Origin::Parameters | Origin::ExistingFile { .. }
                    if missing_library && merge == ConfigMerge::WithExisting =>
                {
                    return Err(PassError::Refused(sentence(setting)));
                }
                Origin::Parameters => learned |= self.refuse(&setting.name, &setting.value, Some(setting)),
                Origin::ExistingFile { .. } => in_foreign_files.push(setting.clone()),
                Origin::Recovery => return Err(PassError::Refused(sentence(setting))),
                Origin::Unknown => {
                    let (name, instead) =
                        (setting.message.as_str(), self.refuse_changes(config, &setting.message));
                    if !instead {
                        return Err(PassError::Refused(format!(
                            "PostgreSQL refuses its configuration: {name}"
                        )));
                    }
                    learned = true;
                }
            }
        }
        if !in_foreign_files.is_empty() {
            for setting in &in_foreign_files {
                tracing::warn!("{}", sentence(setting));
            }
            self.shared.postgres.comment_out(&in_foreign_files)?;
            learned = true;
        }
        match learned {
            true => Ok(Applied::Replan),
            false => {
                let sentences: Vec<String> = rejected.iter().map(sentence).collect();
                Err(PassError::Refused(sentences.join("; ")))
            }
        }
    }

    /// Remembers lines of `pgHBA` that were refused, by their number in the file (from 1); true if that is news.
    pub(crate) fn refuse_hba_lines(&mut self, refused: impl IntoIterator<Item = (u32, String)>) -> bool {
        let Some(config) = &self.memory.configured else { return false };
        let entries = config.hba.iter().flat_map(|line| match line {
            HbaLine::Verbatim(text) => vec![Some(text); text.split('\n').count()],
            HbaLine::Rule(_) => vec![None],
        });
        let entries: Vec<Option<&String>> = entries.collect();
        let mut learned = false;
        for (number, why) in refused {
            let at = (number as usize).checked_sub(1);
            if let Some(text) = at.and_then(|at| *entries.get(at)?) {
                learned |= self.memory.refused_hba.insert(text.clone(), why).is_none();
            }
        }
        learned
    }

    /// Remembers a refusal; true if it is news.
    fn refuse(&mut self, name: &str, value: &str, setting: Option<&RejectedSetting>) -> bool {
        let refusal = Refusal {
            value: value.to_owned(),
            ground: RefusalGround::Asked,
            instead: setting.and_then(|setting| setting.instead.clone()),
            sentence: match setting {
                Some(setting) => sentence(setting),
                None => format!("{name} = {value:?} is left out: {DID_NOT_START}"),
            },
        };
        let name = name.to_ascii_lowercase();
        let known = self.memory.refusals.get(&name) == Some(&refusal);
        self.memory.refusals.insert(name, refusal);
        !known
    }

    /// Refuses what is new since a server last came up; true if there is anything new.
    fn refuse_changes(&mut self, config: &Config, why: &str) -> bool {
        let Some(proven) = self.memory.proven.clone() else { return false };
        let suspects: Vec<(String, String)> = config
            .parameters
            .iter()
            .filter(|(name, value)| proven.get(*name) != Some(value))
            .filter(|(name, _)| !is_made_here(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let mut learned = false;
        for (name, value) in suspects {
            let instead = proven.get(&name).cloned();
            let sentence = format!("{name} = {value:?} is left out, {DID_NOT_START}: {why}");
            let refusal = Refusal { value, instead, sentence, ground: RefusalGround::DidNotStart };
            self.memory.suspects.push(name.clone());
            learned |= self.memory.refusals.insert(name, refusal.clone()) != Some(refusal);
        }
        learned
    }

    /// A server that answers runs with what it was given, apart from what waits for a restart. That is written
    /// down, so that a value which PostgreSQL cannot start with can be taken back by the next keeper, too.
    pub(crate) fn remember_proven(&mut self, live: &Live) {
        let Some(applied) = &self.memory.applied else { return };
        self.memory.suspects.clear();
        let mut proven = applied.parameters.clone();
        for name in &live.pending_restart {
            match self.memory.proven.as_ref().and_then(|before| before.get(name)) {
                Some(value) => proven.insert(name.clone(), value.clone()),
                None => proven.remove(name),
            };
        }
        if self.memory.proven.as_ref() == Some(&proven) {
            return;
        }
        let path = self.shared.settings.data_dir.join(PROVEN);
        let text = serde_json::to_vec(&proven).unwrap_or_default();
        if let Err(error) = replace(&path, &text) {
            tracing::warn!(%error, "cannot write {}", path.display());
        }
        self.memory.proven = Some(proven);
    }

    /// What a failed step teaches.
    pub(crate) fn explain_failure(&mut self, step: &Step, error: PassError) -> Result<Applied, PassError> {
        if matches!(&error, PassError::Postgres(error) if error.is_cancelled()) {
            return Err(error);
        }
        let starting = matches!(step, Step::Start(_) | Step::WaitReady(_) | Step::WaitRecoveryEnd(_));
        if !starting {
            return Err(error);
        }
        tracing::error!(%error, "failed to start postgres");
        if self.local.initializing {
            self.memory.attempt.start_failed();
            return Err(error);
        }
        if let PassError::Postgres(PostgresError::ServerExited { tail, explanation, .. }) = &error {
            let lines = refused_hba_lines(tail).into_iter().map(|line| (line, explanation.clone()));
            if self.refuse_hba_lines(lines) {
                return Ok(Applied::Replan);
            }
        }
        let exited = matches!(&error, PassError::Postgres(PostgresError::ServerExited { .. }));
        if !self.memory.suspects.is_empty() {
            // Without them it does not start either: they are innocent.
            for name in std::mem::take(&mut self.memory.suspects) {
                self.memory.refusals.remove(&name);
            }
            return Err(error);
        }
        let configured = self.memory.configured.clone().filter(|_| exited);
        match configured {
            Some(config) if self.refuse_changes(&config, &error.to_string()) => Ok(Applied::Replan),
            _ => Err(error),
        }
    }
}

/// What an earlier keeper wrote down; a file that cannot be read proves nothing.
pub(crate) fn proven_parameters(data_dir: &Path) -> Option<Parameters> {
    serde_json::from_slice(&std::fs::read(data_dir.join(PROVEN)).ok()?).ok()
}

/// What PostgreSQL was asked about and found nothing wrong with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    parameters: Parameters,
    recovery: Parameters,
}

impl Checked {
    fn of(config: &Config) -> Self {
        let mut parameters = config.parameters.clone();
        parameters.retain(|name, _| !is_made_here(name));
        Checked { parameters, recovery: config.recovery.parameters.clone() }
    }

    /// Recovery settings that go away cannot be refused, which keeps a promotion short.
    fn covers(&self, subject: &Checked) -> bool {
        self.parameters == subject.parameters
            && (subject.recovery.is_empty() || self.recovery == subject.recovery)
    }
}

fn sentence(setting: &RejectedSetting) -> String {
    let RejectedSetting { name, value, message, instead, origin } = setting;
    let place = match origin {
        Origin::ExistingFile { path, line } => format!(" in {path} line {line}"),
        _ => String::new(),
    };
    match instead {
        Some(instead) => {
            format!("{name} = {value:?}{place} cannot be used as it is ({instead:?} can): {message}")
        }
        None => format!("{name} = {value:?}{place} is left out: {message}"),
    }
}
