//! Who is promoted, and whom a primary lets in.

use std::sync::Arc;

use stolon_core::keeper::*;
use stolon_model::{InstanceInitMode as Init, Lsn, Role, Timeline, WasAt};

use crate::given::*;

/// Its host was set back after the election, or it has yet to replay what it received.
#[test]
fn a_standby_that_lacks_what_it_was_elected_for_is_not_promoted() {
    for (own, timeline, expected) in [
        (10_000_000, 1, "promote again"),
        (9_900_000, 1, "promote again"),
        (5_000_000, 1, "trouble"),
        (5_000_000, 2, "promote again"),
    ] {
        let mut cluster = asked(Role::Primary, Init::None);
        let status = &mut ours(&mut cluster).status;
        (status.lsn, status.timeline) = (Lsn(10_000_000), Timeline(1));
        let mut seen = running(DataKind::Standby, &goal(&cluster));
        let live = Live { lsn: Lsn(own), timeline: Timeline(timeline), ..live(DataKind::Standby) };
        seen.server = Server::Running(Some(live));
        assert_eq!(planned(&cluster, &seen), expected, "{own} on timeline {timeline}");
    }
}

/// What was seen of it once counts more than the position that its keeper has reported since.
#[test]
fn where_a_standby_was_before_counts() {
    let mut cluster = asked(Role::Primary, Init::None);
    let status = &mut ours(&mut cluster).status;
    (status.lsn, status.timeline) = (Lsn(5_000_000), Timeline(1));
    status.was_at = Some(WasAt { lsn: Lsn(10_000_000), timeline: Timeline(1) });
    let mut seen = running(DataKind::Standby, &goal(&cluster));
    let live = Live { lsn: Lsn(5_000_000), timeline: Timeline(1), ..live(DataKind::Standby) };
    seen.server = Server::Running(Some(live));
    assert_eq!(planned(&cluster, &seen), "trouble");
}

#[test]
fn a_standby_that_runs_is_promoted_in_place() {
    let cluster = asked(Role::Primary, Init::None);
    let mut seen = here(DataKind::Standby);
    seen.server = Server::Running(Some(live(DataKind::Standby)));
    assert_eq!(planned(&cluster, &seen), "promote again");
}

#[test]
fn the_head_of_a_standby_cluster_is_promoted_in_place() {
    let mut cluster = asked(Role::Standby, Init::None);
    ours(&mut cluster).spec.follow_config = Some(external());
    let seen = running(DataKind::Standby, &goal(&cluster));
    assert_eq!(planned(&cluster, &seen), "slots commit:3");
    ours(&mut cluster).spec.role = Some(Role::Primary);
    ours(&mut cluster).spec.follow_config = None;
    cluster.cluster.status.primary = Some("us".into());
    assert_eq!(planned(&cluster, &seen), "promote again");
}

#[test]
fn switching_synchronous_replication_off_opens_the_gate() {
    let mut cluster = asked(Role::Primary, Init::None);
    ours(&mut cluster).spec.synchronous_replication = true;
    ours(&mut cluster).spec.synchronous_standbys = Some(vec!["bb".into()]);
    let mut seen = running(DataKind::Primary, &goal(&cluster));
    assert_eq!(seen.gate, Gate::Closed);
    assert_eq!(planned(&cluster, &seen), "slots commit:3", "bb is not in sync");
    ours(&mut cluster).spec.synchronous_replication = false;
    assert_eq!(planned(&cluster, &seen), "slots configure:primary reload commit:3");
    let reloaded = plan(&goal(&cluster), &seen).steps.iter().find_map(|step| match step {
        Step::Configure { config, .. } => Some((**config).clone()),
        _ => None,
    });
    seen.applied = reloaded;
    let opening = plan(&goal(&cluster), &seen);
    assert_eq!(words(&opening), "slots configure:primary reload again", "clients wait for no other look");
    assert_eq!(gate_after(&opening), Some(Gate::Open));
    let opened = opening.steps.iter().find_map(|step| match step {
        Step::Configure { config, .. } => Some(config.hba.len()),
        _ => None,
    });
    assert!(opened > Some(7), "not only superuser and replication lines");
}

/// Proxies send clients to a primary that has reached its generation, and whom it followed before is nothing to it.
#[test]
fn a_standby_that_was_promoted_is_ready_before_it_forgets_whom_it_followed() {
    let standby = asked(Role::Standby, Init::None);
    let mut cluster = asked(Role::Primary, Init::None);
    let mut seen = running(DataKind::Standby, &goal(&standby));
    seen.data = here(DataKind::Primary).data;
    seen.server = Server::Running(Some(live(DataKind::Primary)));
    seen.local.generation = 3;
    assert_eq!(planned(&cluster, &seen), "slots configure:primary reload commit:3", "it is ready already");
    seen.local.generation = 2;
    assert_eq!(planned(&cluster, &seen), "slots commit:3");
    // Whatever clients may notice comes first.
    ours(&mut cluster).spec.pg_parameters =
        Some(Arc::new([("work_mem".to_owned(), "8MB".to_owned())].into()));
    assert_eq!(planned(&cluster, &seen), "slots configure:primary reload commit:3");
    ours(&mut cluster).spec.pg_parameters = None;
    ours(&mut cluster).spec.synchronous_replication = true;
    ours(&mut cluster).spec.synchronous_standbys = Some(vec!["pp".into()]);
    let mut promoted = running(DataKind::Standby, &goal(&standby));
    let promotion = plan(&goal(&cluster), &promoted);
    promoted.applied = promotion.steps.iter().find_map(|step| match step {
        Step::Configure { config, .. } => Some((**config).clone()),
        _ => None,
    });
    (promoted.local, promoted.data, promoted.server) = (seen.local, seen.data, seen.server);
    assert_eq!(planned(&cluster, &promoted), "slots commit:3");
    cluster.cluster.status.primary = Some("pp".into());
    assert_eq!(planned(&cluster, &promoted), "configure:primary terminate reload slots commit:3", "deposed");
}

#[test]
fn the_gate_opens_when_exactly_the_named_standbys_are_in_sync() {
    let mut cluster = asked(Role::Primary, Init::None);
    ours(&mut cluster).spec.synchronous_replication = true;
    ours(&mut cluster).spec.synchronous_standbys = Some(vec!["bb".into(), "cc".into()]);
    for (in_sync, opens) in
        [(&["bb"][..], false), (&["bb", "cc"], true), (&[], false), (&["bb", "cc", "dd"], false)]
    {
        let mut seen = running(DataKind::Primary, &goal(&cluster));
        let mut answer = live(DataKind::Primary);
        answer.in_sync = in_sync.iter().map(|&uid| uid.into()).collect();
        seen.server = Server::Running(Some(answer));
        let plan = plan(&goal(&cluster), &seen);
        assert_eq!(gate_after(&plan), opens.then_some(Gate::Open), "{in_sync:?}");
        assert_eq!(plan.next_look == NextLook::Soon, !opens);
    }
}

#[test]
fn a_deposed_primary_locks_its_clients_out_until_it_is_elected_again() {
    let mut cluster = asked(Role::Primary, Init::None);
    let mut seen = running(DataKind::Primary, &goal(&cluster));
    cluster.cluster.status.primary = Some("pp".into());
    let fenced = plan(&goal(&cluster), &seen);
    assert_eq!(words(&fenced), "configure:primary terminate reload slots commit:3");
    seen.applied = fenced.steps.iter().find_map(|step| match step {
        Step::Configure { config, .. } => Some((**config).clone()),
        _ => None,
    });
    assert!(seen.applied.iter().all(|config| config.hba.len() == 7), "only superuser and replication lines");
    assert_eq!(planned(&cluster, &seen), "terminate slots commit:3");
    let answers = std::mem::replace(&mut seen.server, Server::Running(None));
    assert_eq!(planned(&cluster, &seen), "configure:primary terminate ready again", "its sessions may go on");
    seen.server = answers;
    cluster.cluster.status.primary = Some("us".into());
    assert_eq!(planned(&cluster, &seen), "slots configure:primary reload commit:3");
    cluster.cluster.status.primary = None;
    assert_eq!(
        planned(&cluster, &seen),
        "slots configure:primary reload commit:3",
        "nobody else was elected"
    );
}

/// Its keeper may die between the promotion and the next step, and clients that are connected can write from then on.
#[test]
fn what_commits_wait_for_is_in_force_before_a_promotion() {
    let standby = asked(Role::Standby, Init::None);
    let mut cluster = asked(Role::Primary, Init::None);
    ours(&mut cluster).spec.synchronous_replication = true;
    ours(&mut cluster).spec.synchronous_standbys = Some(vec!["pp".into()]);
    let mut seen = running(DataKind::Standby, &goal(&standby));

    let plan = plan(&goal(&cluster), &seen);
    assert_eq!(words(&plan), "configure:standby reload promote again");
    let Step::Configure { config, .. } = &plan.steps[0] else { panic!("{plan:?}") };
    assert_eq!(config.parameters["synchronous_standby_names"], "stolon_pp");
    assert_eq!(
        config.recovery,
        seen.applied.as_ref().unwrap().recovery,
        "it is a standby until it is promoted"
    );
    seen.applied = Some((**config).clone());
    assert_eq!(planned(&cluster, &seen), "promote again");

    seen.applied = None;
    assert_eq!(planned(&cluster, &seen), "configure:standby reload promote again");
}

#[test]
fn one_that_was_deposed_before_it_was_promoted_is_not_promoted() {
    let mut cluster = asked(Role::Primary, Init::None);
    let seen = running(DataKind::Standby, &goal(&cluster));
    assert_eq!(planned(&cluster, &seen), "promote again");
    cluster.cluster.status.primary = Some("pp".into());
    assert_eq!(planned(&cluster, &seen), "");
}

#[test]
fn a_standby_has_no_gate() {
    let cluster = asked(Role::Standby, Init::None);
    let mut seen = running(DataKind::Standby, &goal(&cluster));
    seen.gate = Gate::Closed;
    assert_eq!(gate_after(&plan(&goal(&cluster), &seen)), Some(Gate::Open));
}
