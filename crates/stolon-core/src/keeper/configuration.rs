//! What every plan needs: the configuration that is wanted, and data that these binaries can run.

use super::goal::{InstanceGoal, Peer};
use super::hba::{Admission, HbaLine, hba_lines};
use super::observation::{Config, Data, Observation, Present};
use super::parameters::{ParameterFacts, ParameterProblem, wanted_parameters};
use super::recovery::{PasswordProtocol, RecoverySettings, Upstream, UpstreamSlots};
use super::slot_sync::SlotSync;
use super::step::Trouble;

/// The whole configuration of an instance.
pub(super) fn config(
    goal: &InstanceGoal,
    seen: &Observation,
    recovery: RecoverySettings,
    admission: Admission,
) -> Config {
    let mut parameters = goal.parameters.clone();
    let mut captured = seen.local.captured.clone();
    let mut withheld = goal.commands.withhold(&mut parameters.user);
    withheld.extend(captured.iter_mut().flat_map(|captured| goal.commands.withhold(captured)));
    let facts = ParameterFacts {
        version: seen.version,
        captured: captured.as_ref(),
        demands: seen.demands.as_ref(),
        refusals: &seen.refusals,
        slots: (&(&seen.slots_on_disk | &goal.slots) | &goal.copied_slots).len() as u64,
        room_for_slots: seen.room_for_slots,
    };
    let mut wanted = wanted_parameters(&parameters, facts);
    let mut hba = hba_lines(&goal.hba, &goal.superuser, &goal.replication, admission);
    // One line that PostgreSQL refuses makes it ignore the others, or not start.
    hba.retain(|line| match line {
        HbaLine::Verbatim(text) => !seen.refused_hba.contains_key(text) && goal.commands.admits(text),
        HbaLine::Rule(_) => true,
    });
    let refused = goal.hba.operator_lines.iter().flatten().filter_map(|line| {
        let why = match seen.refused_hba.get(line) {
            Some(why) => why.as_str(),
            None if goal.commands.admits(line) => return None,
            None => {
                "it lets in whoever proves nothing to this server, and this keeper is not allowed such lines"
            }
        };
        let sentence = format!("the line {line:?} of pgHBA is left out: {why}");
        Some(ParameterProblem { name: "pgHBA".to_owned(), sentence })
    });
    wanted.problems.extend(refused);
    wanted.problems.extend(withheld);
    Config { parameters: wanted.parameters, problems: wanted.problems, hba, recovery }
}

/// Where our instance streams or copies from.
pub(super) fn upstream(goal: &InstanceGoal, seen: &Observation, peer: &Peer) -> Upstream {
    // Passwords that were set before the cluster's present encryption stay as they are.
    let passwords = PasswordProtocol::of(&goal.parameters.user, seen.version)
        .max(PasswordProtocol::stored_by(&peer.status));
    let upstream = Upstream::new(&peer.status.listen_address, &peer.status.port, &goal.uid);
    let copies = goal.parameters.slot_sync == SlotSync::Copies && seen.version.has_slot_synchronisation();
    let slots = if copies { UpstreamSlots::Copied } else { UpstreamSlots::Left };
    Upstream { slots, ..upstream.with_passwords(passwords) }
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
        Data::Unreadable(why) => {
            return Err(Trouble::DataUnreadable { instance: goal.uid.clone(), why: why.clone() });
        }
    };
    Err(Trouble::DataGone { instance: goal.uid.clone(), missing })
}
