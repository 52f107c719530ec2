//! A keeper whose operator lists the commands that the cluster data may name does nothing for the others.

use std::sync::Arc;

use stolon_core::keeper::*;
use stolon_model::{ClusterData, FollowConfig, InstanceInitMode, Role, StandbySettings};

use crate::given::*;

const LIST: &str = "archive_command = keep %p\ndataRestoreCommand = fetch %d\nprimary_conninfo = host=a";

fn goal_within(list: &str, cluster: &ClusterData) -> Goal {
    let us = Identity { commands: StoreCommands::listed(list).unwrap(), ..identity() };
    Goal::of(&cluster.clone().try_into().unwrap(), &us)
}

fn configured(goal: &Goal, seen: &Observation) -> Config {
    let steps = plan(goal, seen).steps;
    let found = steps.into_iter().find_map(|step| match step {
        Step::Configure { config, .. } => Some(*config),
        _ => None,
    });
    found.expect("a configuration")
}

#[test]
fn what_is_not_listed_stands_in_no_file_and_is_complained_about() {
    let mut cluster = asked(Role::Primary, InstanceInitMode::None);
    let lines = ["host all all all trust", "host app app all md5"].map(str::to_owned);
    let spec = &mut ours(&mut cluster).spec;
    let parameters = [("archive_command", "steal %p"), ("work_mem", "5MB"), ("plperl.on_init", "evil")];
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
    spec.pg_parameters = Some(Arc::new(parameters.into()));
    spec.pg_hba = Some(Arc::new(lines.to_vec()));
    let seen = here(DataKind::Primary);

    let config = configured(&goal_within(LIST, &cluster), &seen);
    let in_force = |config: &Config, name: &str| config.parameters.contains_key(name);
    assert!(in_force(&config, "work_mem"));
    assert!(!in_force(&config, "archive_command") && !in_force(&config, "plperl.on_init"));
    let written = |config: &Config, line: &str| config.hba.contains(&HbaLine::Verbatim(line.to_owned()));
    assert!(!written(&config, &lines[0]) && written(&config, &lines[1]));
    let named: Vec<&str> = config.problems.iter().map(|problem| problem.name.as_str()).collect();
    assert_eq!(named, ["pgHBA", "archive_command", "plperl.on_init"]);

    let all = configured(&goal(&cluster), &seen);
    assert!(in_force(&all, "archive_command") && written(&all, &lines[0]) && all.problems.is_empty());
    let more = format!("{LIST}\narchive_command = steal %p\npgHBA = {}", lines[0]);
    let listed = configured(&goal_within(&more, &cluster), &seen);
    assert!(in_force(&listed, "archive_command") && written(&listed, &lines[0]));
}

#[test]
fn captured_commands_have_to_be_listed_too() {
    let mut cluster = asked(Role::Primary, InstanceInitMode::None);
    ours(&mut cluster).spec.include_previous_config = true;
    let captured = [("archive_command".to_owned(), "steal %p".to_owned())].into();
    let mut seen = here(DataKind::Primary);
    seen.local.captured = Some(captured);
    assert!(configured(&goal(&cluster), &seen).parameters.contains_key("archive_command"));
    assert!(!configured(&goal_within(LIST, &cluster), &seen).parameters.contains_key("archive_command"));
}

#[test]
fn no_backup_is_restored_by_a_command_that_is_not_listed() {
    let mut cluster = asked(Role::Primary, InstanceInitMode::PointInTimeRecovery);
    let steps = |list: &str, cluster: &ClusterData| plan(&goal_within(list, cluster), &nothing());
    let refused = steps(LIST, &cluster);
    assert_eq!(refused.steps, []);
    assert!(matches!(refused.trouble, Some(Trouble::NotAllowed(_))), "{refused:?}");
    // Nor is what is here taken away for it.
    let other = Observation { local: complete("other"), ..here(DataKind::Primary) };
    assert_eq!(plan(&goal_within(LIST, &cluster), &other).steps, []);
    let pitr = ours(&mut cluster).spec.pitr_config.as_mut().unwrap();
    pitr.data_restore_command = "fetch %d".into();
    assert!(steps(LIST, &cluster).steps.contains(&Step::Restore("fetch %d".into())));
}

#[test]
fn no_primary_outside_is_followed_that_is_not_listed() {
    let mut cluster = asked(Role::Standby, InstanceInitMode::None);
    let mut following = |conninfo: &str| {
        let mut standby = StandbySettings::default();
        standby.primary_conninfo = conninfo.to_owned();
        let follow = FollowConfig { standby_settings: Some(standby), ..external() };
        ours(&mut cluster).spec.follow_config = Some(follow);
        goal_within(LIST, &cluster)
    };
    assert!(matches!(following("host=evil"), Goal::LeaveAlone(LeaveAlone::NotAllowed(_))));
    assert!(matches!(following("host=a"), Goal::Reach(_)));
}
