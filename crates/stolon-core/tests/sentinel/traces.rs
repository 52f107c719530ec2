//! Traces: a cluster's life line by line, as it is known from the original, with our decisions where they differ.
//!
//! A line is one round; before it keepers have done what the line before asked of them. An instance is
//! `uid@keeper generation/reported`, then what is asked of it: `new`, `resync`, `primary` or `<leader`; its followers; whom
//! commits wait for (`S`), literal names (`E`), and who is known to be in sync (`T`).

use stolon_core::sentinel::Memory;
use stolon_model::*;

use crate::world::*;

fn short(uid: &InstanceUid) -> &str {
    uid.as_str().trim_start_matches("db")
}

fn list(uids: Option<&Vec<InstanceUid>>) -> String {
    uids.map_or("null".to_owned(), |uids| {
        format!("[{}]", uids.iter().map(short).collect::<Vec<_>>().join(","))
    })
}

fn instance(it: &Instance) -> String {
    let spec = &it.spec;
    let mode = match &spec.init_mode {
        Some(InstanceInitMode::New) => " new",
        Some(InstanceInitMode::Resync) => " resync",
        _ => "",
    };
    let role = match &spec.follow_config {
        Some(follow) => format!("<{}", short(&follow.instance_uid)),
        None => "primary".to_owned(),
    };
    let synchronous = match spec.synchronous_replication {
        true => format!(
            " S={} E={} T={}",
            list(spec.synchronous_standbys.as_ref()),
            if spec.external_synchronous_standbys.as_ref().is_some_and(|names| !names.is_empty()) {
                "fake"
            } else {
                "[]"
            },
            list(it.status.synchronous_standbys.as_ref())
        ),
        false => String::new(),
    };
    let keeper = spec.keeper_uid.as_str().trim_start_matches("keeper");
    let followers = list(spec.followers.as_ref());
    let (uid, reported) = (short(&it.uid), it.status.current_generation);
    format!("{uid}@{keeper} {}/{reported}{mode} {role}{followers}{synchronous}", it.generation)
}

fn line(world: &World) -> String {
    let data = &world.data;
    let phase = match data.cluster.status.phase {
        Some(Phase::Initializing) => "initializing ",
        _ => "",
    };
    let primary = data.cluster.status.primary.as_ref().map_or("-", short);
    let instances: Vec<String> = data.instances.values().map(instance).collect();
    let route = data.proxy.spec.primary.as_ref().map_or("-", short);
    let proxies: Vec<&str> = data.proxy.spec.enabled_proxies.iter().flatten().map(ProxyUid::as_str).collect();
    format!(
        "{phase}{primary} | {} | {} {route} [{}]",
        instances.join("; "),
        data.proxy.generation,
        proxies.join(",")
    )
}

/// Keepers do what they were asked; everybody that streams is shown in sync where commits wait for it.
fn obey(world: &mut World) {
    for instance in world.data.instances.values_mut() {
        if !world.down.contains(&instance.uid) && !world.silent.contains(&instance.spec.keeper_uid) {
            instance.status.current_generation = instance.generation;
            instance.status.healthy = true;
        }
    }
    let shown: Vec<_> = world
        .data
        .instances
        .values()
        .map(|it| (it.uid.clone(), it.spec.synchronous_standbys.clone().unwrap_or_default()))
        .collect();
    world.in_sync.extend(shown);
}

#[track_caller]
fn follows(world: &mut World, lines: &[&str]) {
    let mut seen = Vec::new();
    for _ in lines {
        world.later(1000).round();
        seen.push(line(world));
        obey(world);
    }
    assert_eq!(seen, lines, "{seen:#?}");
}

/// The first trace. That the document is made is for the program's tests.
#[test]
fn trace_1_a_new_cluster_of_three_keepers() {
    let mut world = World::initializing(3);
    let (old_reports, reports) = (world.current_reports(), world.current_reports());
    world.data.keepers.clear();
    world.memory = Memory::default();
    world.later(1000).round_on(&old_reports);
    assert!(world.data.keepers.is_empty(), "a first round only watches");
    assert_eq!(line(&world), "initializing - |  | 0 - []");
    world.later(1000).round_on(&reports);
    assert_eq!(world.data.keepers.len(), 3);
    assert_eq!(line(&world), "initializing 1 | 1@1 1/0 new primary[] | 0 - []");
    obey(&mut world);
    follows(
        &mut world,
        &[
            "1 | 1@1 2/1 primary[] | 0 - []",
            "1 | 1@1 3/2 primary[2,3]; 2@2 1/0 resync <1[]; 3@3 1/0 resync <1[] | 1 1 []",
            // The original counts the proxies' generation up here, for no reason.
            "1 | 1@1 3/3 primary[2,3]; 2@2 2/1 <1[]; 3@3 2/1 <1[] | 1 1 []",
            "1 | 1@1 3/3 primary[2,3]; 2@2 2/2 <1[]; 3@3 2/2 <1[] | 1 1 []",
        ],
    );
    world.proxy("p1", 1);
    follows(&mut world, &["1 | 1@1 3/3 primary[2,3]; 2@2 2/2 <1[]; 3@3 2/2 <1[] | 2 1 [p1]"]);
}

/// With synchronous replication. The standby on keeper2 is the one that is ahead: the original waits for the other one, and elects it.
#[test]
fn trace_2_the_same_in_synchronous_mode_and_the_loss_of_its_primary() {
    let mut world =
        World::initializing(3).given(|world| world.data.cluster.spec.synchronous_replication = Some(true));
    follows(
        &mut world,
        &[
            "initializing 1 | 1@1 1/0 new primary[] | 0 - []",
            "1 | 1@1 2/1 primary[] | 0 - []",
            "1 | 1@1 3/2 primary[2,3] S=[] E=fake T=[]; 2@2 1/0 resync <1[]; 3@3 1/0 resync <1[] | 1 1 []",
        ],
    );
    world.db(2).status.lsn = Lsn(900);
    world.db(3).status.lsn = Lsn(500);
    follows(
        &mut world,
        &[
            "1 | 1@1 4/3 primary[2,3] S=[2] E=[] T=[]; 2@2 2/1 <1[]; 3@3 2/1 <1[] | 1 1 []",
            // The original believes the first report that shows it in sync.
            "1 | 1@1 4/4 primary[2,3] S=[2] E=[] T=[]; 2@2 2/2 <1[]; 3@3 2/2 <1[] | 1 1 []",
            "1 | 1@1 4/4 primary[2,3] S=[2] E=[] T=[2]; 2@2 2/2 <1[]; 3@3 2/2 <1[] | 1 1 []",
        ],
    );
    world.silence_keeper(1);
    follows(
        &mut world,
        &[
            "2 | 1@1 5/4 primary[] S=[2] E=[] T=[2]; 2@2 3/2 primary[] S=[1] E=[] T=null; 3@3 2/2 <1[] | 2 - []",
            "2 | 2@2 4/3 primary[3] S=[3] E=[] T=[]; 3@3 3/2 <2[] | 3 2 []",
            "2 | 2@2 4/4 primary[3] S=[3] E=[] T=[]; 3@3 3/3 <2[] | 3 2 []",
            // It streams, but holds less than the primary held when it was waited for.
            "2 | 2@2 4/4 primary[3] S=[3] E=[] T=[]; 3@3 3/3 <2[] | 3 2 []",
        ],
    );
    world.db(3).status.lsn = Lsn(900);
    follows(&mut world, &["2 | 2@2 4/4 primary[3] S=[3] E=[] T=[3]; 3@3 3/3 <2[] | 3 2 []"]);
    world.silent.clear();
    follows(
        &mut world,
        &[
            "2 | 2@2 5/4 primary[3,4] S=[3] E=[] T=[3]; 3@3 3/3 <2[]; 4@1 1/0 resync <2[] | 3 2 []",
            "2 | 2@2 5/5 primary[3,4] S=[3] E=[] T=[3]; 3@3 3/3 <2[]; 4@1 2/1 <2[] | 3 2 []",
            "2 | 2@2 5/5 primary[3,4] S=[3] E=[] T=[3]; 3@3 3/3 <2[]; 4@1 2/2 <2[] | 3 2 []",
        ],
    );
}

/// In asynchronous mode. The original moves the primary at once, and loses what is written until the proxies have closed.
#[test]
fn trace_3_a_forced_failure() {
    let mut world = World::normal(2, 2).given(|world| world.keeper(1).status.force_fail = true);
    follows(
        &mut world,
        &[
            "1 | 1@1 1/1 primary[2]; 2@2 1/1 <1[] | 1 1 []",
            "1 | 1@1 1/1 primary[2]; 2@2 1/1 <1[] | 2 - []",
            "2 | 1@1 2/1 primary[]; 2@2 2/1 primary[] | 2 - []",
            "2 | 2@2 3/2 primary[3]; 3@1 1/0 resync <2[] | 3 2 []",
            "2 | 2@2 3/3 primary[3]; 3@1 2/1 <2[] | 3 2 []",
            "2 | 2@2 3/3 primary[3]; 3@1 2/2 <2[] | 3 2 []",
        ],
    );
}
