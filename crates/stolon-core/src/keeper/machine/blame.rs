//! Who is to blame when PostgreSQL does not take its configuration.
//!
//! The binaries are asked before anything is written; what they refuse is left out. What only a start can tell is found by
//! comparison: if a server does not come up, what changed since one last came up is under suspicion, and left out. If it does not
//! come up without either, the suspects are innocent.

use std::collections::BTreeMap;
use std::time::Duration;

use stolon_model::Parameters;

use crate::keeper::hba::HbaLine;
use crate::keeper::observation::Config;
use crate::keeper::outcome::{
    ConfigFile, DeathCause, FailureKind, LineProblem, Origin, RejectedSetting, ServerDeath, StepFailure,
};
use crate::keeper::parameters::{Refusal, RefusalGround, Refusals};
use crate::keeper::step::ConfigMerge;
use crate::postgres::is_made_here;

/// Between questions about settings that were refused.
const RECONSIDER_INTERVAL: Duration = Duration::from_secs(30);

/// What is known of the configuration: written, in force, proven, refused.
#[derive(Debug, Default)]
pub(super) struct Blame {
    /// Written last, for the next start or reload.
    configured: Option<Config>,
    /// What the running server was given.
    applied: Option<Config>,
    /// The files hold something else than what the server was given, which it reads as soon as anybody has it read them.
    is_unread: bool,
    /// What the binaries last found nothing wrong with.
    checked: Checked,
    /// The parameters that a server last came up with.
    proven: Option<Parameters>,
    refusals: Refusals,
    /// Lines of `pgHBA` that were refused, with PostgreSQL's words, until the parameters change.
    refused_hba: BTreeMap<String, String>,
    /// Refused because the server did not start with them; not yet confirmed by a start without them.
    suspects: Vec<String>,
    /// Lines that the running server did not take.
    line_problems: Vec<String>,
    reconsidered: Option<Duration>,
}

/// What an answer or a failure means for the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is nothing against it.
    Accepted,
    /// Something was learned: plan again.
    Replan,
    /// Something was learned, and these lines of files that came with the data have to go.
    CommentOut(Vec<RejectedSetting>),
    /// Nothing was learned, or nothing can be left out: one sentence.
    Refused(String),
}

impl Blame {
    /// What an earlier keeper wrote down as proven, if it did.
    pub(super) fn new(proven: Option<Parameters>) -> Self {
        Blame { proven, ..Self::default() }
    }

    /// Whether the binaries have to be asked about this configuration before it is written.
    pub(super) fn must_ask(&self, config: &Config, merge: ConfigMerge) -> bool {
        merge == ConfigMerge::WithExisting || !self.checked.covers(&Checked::of(config))
    }

    /// The binaries were asked about `config`, and refuse this.
    pub(super) fn answered(
        &mut self,
        config: &Config,
        merge: ConfigMerge,
        rejected: &[RejectedSetting],
    ) -> Verdict {
        if rejected.is_empty() {
            self.checked = Checked::of(config);
            return Verdict::Accepted;
        }
        let mut learned = false;
        let mut in_foreign_files = Vec::new();
        for setting in rejected {
            match &setting.origin {
                // Data that was restored needs its libraries; leaving them out would start it half.
                Origin::Parameters | Origin::ExistingFile { .. }
                    if setting.instead.is_some() && merge == ConfigMerge::WithExisting =>
                {
                    return Verdict::Refused(sentence(setting));
                }
                Origin::Parameters => learned |= self.refuse(setting),
                Origin::ExistingFile { .. } => in_foreign_files.push(setting.clone()),
                Origin::Recovery => return Verdict::Refused(sentence(setting)),
                Origin::Unknown if self.suspect_changes(config, &setting.message) => learned = true,
                Origin::Unknown => {
                    return Verdict::Refused(format!(
                        "PostgreSQL refuses its configuration: {}",
                        setting.message
                    ));
                }
            }
        }
        match (in_foreign_files.is_empty(), learned) {
            (false, _) => Verdict::CommentOut(in_foreign_files),
            (true, true) => Verdict::Replan,
            (true, false) => Verdict::Refused(rejected.iter().map(sentence).collect::<Vec<_>>().join("; ")),
        }
    }

    /// The files hold this now.
    pub(super) fn written(&mut self, config: &Config) {
        if self.configured.as_ref().is_some_and(|before| before.parameters != config.parameters) {
            self.refused_hba.clear();
        }
        self.is_unread |= self.applied.as_ref() != Some(config);
        self.configured = Some(config.clone());
    }

    /// Some of the files may hold something else now.
    pub(super) fn half_written(&mut self) {
        self.is_unread = true;
    }

    /// A server was started with the files.
    pub(super) fn started(&mut self) {
        (self.applied, self.is_unread) = (self.configured.clone(), false);
        self.line_problems.clear();
    }

    /// None runs.
    pub(super) fn stopped(&mut self) {
        (self.applied, self.is_unread) = (None, false);
    }

    /// The server has read the files again, and did not take these lines.
    pub(super) fn reloaded(&mut self, problems: &[LineProblem]) -> Verdict {
        self.line_problems = problems.iter().map(line_sentence).collect();
        (self.applied, self.is_unread) = (self.configured.clone(), false);
        let refused = problems.iter().filter(|problem| problem.file == ConfigFile::Hba);
        match self.refuse_hba_lines(refused.map(|problem| (problem.line, problem.error.clone()))) {
            true => Verdict::Replan,
            false => Verdict::Accepted,
        }
    }

    /// A server answers: it runs with what it was given, apart from what waits for a restart. Returns the parameters if they are to be
    /// written down, so that a value which PostgreSQL cannot start with can be taken back by the next keeper, too.
    pub(super) fn came_up(&mut self, pending_restart: &[String]) -> Option<Parameters> {
        let applied = self.applied.as_ref()?;
        self.suspects.clear();
        let mut proven = applied.parameters.clone();
        for name in pending_restart {
            match self.proven.as_ref().and_then(|before| before.get(name)) {
                Some(value) => proven.insert(name.clone(), value.clone()),
                None => proven.remove(name),
            };
        }
        if self.proven.as_ref() == Some(&proven) {
            return None;
        }
        self.proven = Some(proven.clone());
        Some(proven)
    }

    /// A complete instance did not start, or did not come up.
    pub(super) fn did_not_start(&mut self, failure: &StepFailure) -> Verdict {
        let refused = Verdict::Refused(failure.sentence.clone());
        let death = match &failure.kind {
            FailureKind::ServerExited(death) => Some(death),
            _ => None,
        };
        if let Some(ServerDeath { cause: DeathCause::HbaLines(lines), explanation, .. }) = death
            && self.refuse_hba_lines(lines.iter().map(|line| (*line, explanation.clone())))
        {
            return Verdict::Replan;
        }
        if !self.suspects.is_empty() {
            // Without them it does not start either: they are innocent.
            for name in std::mem::take(&mut self.suspects) {
                self.refusals.remove(&name);
            }
            return refused;
        }
        let is_settings = death.is_some_and(|death| death.cause == DeathCause::Other);
        match self.configured.clone().filter(|_| is_settings) {
            Some(config) if self.suspect_changes(&config, &failure.sentence) => Verdict::Replan,
            _ => refused,
        }
    }

    /// From time to time refused settings are asked about again: a missing file or library may be there now. True once when
    /// that time has come.
    pub(super) fn wants_to_reconsider(&mut self, now: Duration) -> bool {
        if self.refusals.is_empty() || !self.suspects.is_empty() {
            return false;
        }
        match self.reconsidered {
            Some(last) if now.saturating_sub(last) > RECONSIDER_INTERVAL => {
                self.reconsidered = Some(now);
                true
            }
            Some(_) => false,
            None => {
                self.reconsidered = Some(now);
                false
            }
        }
    }

    /// The binaries were asked about everything that is wanted, and still refuse this. What only a start can tell waits for another
    /// value.
    pub(super) fn reconsidered(&mut self, rejected: &[RejectedSetting]) {
        let still = |name: &str| rejected.iter().any(|setting| setting.name.eq_ignore_ascii_case(name));
        self.refusals.retain(|name, refusal| still(name) || refusal.ground == RefusalGround::DidNotStart);
    }

    /// What the running server works with; none when that is not known.
    pub(super) fn applied(&self) -> Option<&Config> {
        self.applied.as_ref().filter(|_| !self.is_unread)
    }

    /// Settings that are left out.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Lines of `pgHBA` that are left out.
    pub(super) fn refused_hba(&self) -> &BTreeMap<String, String> {
        &self.refused_hba
    }

    /// Lines that the running server did not take, one sentence each.
    pub(super) fn line_problems(&self) -> &[String] {
        &self.line_problems
    }

    /// Remembers lines of `pgHBA` that were refused, by their number in the file (from 1); true if that is news.
    fn refuse_hba_lines(&mut self, refused: impl IntoIterator<Item = (u32, String)>) -> bool {
        let Some(config) = &self.configured else { return false };
        let entries = config.hba.iter().flat_map(|line| match line {
            HbaLine::Verbatim(text) => vec![Some(text); text.split('\n').count()],
            HbaLine::Rule(_) => vec![None],
        });
        let entries: Vec<Option<&String>> = entries.collect();
        let mut learned = false;
        for (number, why) in refused {
            let at = (number as usize).checked_sub(1);
            if let Some(text) = at.and_then(|at| *entries.get(at)?) {
                learned |= self.refused_hba.insert(text.clone(), why).is_none();
            }
        }
        learned
    }

    /// Remembers a refusal; true if it is news.
    fn refuse(&mut self, setting: &RejectedSetting) -> bool {
        let refusal = Refusal {
            value: setting.value.clone(),
            instead: setting.instead.clone(),
            ground: RefusalGround::Asked,
            sentence: sentence(setting),
        };
        let name = setting.name.to_ascii_lowercase();
        self.refusals.insert(name, refusal.clone()) != Some(refusal)
    }

    /// Suspects what is new since a server last came up; true if there is anything new.
    fn suspect_changes(&mut self, config: &Config, why: &str) -> bool {
        let Some(proven) = self.proven.clone() else { return false };
        let changed = config
            .parameters
            .iter()
            .filter(|(name, value)| proven.get(*name) != Some(value))
            .filter(|(name, _)| !is_made_here(name));
        let mut learned = false;
        for (name, value) in changed {
            let refusal = Refusal {
                value: value.clone(),
                instead: proven.get(name).cloned(),
                ground: RefusalGround::DidNotStart,
                sentence: format!("{name} = {value:?} is left out, PostgreSQL did not start with it: {why}"),
            };
            self.suspects.push(name.clone());
            learned |= self.refusals.insert(name.clone(), refusal.clone()) != Some(refusal);
        }
        learned
    }
}

/// What PostgreSQL was asked about and found nothing wrong with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Checked {
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

/// A refused setting in one sentence.
pub(super) fn sentence(setting: &RejectedSetting) -> String {
    let RejectedSetting { name, value, message, instead, origin } = setting;
    let place = match origin {
        Origin::ExistingFile { path, line } => format!(" in {path} line {line}"),
        Origin::Parameters | Origin::Recovery | Origin::Unknown => String::new(),
    };
    match instead {
        Some(instead) => {
            format!("{name} = {value:?}{place} cannot be used as it is ({instead:?} can): {message}")
        }
        None => format!("{name} = {value:?}{place} is left out: {message}"),
    }
}

fn line_sentence(problem: &LineProblem) -> String {
    let LineProblem { file, line, name, error } = problem;
    let file = match file {
        ConfigFile::Parameters => "postgresql.conf",
        ConfigFile::Hba => "pg_hba.conf",
    };
    match name.as_str() {
        "" => format!("{file} line {line} is not in force: {error}"),
        name => format!("{name} is not in force: {error}"),
    }
}

#[cfg(test)]
#[path = "blame_tests.rs"]
mod tests;
