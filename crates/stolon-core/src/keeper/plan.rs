//! From the goal and what is seen to the next steps.

use super::goal::{Goal, InstanceGoal, InstanceRole, StopReason};
use super::observation::Observation;
use super::step::{Plan, Reason, Step};
use super::warrant::half_made;
use super::{converge, make};

/// The next steps towards `goal`. A goal that is reached gives a plan whose steps find nothing to do.
pub fn plan(goal: &Goal, seen: &Observation) -> Plan {
    match goal {
        Goal::LeaveAlone(why) => Plan { because: vec![Reason::LeftAlone(why.clone())], ..Plan::default() },
        Goal::Stop(why) => {
            let stop = if *why == StopReason::HandsOver { Step::HandOver } else { Step::Stop };
            let steps = if seen.is_running() { vec![stop] } else { Vec::new() };
            Plan { steps, because: vec![Reason::MustStop(*why)], ..Plan::default() }
        }
        Goal::Reach(goal) if is_to_be_made(goal, seen) => make::plan(goal, seen),
        Goal::Reach(goal) => match &goal.role {
            InstanceRole::Primary(primary) => converge::primary(goal, primary, seen),
            InstanceRole::Standby(follow) => converge::standby(goal, follow, seen),
        },
    }
}

fn is_to_be_made(goal: &InstanceGoal, seen: &Observation) -> bool {
    seen.local.uid != goal.uid || seen.local.initializing || half_made(goal, seen).is_some()
}
