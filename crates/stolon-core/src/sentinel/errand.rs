//! Requests that change no role: `stolonctl restart` and `reload`, which a keeper carries out, and `stolonctl reinit`.

use std::collections::BTreeSet;
use std::time::Duration;

use stolon_model::{FailOutcome, FailRequest, InstanceUid, Keeper, KeeperUid, RequestKind};

use super::UidSource;
use super::round::{Kind, Round};

/// A keeper begins a restart at once. One that has not after this does something else, or is not there.
const RESTART_PATIENCE: Duration = Duration::from_secs(300);

/// A reload takes moments. Keepers of Stolon know of none.
const RELOAD_PATIENCE: Duration = Duration::from_secs(60);

impl Round<'_> {
    /// A request to restart is over when the keeper reports another server, and lapses when nobody carries it out; one to make data anew is
    /// carried out beside a primary that works, or lapses.
    pub fn watch_errand(&mut self, uid: &KeeperUid, request: &FailRequest, kind: &RequestKind) {
        let (outcome, why) = match kind {
            RequestKind::Restart if self.has_restarted(uid, request) => {
                (FailOutcome::Counted, "its PostgreSQL was restarted")
            }
            RequestKind::Restart if self.age(request.made_for) <= RESTART_PATIENCE => return,
            RequestKind::Restart => (FailOutcome::Lapsed, "its keeper did not carry it out"),
            RequestKind::Reload if self.has_reloaded(uid, request) => {
                (FailOutcome::Counted, "its PostgreSQL has read its files")
            }
            RequestKind::Reload if self.age(request.made_for) <= RELOAD_PATIENCE => return,
            RequestKind::Reload => (FailOutcome::Lapsed, "its keeper did not carry it out"),
            RequestKind::Reinit => match self.lapse(request) {
                Some(why) => (FailOutcome::Lapsed, why),
                None => return,
            },
            RequestKind::Unknown(_) => {
                (FailOutcome::Nothing, "this sentinel does not know what was asked for")
            }
        };
        self.draft.conclude_request(uid, outcome, why.to_owned());
    }

    /// Another server runs than the one that was to be restarted.
    fn has_restarted(&self, uid: &KeeperUid, request: &FailRequest) -> bool {
        let report = self.seen.fresh.get(uid);
        let started = report.and_then(|report| report.activity.as_ref()?.started);
        started.is_some() && started != request.started
    }

    fn has_reloaded(&self, uid: &KeeperUid, request: &FailRequest) -> bool {
        let report = self.seen.fresh.get(uid);
        report.and_then(|report| report.activity.as_ref()).is_some_and(|it| it.reloaded == request.uid)
    }

    /// The keepers whose data an operator wants to be made anew.
    pub fn asked_anew(&self) -> Vec<KeeperUid> {
        let asks = |keeper: &&Keeper| {
            let request = keeper.status.fail_request.as_ref();
            request.is_some_and(|it| it.kind == Some(RequestKind::Reinit) && it.outcome.is_none())
        };
        self.draft.keepers.values().filter(asks).map(|keeper| keeper.uid.clone()).collect()
    }

    /// Have the data of standbys made anew beside a primary that works, as operators ask. `good` are the standbys that work.
    pub fn make_anew(
        &mut self,
        primary: &InstanceUid,
        asked: Vec<KeeperUid>,
        good: &BTreeSet<InstanceUid>,
        uids: &mut dyn UidSource,
    ) {
        for keeper in asked {
            match self.may_be_made_anew(primary, &keeper, good) {
                Ok(instance) => {
                    let new = uids.instance_uid();
                    let why = format!("db {new} is made in the place of {instance}");
                    self.draft.make_anew(&instance, new, keeper.clone(), primary);
                    self.draft.conclude_request(&keeper, FailOutcome::Counted, why);
                }
                Err(why) => self.draft.conclude_request(&keeper, FailOutcome::Nothing, why.to_owned()),
            }
        }
    }

    /// The instance of a keeper, if its data can be spared.
    fn may_be_made_anew(
        &self,
        primary: &InstanceUid,
        keeper: &KeeperUid,
        good: &BTreeSet<InstanceUid>,
    ) -> Result<InstanceUid, &'static str> {
        let meant = self
            .draft
            .keepers
            .get(keeper)
            .and_then(|keeper| Some(&keeper.status.fail_request.as_ref()?.instance));
        let instance = self.draft.instance_of(keeper).ok_or("it has no db")?;
        if meant != Some(&instance.uid) {
            return Err("its db is another one than when it was asked for");
        }
        if instance.uid == *primary || Kind::of(instance) != Kind::Standby {
            return Err("its db is no standby");
        }
        let head = self.draft.instances.get(primary);
        let waited_for = head.is_some_and(|head| {
            let listed = head.spec.synchronous_standbys.iter().flatten().any(|uid| *uid == instance.uid);
            head.spec.synchronous_replication && listed
        });
        match waited_for && good.iter().all(|uid| *uid == instance.uid) {
            true => Err("commits wait for it, and no other standby could take its part"),
            false => Ok(instance.uid.clone()),
        }
    }
}
