//! The lease of a primary (docs/design/012-lease.md): ordinary clients are served only while nobody else can have been elected for long, be it
//! because the cluster data that name it were read lately, or because the keepers of all other instances have pledged.

use std::time::Duration;

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
}

#[derive(Clone, Copy, Debug)]
struct Held {
    ends: Duration,
    term: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Over {
    /// Then they have to be.
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
        match (self.lease.over, must_shut) {
            (None, true) => {
                let (ends, term) =
                    self.lease.held.map_or((self.now, Duration::ZERO), |it| (it.ends, it.term));
                // A host that stood still is given that time when it goes on.
                let out_by = ends.max(self.now) + grace(term);
                self.lease.over = Some(Over { out_by, clients: Clients::MayBeThere });
                if lease == Lease::Over {
                    let reaction = self.pursuit.shut();
                    self.call_off_if_asked(reaction);
                }
            }
            (Some(_), false) => {
                self.lease.over = None;
                if self.orders.goal().is_to_serve() {
                    self.voice.troubles.try_at_once();
                    self.server.haste.over();
                    self.pursuit.plan_anew();
                }
            }
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
        self.lease.over.filter(|over| over.clients == Clients::MayBeThere).map(|over| over.out_by)
    }

    pub(super) fn lease_wake(&self) -> Option<Duration> {
        let end = match self.lease.over {
            None => self.lease_ends(),
            Some(_) => self.lease_is_outlived_at(),
        };
        end.filter(|end| *end > self.now)
    }
}
