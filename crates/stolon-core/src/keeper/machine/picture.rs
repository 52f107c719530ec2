//! What the keeper knows of itself, for those who ask.

use std::time::Duration;

use stolon_model::{ClusterData, Phase};

use crate::keeper::goal::{Follow, Goal, InstanceGoal, InstanceRole};
use crate::keeper::inquiry::{Office, Orders, Picture, Server};
use crate::keeper::look::{Answer, WalReceiver};
use crate::keeper::observation::Gate;
use crate::keeper::parameters::instances_of;

use super::Machine;

impl Machine {
    /// What is known now.
    pub fn picture(&self) -> Picture {
        let pace = self.orders.pace();
        let admits_clients = self.server.gate == Gate::Open;
        let server = self.reporting.seen.clone().map(|seen| Server { admits_clients, ..seen });
        let pending_restart = self.reporting.pending_restart;
        Picture {
            at: self.now,
            sleep: pace.sleep,
            fail: pace.fail,
            server,
            orders: self.orders_in_short(),
            pending_restart,
            vouched: self.vouched(),
            lease_ends: self.lease_ends(),
        }
    }

    pub(super) fn orders_in_short(&self) -> Option<Orders> {
        let (cluster, as_of) = self.orders.known()?;
        let data = cluster.data();
        Some(Orders {
            as_of,
            good_for: cluster.spec().proxy_timeout,
            office: match self.orders.goal() {
                Goal::Reach(goal) => office(goal, data),
                Goal::LeaveAlone(_) | Goal::Stop(_) => Office::Nothing,
            },
            primary_lsn: data.primary().map(|primary| primary.status.lsn).unwrap_or_default(),
            paused: data.cluster.pause.is_some(),
        })
    }
}

/// A server that answered a look that began then. Whether it lets clients in is added when somebody asks.
pub(super) fn server_of(looked_at: Duration, answer: &Answer) -> Server {
    let names: Vec<String> = answer.replication.iter().map(|row| row.application_name.clone()).collect();
    Server {
        looked_at,
        in_recovery: answer.in_recovery,
        admits_clients: false,
        timeline: answer.timeline,
        lsn: answer.lsn,
        receives_wal: answer.receiver == WalReceiver::Streaming,
        started: answer.started,
        system_identifier: answer.system_identifier.clone(),
        standbys: instances_of(&names),
    }
}

fn office(goal: &InstanceGoal, data: &ClusterData) -> Office {
    let primary = data.primary();
    let waits_for_us = primary.is_some_and(|primary| {
        let listed = primary.spec.synchronous_standbys.iter().flatten();
        let known = primary.status.synchronous_standbys.as_deref().unwrap_or_default();
        primary.spec.synchronous_replication
            && listed.filter(|uid| known.contains(uid)).any(|uid| *uid == goal.uid)
    });
    let is_elected = primary.is_some_and(|primary| primary.uid == goal.uid);
    match &goal.role {
        InstanceRole::Primary(_) if !is_elected => Office::Nothing,
        InstanceRole::Primary(_) => {
            let is_normal = data.cluster.status.phase == Some(Phase::Normal);
            let is_open = data.proxy.spec.primary.as_ref() == Some(&goal.uid);
            if is_normal && is_open { Office::Primary } else { Office::ClosedPrimary }
        }
        InstanceRole::Standby(Follow::External { .. }) if is_elected => Office::StandbyLeader,
        InstanceRole::Standby(_) if waits_for_us => Office::SynchronousStandby,
        InstanceRole::Standby(_) => Office::Standby,
    }
}
