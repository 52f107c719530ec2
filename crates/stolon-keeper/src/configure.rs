//! Configuration files: asked about before they are written, and learned from when a start fails.

use stolon_core::keeper::{Config, ConfigMerge, Refusal, Step};
use stolon_model::Parameters;
use stolon_postgres::{Origin, PostgresError, RejectedSetting};

use crate::keeper::{Applied, Keeper, PassError};
use crate::translate;

/// Parameters whose values are made here and change with the topology: asking about them again finds nothing.
const MADE_HERE: [&str; 2] = ["synchronous_standby_names", "max_replication_slots"];

impl Keeper<'_> {
    /// Asks PostgreSQL itself about the configuration, then writes it. What it refuses is remembered, and planned
    /// around.
    pub(crate) async fn configure(
        &mut self,
        config: &Config,
        merge: ConfigMerge,
    ) -> Result<Applied, PassError> {
        let files = translate::files(config, &self.shared.postgres);
        let limit = self.request_limit();
        let subject = subject_of_check(config);
        if merge == ConfigMerge::WithExisting || self.memory.checked.as_ref() != Some(&subject) {
            let rejected =
                self.shared.postgres.check_settings(&files, translate::merge(merge), &limit).await?;
            if !rejected.is_empty() {
                return self.plan_around(config, merge, &rejected);
            }
            self.memory.checked = Some(subject);
        }
        self.shared.postgres.write_config(&files, translate::merge(merge), &limit).await?;
        self.memory.configured = Some(config.clone());
        Ok(Applied::Done)
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

    /// Remembers a refusal; true if it is news.
    fn refuse(&mut self, name: &str, value: &str, setting: Option<&RejectedSetting>) -> bool {
        let refusal = Refusal {
            value: value.to_owned(),
            instead: setting.and_then(|setting| setting.instead.clone()),
            sentence: match setting {
                Some(setting) => sentence(setting),
                None => format!("{name} = {value:?} is left out: PostgreSQL did not start with it"),
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
            .filter(|(name, value)| proven.parameters.get(*name) != Some(value))
            .filter(|(name, _)| !MADE_HERE.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let mut learned = false;
        for (name, value) in suspects {
            let instead = proven.parameters.get(&name).cloned();
            let sentence = format!("{name} = {value:?} is left out, PostgreSQL did not start with it: {why}");
            let refusal = Refusal { value, instead, sentence };
            learned |= self.memory.refusals.insert(name, refusal.clone()) != Some(refusal);
        }
        learned
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
        let exited = matches!(&error, PassError::Postgres(PostgresError::ServerExited { .. }));
        let configured = self.memory.configured.clone().filter(|_| exited);
        match configured {
            Some(config) if self.refuse_changes(&config, &error.to_string()) => Ok(Applied::Replan),
            _ => Err(error),
        }
    }
}

fn subject_of_check(config: &Config) -> Parameters {
    let mut subject = config.parameters.clone();
    subject.extend(config.recovery.parameters.iter().map(|(name, value)| (name.clone(), value.clone())));
    MADE_HERE.iter().for_each(|name| {
        subject.remove(*name);
    });
    subject
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
