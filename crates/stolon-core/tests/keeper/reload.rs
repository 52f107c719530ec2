//! An operator has PostgreSQL read its files again (`stolonctl reload`).

use stolon_core::keeper::*;
use stolon_model::{ClusterData, FailOutcome, FailRequest, InstanceInitMode as Init, RequestKind, Role};

use crate::given::*;
use crate::world::{World, seconds};

fn ask(cluster: &mut ClusterData, uid: &str, instance: &str) {
    cluster.keepers.get_mut(&"k1".into()).unwrap().status.fail_request = Some(FailRequest {
        uid: uid.into(),
        kind: Some(RequestKind::Reload),
        instance: instance.into(),
        ..FailRequest::default()
    });
}

fn reloads(world: &World) -> usize {
    world.log.iter().filter(|(_, word)| word == "reload").count()
}

fn answer(world: &World) -> String {
    world.report().activity.as_ref().unwrap().reloaded.clone()
}

#[test]
fn each_request_is_carried_out_once_and_answered() {
    for (role, kind) in [(Role::Primary, DataKind::Primary), (Role::Standby, DataKind::Standby)] {
        let mut world = World::with(asked(role.clone(), Init::None), kind);
        world.run(seconds(20));
        let before = reloads(&world);
        for (count, uid) in [(1, "r1"), (2, "r2")] {
            world.change(|cluster| ask(cluster, uid, "us"));
            world.run(seconds(10));
            assert_eq!((reloads(&world) - before, answer(&world).as_str()), (count, uid), "{role:?}");
        }
        world.change(|cluster| ask(cluster, "r3", "another"));
        world.run(seconds(10));
        assert_eq!(reloads(&world) - before, 2, "made for another db");
        world.change(|cluster| {
            ask(cluster, "r4", "us");
            let request = cluster.keepers.get_mut(&"k1".into()).unwrap().status.fail_request.as_mut();
            request.unwrap().outcome = Some(FailOutcome::Lapsed);
        });
        world.run(seconds(10));
        assert_eq!((reloads(&world) - before, answer(&world).as_str()), (2, "r2"), "it is over");
    }
}
