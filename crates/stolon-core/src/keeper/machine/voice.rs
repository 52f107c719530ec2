//! What was said, so that it is said once, and what troubles the keeper, as people read it in its report.

use std::collections::BTreeSet;
use std::time::Duration;

use stolon_model::{Explained, InstanceUid};

use crate::Backoff;
use crate::keeper::say::Saying;
use crate::keeper::step::{Plan, Reason};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause between attempts to copy or restore.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Troubles, and the pauses that they cause.
#[derive(Debug)]
pub(super) struct Troubles {
    pauses: Backoff,
    present: Option<String>,
}

impl Troubles {
    pub(super) fn new() -> Self {
        Troubles { pauses: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), present: None }
    }

    /// Something keeps us from the goal. Returns when it is tried again, and what is to be said.
    pub(super) fn troubled(&mut self, trouble: &Explained) -> (Duration, Saying) {
        let sentence = trouble.on_one_line();
        let again_in = self.pauses.next_pause();
        let repeated = self.present.as_deref() == Some(sentence.as_str());
        self.present = Some(sentence.clone());
        (again_in, Saying::Trouble { sentence, again_in, repeated })
    }

    /// The server died so soon that it is not started again at once.
    pub(super) fn died(&mut self, sentence: String) {
        self.present = Some(sentence);
    }

    /// A pass has reached its end.
    pub(super) fn over(&mut self) {
        self.present = None;
        self.pauses.reset();
    }

    /// Something else is asked of us: what failed before need not fail now.
    pub(super) fn try_at_once(&mut self) {
        self.pauses.reset();
    }

    /// One sentence, if there is something.
    pub(super) fn present(&self) -> Option<&str> {
        self.present.as_deref()
    }
}

/// What was announced last.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    reasons: Vec<Reason>,
    generation: i64,
    parameter_problems: BTreeSet<String>,
    kept_slots: Vec<(String, String)>,
}

impl Announcements {
    /// What is new about a plan for this generation (0: none is asked for).
    pub(super) fn plan(&mut self, plan: &Plan, generation: i64, instance: &InstanceUid) -> Vec<Saying> {
        let mut said = Vec::new();
        if plan.because != self.reasons {
            said.extend(
                plan.because
                    .iter()
                    .map(|reason| Saying::Reason { instance: instance.clone(), reason: reason.clone() }),
            );
        }
        let is_news = plan.because != self.reasons || generation != self.generation;
        if is_news && plan.because.is_empty() && plan.trouble.is_none() && generation != 0 {
            said.push(Saying::NothingChanged);
        }
        (self.reasons, self.generation) = (plan.because.clone(), generation);
        said
    }

    /// The same reasons count as news from now on: they have been acted on. So does that nothing is left to be changed: scripts wait for that
    /// line after the one about the change.
    pub(super) fn acted(&mut self) {
        self.reasons.clear();
        self.generation = 0;
    }

    /// Parameters that are not in force as they were asked for, all of them.
    pub(super) fn parameter_problems(&mut self, problems: BTreeSet<String>) -> Vec<Saying> {
        let news =
            problems.difference(&self.parameter_problems).cloned().map(Saying::ParameterProblem).collect();
        self.parameter_problems = problems;
        news
    }

    /// The parameter problems of the last plan.
    pub(super) fn known_parameter_problems(&self) -> &BTreeSet<String> {
        &self.parameter_problems
    }

    /// Slots that could not be changed, all of them.
    pub(super) fn kept_slots(&mut self, kept: Vec<(String, String)>) -> Vec<Saying> {
        let news = kept.iter().filter(|slot| !self.kept_slots.contains(slot));
        let news = news.map(|(slot, why)| Saying::SlotKept(slot.clone(), why.clone())).collect();
        self.kept_slots = kept;
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_said_once_and_again_when_they_were_acted_on() {
        let mut announced = Announcements::default();
        let us = InstanceUid::from("us");
        let changed = Plan { because: vec![Reason::ParametersChanged], ..Plan::default() };
        let said = [Saying::Reason { instance: us.clone(), reason: Reason::ParametersChanged }];
        assert_eq!(announced.plan(&changed, 1, &us), said);
        assert_eq!(announced.plan(&changed, 1, &us), []);
        announced.acted();
        assert_eq!(announced.plan(&changed, 2, &us), said);
        announced.acted();
        assert_eq!(announced.plan(&Plan::default(), 2, &us), [Saying::NothingChanged]);
        assert_eq!(announced.plan(&Plan::default(), 2, &us), []);
    }

    #[test]
    fn a_new_generation_that_changes_nothing_is_said_once() {
        let mut announced = Announcements::default();
        let us = InstanceUid::from("us");
        let nothing = Plan::default();
        assert_eq!(announced.plan(&nothing, 0, &us), [], "nothing is asked for");
        assert_eq!(announced.plan(&nothing, 1, &us), [Saying::NothingChanged]);
        assert_eq!(announced.plan(&nothing, 1, &us), []);
        assert_eq!(announced.plan(&nothing, 2, &us), [Saying::NothingChanged]);
    }

    #[test]
    fn pauses_grow_until_something_else_is_asked() {
        let mut troubles = Troubles::new();
        let trouble = Explained::new("no\nway").with_hint("go\naround");
        let mut again = || match troubles.troubled(&trouble) {
            (pause, Saying::Trouble { sentence, repeated, .. }) => (pause.as_millis(), sentence, repeated),
            other => panic!("{other:?}"),
        };
        assert_eq!(again(), (200, "no way; hint: go around".into(), false));
        assert_eq!(again(), (400, "no way; hint: go around".into(), true));
        troubles.try_at_once();
        assert_eq!(troubles.troubled(&trouble).0, FIRST_PAUSE);
        troubles.over();
        assert_eq!(troubles.present(), None);
    }

    #[test]
    fn problems_that_stay_are_said_once() {
        let mut announced = Announcements::default();
        let problems = |list: &[&str]| list.iter().map(|&problem| problem.to_owned()).collect();
        assert_eq!(announced.parameter_problems(problems(&["a"])).len(), 1);
        assert_eq!(announced.parameter_problems(problems(&["a", "b"])).len(), 1);
        assert_eq!(announced.parameter_problems(problems(&[])).len(), 0);
        assert_eq!(announced.parameter_problems(problems(&["a"])).len(), 1, "it came back");
    }
}
