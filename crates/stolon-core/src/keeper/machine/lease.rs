//! The lease of a primary (docs/design/012-lease.md): ordinary clients are served only while nobody else can have been elected for long, be it
//! because the cluster data that name it were read lately, or because the keepers of all other instances have pledged.

use std::time::Duration;

use stolon_model::{InstanceUid, LockoutReport};

use super::Machine;
use super::pledges::counted_on;
use crate::keeper::event::Measure;
use crate::keeper::goal::{Goal, StopReason};
use crate::keeper::observation::Lease;

/// The lease as it was last held, and what became of clients after it was over.
#[derive(Debug, Default)]
pub(super) struct LeaseWatch {
    /// Our instance was the primary, and served by this.
    held: Option<Held>,
    /// Ordinary clients are to be out, and were told to go.
    over: Option<Over>,
    measured: Measured,
    /// The last time that this has ended.
    ended: Option<Ended>,
}

/// Clients were locked out, and that is over.
#[derive(Clone, Debug)]
struct Ended {
    at: Duration,
    report: LockoutReport,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    ends: Duration,
    term: Duration,
}

#[derive(Clone, Debug)]
struct Over {
    since: Duration,
    /// Why the lease was over; none: it was not, another instance was elected.
    why: Option<String>,
    /// Then clients have to be out.
    out_by: Duration,
    clients: Clients,
}

/// Whether ordinary clients may still be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clients {
    MayBeThere,
    Out,
}

/// What was last measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Measured {
    #[default]
    NotOver,
    Over,
}

/// By what our instance serves ordinary clients now.
#[derive(Clone, Copy, Debug)]
struct LeaseNow {
    term: Duration,
    /// By the cluster data that were read last.
    read_until: Duration,
    /// By the pledges of the keepers of all other instances, if they hold.
    pledged_until: Option<Duration>,
}

impl LeaseNow {
    fn ends(self) -> Duration {
        self.read_until.max(self.pledged_until.unwrap_or_default())
    }

    fn lease(self, now: Duration) -> Lease {
        match self.pledged_until {
            _ if now < self.read_until => Lease::Read,
            Some(_) => Lease::Pledged,
            None => Lease::Over,
        }
    }
}

impl LeaseWatch {
    /// The clients of the server that runs are out, and no others come in.
    pub(super) fn shut(&mut self) {
        if let Some(over) = &mut self.over {
            over.clients = Clients::Out;
        }
    }
}

/// For so long a lock-out is reported that is over: the sentinel has entered it into the history by then.
const TOLD_FOR: Duration = Duration::from_secs(600);

/// So much later than the end of the lease, as we count it, clients have to be out. With what is not counted on that is nine tenths of the term: no
/// clock is more than a tenth too slow.
fn grace(term: Duration) -> Duration {
    term * 3 / 20
}

impl Machine {
    /// By what our instance serves ordinary clients; none where it is no primary, has none beside it that could be elected, or where not all
    /// keepers can be asked: then Stolon's rule holds, that nobody ends it.
    fn lease_now(&self) -> Option<LeaseNow> {
        let Goal::Reach(goal) = self.orders.goal() else { return None };
        let is_here = goal.uid == self.disk.local.uid && !self.disk.local.initializing;
        if !is_here || !self.orders.goal().is_to_serve() {
            return None;
        }
        let (cluster, as_of) = self.orders.known()?;
        let term = cluster.spec().lease_term()?;
        let others = self.others(&goal.uid);
        let can_be_asked = !others.is_empty() && others.iter().all(|(_, address)| address.is_some());
        can_be_asked.then(|| LeaseNow {
            term,
            read_until: as_of + counted_on(term),
            pledged_until: self.vouched().map(|vouched| vouched.until),
        })
    }

    /// Until when our instance serves ordinary clients, by what is known; none: for ever.
    pub(super) fn lease_ends(&self) -> Option<Duration> {
        self.lease_now().map(LeaseNow::ends)
    }

    /// Whether our instance may serve ordinary clients.
    pub(super) fn lease(&self) -> Lease {
        self.lease_now().map_or(Lease::Unlimited, |it| it.lease(self.now))
    }

    /// Has clients locked out when the lease is over, and let in when there is one again. A server whose clients cannot be locked out in time is
    /// killed, be it that its lease runs out or that another one has been elected meanwhile.
    pub(super) fn watch_lease(&mut self) {
        let current = self.lease_now();
        let lease = current.map_or(Lease::Unlimited, |it| it.lease(self.now));
        self.note_held_lease(current);
        let must_shut = lease == Lease::Over || self.lease.held.is_some() && self.has_lost_its_office();
        match (&self.lease.over, must_shut) {
            (None, true) => self.lease_ran_out(lease),
            (Some(_), false) => self.lease_is_back(),
            _ => {}
        }
        self.measure_lease(lease);
        if !self.server.disks.server_may_run() {
            self.lease.shut();
            if self.pursuit.step_under_way().is_none() {
                self.fence.shut();
            }
        }
        if self.lease_is_outlived_at().is_some_and(|at| self.now >= at) {
            self.kill();
        }
    }

    fn lease_ran_out(&mut self, lease: Lease) {
        let (ends, term) = self.lease.held.map_or((self.now, Duration::ZERO), |it| (it.ends, it.term));
        // A host that stood still is given that time when it goes on.
        let out_by = ends.max(self.now) + grace(term);
        let why = (lease == Lease::Over).then(|| self.why_nobody_knows());
        self.lease.over = Some(Over { since: self.now, why, out_by, clients: Clients::MayBeThere });
        if lease == Lease::Over {
            let reaction = self.pursuit.shut();
            self.call_off_if_asked(reaction);
        }
    }

    fn lease_is_back(&mut self) {
        self.note_end_of_lockout();
        if self.orders.goal().is_to_serve() {
            self.voice.troubles.try_at_once();
            self.server.haste.over();
            self.pursuit.plan_anew();
        }
    }

    fn note_end_of_lockout(&mut self) {
        let Some(Over { since, why: Some(why), .. }) = self.lease.over.take() else { return };
        let report = LockoutReport {
            instance: self.disk.local.uid.clone(),
            number: self.lease.ended.as_ref().map_or(0, |last| last.report.number) + 1,
            why,
            lasted: self.now.saturating_sub(since).into(),
            replaced: !self.orders.goal().is_to_serve(),
        };
        self.lease.ended = Some(Ended { at: self.now, report });
    }

    /// A clause: for how long the cluster data have not been read, and who has not pledged.
    fn why_nobody_knows(&self) -> String {
        let silent_for =
            self.orders.known().map_or(Duration::ZERO, |(_, as_of)| self.now.saturating_sub(as_of));
        let missing = self.not_pledged();
        let missing: Vec<&str> = missing.iter().map(InstanceUid::as_str).collect();
        let (seconds, missing) = (silent_for.as_secs(), missing.join(", "));
        format!(
            "the cluster data had not been read for {seconds} s, and the keepers of db {missing} had not pledged to wait"
        )
    }

    /// The last time that clients were locked out, for as long as it is told.
    pub(super) fn lockout(&self) -> Option<LockoutReport> {
        let ended = self.lease.ended.as_ref()?;
        (self.now < ended.at + TOLD_FOR).then(|| ended.report.clone())
    }

    fn note_held_lease(&mut self, current: Option<LeaseNow>) {
        match current {
            Some(current) => self.lease.held = Some(Held { ends: current.ends(), term: current.term }),
            None if self.has_lost_its_office() => {}
            None => self.lease.held = None,
        }
    }

    /// Whether the primary that was here is none any more by the cluster data. One that hands over is, until it has.
    fn has_lost_its_office(&self) -> bool {
        match self.orders.goal() {
            goal @ Goal::Reach(instance) => goal.is_deposed() || instance.uid != self.disk.local.uid,
            Goal::Stop(why) => *why == StopReason::NoInstance,
            Goal::LeaveAlone(_) => false,
        }
    }

    fn measure_lease(&mut self, lease: Lease) {
        let measured = if lease == Lease::Over { Measured::Over } else { Measured::NotOver };
        if std::mem::replace(&mut self.lease.measured, measured) != measured {
            self.measure(Measure::LeaseOver(measured == Measured::Over));
        }
    }

    /// When a server is killed whose clients are not out by then.
    fn lease_is_outlived_at(&self) -> Option<Duration> {
        let over = self.lease.over.as_ref();
        over.filter(|over| over.clients == Clients::MayBeThere).map(|over| over.out_by)
    }

    pub(super) fn lease_wake(&self) -> Option<Duration> {
        let end = match &self.lease.over {
            None => self.lease_ends(),
            Some(_) => self.lease_is_outlived_at(),
        };
        end.filter(|end| *end > self.now)
    }
}
