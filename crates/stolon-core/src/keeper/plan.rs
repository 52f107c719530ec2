//! From the goal and what is seen to the next steps.

use super::goal::{Goal, InstanceGoal, InstanceRole};
use super::hba::{Admission, HbaLine, hba_lines};
use super::observation::{Config, Data, Observation, Present};
use super::parameters::{ParameterFacts, ParameterProblem, wanted_parameters};
use super::recovery::RecoverySettings;
use super::step::{Plan, Reason, Step, Trouble};
use super::{converge, make};

/// The next steps towards `goal`. A goal that is reached gives a plan whose steps find nothing to do.
pub fn plan(goal: &Goal, seen: &Observation) -> Plan {
    match goal {
        Goal::LeaveAlone(why) => Plan { because: vec![Reason::LeftAlone(why.clone())], ..Plan::default() },
        Goal::Stop(why) => {
            let steps = if seen.is_running() { vec![Step::Stop] } else { Vec::new() };
            Plan { steps, because: vec![Reason::MustStop(*why)], ..Plan::default() }
        }
        Goal::Reach(goal) if seen.local.uid != goal.uid || seen.local.initializing => make::plan(goal, seen),
        Goal::Reach(goal) => match &goal.role {
            InstanceRole::Primary(primary) => converge::primary(goal, primary, seen),
            InstanceRole::Standby(follow) => converge::standby(goal, follow, seen),
        },
    }
}

impl Plan {
    /// Steps with their reason.
    pub(super) fn of(because: Reason, steps: Vec<Step>) -> Self {
        Plan { steps, because: vec![because], ..Plan::default() }
    }

    /// Nothing can be done here.
    pub(super) fn stuck(trouble: Trouble) -> Self {
        Plan { trouble: Some(trouble), ..Plan::default() }
    }

    pub(super) fn troubled(mut self, trouble: Option<Trouble>) -> Self {
        self.trouble = trouble;
        self
    }

    pub(super) fn with_problems(mut self, config: &Config) -> Self {
        self.parameter_problems = config.problems.iter().map(|problem| problem.sentence.clone()).collect();
        self
    }
}

/// The whole configuration of an instance.
pub(super) fn config(
    goal: &InstanceGoal,
    seen: &Observation,
    recovery: RecoverySettings,
    admission: Admission,
) -> Config {
    let facts = ParameterFacts {
        version: seen.version,
        captured: seen.local.captured.as_ref(),
        demands: seen.demands.as_ref(),
        refusals: &seen.refusals,
        slots: seen.slots_on_disk.union(&goal.slots).count() as u64,
    };
    let mut wanted = wanted_parameters(&goal.parameters, facts);
    let mut hba = hba_lines(&goal.hba, &goal.superuser, &goal.replication, admission);
    // One line that PostgreSQL refuses makes it ignore the others, or not start.
    hba.retain(|line| match line {
        HbaLine::Verbatim(text) => !seen.refused_hba.contains_key(text),
        HbaLine::Rule(_) => true,
    });
    let refused = goal.hba.operator_lines.iter().flatten().filter_map(|line| {
        let why = seen.refused_hba.get(line)?;
        let sentence = format!("the line {line:?} of pgHBA is left out: {why}");
        Some(ParameterProblem { name: "pgHBA".to_owned(), sentence })
    });
    wanted.problems.extend(refused);
    Config { parameters: wanted.parameters, problems: wanted.problems, hba, recovery }
}

/// The instance at PGDATA if these binaries can run it.
pub(super) fn usable<'a>(goal: &InstanceGoal, seen: &'a Observation) -> Result<&'a Present, Trouble> {
    let missing = match &seen.data {
        Data::Present(present) if seen.version.runs_data_of(present.version) => return Ok(present),
        Data::Present(present) => {
            return Err(Trouble::OtherMajor { data: present.version, binaries: seen.version });
        }
        Data::Absent => "it is empty".to_owned(),
        Data::Incomplete { missing } => format!("{} missing", missing.join(", ")),
        Data::Unreadable(why) => why.clone(),
    };
    Err(Trouble::DataGone { instance: goal.uid.clone(), missing })
}
