//! Hosts with their clocks, and the links between them.

use std::time::Duration;

use crate::Time;
use crate::names::Names;
use crate::random::Random;

/// A machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(pub u8);

/// A machine: whether it runs, and what its clocks show.
#[derive(Clone, Debug)]
pub struct Host {
    /// It has power.
    pub power: Power,
    /// Everything on it stands still until then.
    pub frozen_until: Option<Time>,
    clock: Clock,
    /// How much the wall clock is ahead of the true time, in milliseconds.
    pub wall_offset_ms: i64,
    /// What becomes of lookups of names.
    pub names: Names,
}

/// Whether a machine has power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It has.
    On,
    /// It has not.
    Off,
}

/// A monotonic clock that goes at its own rate.
#[derive(Clone, Copy, Debug)]
struct Clock {
    true_anchor: Time,
    local_anchor: Duration,
    /// Local microseconds for each true second.
    rate: u64,
}

const EXACT: u64 = 1_000_000;

impl Host {
    /// A machine that was switched on long before the run began: clocks of different hosts have nothing in common.
    pub fn new(random: &mut Random) -> Self {
        let local_anchor = random.millis(1_000_000, 900_000_000);
        let clock = Clock { true_anchor: Time::ZERO, local_anchor, rate: EXACT };
        Host { power: Power::On, frozen_until: None, clock, wall_offset_ms: 0, names: Names::Work }
    }

    /// What the monotonic clock shows.
    pub fn local(&self, now: Time) -> Duration {
        let elapsed = now.saturating_sub(self.clock.true_anchor).as_micros() as u64;
        self.clock.local_anchor + Duration::from_micros(scale(elapsed, self.clock.rate, EXACT))
    }

    /// When the monotonic clock will show `local`; now if it does already.
    pub fn when(&self, local: Duration, now: Time) -> Time {
        // A moment between two microseconds has come with the later one.
        let ahead = local.saturating_sub(self.clock.local_anchor).as_nanos().div_ceil(1_000) as u64;
        // One microsecond more, so that the moment has come by the local clock in spite of the rounding.
        let moment = self.clock.true_anchor + Duration::from_micros(scale(ahead, EXACT, self.clock.rate) + 1);
        moment.max(now)
    }

    /// The true length of a span that the local clock measures.
    pub fn span(&self, local: Duration) -> Duration {
        Duration::from_micros(scale(local.as_micros() as u64, EXACT, self.clock.rate))
    }

    /// From now on the clock is so many parts in a thousand too fast.
    pub fn set_rate(&mut self, now: Time, per_mille: i64) {
        let local_anchor = self.local(now);
        let rate = EXACT.saturating_add_signed(per_mille * 1000);
        self.clock = Clock { true_anchor: now, local_anchor, rate };
    }
}

fn scale(value: u64, numerator: u64, denominator: u64) -> u64 {
    (u128::from(value) * u128::from(numerator) / u128::from(denominator)) as u64
}

/// A directed link.
#[derive(Clone, Copy, Debug, Default)]
pub struct Link {
    /// How many faults cut it now.
    pub cuts: u8,
    /// What is added to the usual latency.
    pub extra: Duration,
    /// Of a hundred packets so many are lost and sent again 200 ms or more later.
    pub loss: u8,
}

/// All links.
#[derive(Clone, Debug)]
pub struct Network {
    hosts: usize,
    links: Vec<Link>,
}

impl Network {
    /// A network between `hosts` hosts on which nothing is wrong.
    pub fn new(hosts: usize) -> Self {
        Network { hosts, links: vec![Link::default(); hosts * hosts] }
    }

    /// The link from one host to another.
    pub fn link(&mut self, from: HostId, to: HostId) -> &mut Link {
        &mut self.links[usize::from(from.0) * self.hosts + usize::from(to.0)]
    }

    /// How long a message takes; none when it does not arrive.
    pub fn latency(&self, from: HostId, to: HostId, random: &mut Random) -> Option<Duration> {
        if from == to {
            return Some(Duration::from_micros(random.between(20, 80)));
        }
        let link = &self.links[usize::from(from.0) * self.hosts + usize::from(to.0)];
        if link.cuts > 0 {
            return None;
        }
        let mut latency = random.span(Duration::from_micros(100), Duration::from_micros(900)) + link.extra;
        while link.loss > 0 && random.chance(link.loss.into()) {
            latency += random.millis(200, 600);
        }
        Some(latency)
    }

    /// True while messages arrive in this direction.
    pub fn is_open(&self, from: HostId, to: HostId) -> bool {
        from == to || self.links[usize::from(from.0) * self.hosts + usize::from(to.0)].cuts == 0
    }

    /// True while nothing loses or delays messages in this direction.
    pub fn is_quick(&self, from: HostId, to: HostId) -> bool {
        let link = &self.links[usize::from(from.0) * self.hosts + usize::from(to.0)];
        from == to || (link.cuts == 0 && link.extra.is_zero() && link.loss == 0)
    }

    /// Number of hosts.
    pub fn hosts(&self) -> usize {
        self.hosts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_too_fast_shows_a_moment_earlier() {
        let mut host = Host::new(&mut Random::new(3));
        let begun = host.local(Time::ZERO);
        let hour = Duration::from_secs(3600);
        host.set_rate(Time::ZERO, 50);
        assert_eq!(host.local(hour) - begun, hour + hour / 20);
        let moment = host.when(begun + hour, Time::ZERO);
        assert!(moment < hour && host.local(moment) >= begun + hour);
        // A span that is no whole number of microseconds has passed at its moment, or the same moment would be asked for for ever.
        let odd = begun + Duration::from_nanos(1_500);
        host.set_rate(Time::ZERO, -26);
        assert!(host.local(host.when(odd, Time::ZERO)) >= odd);
    }

    #[test]
    fn a_cut_is_directed() {
        let mut network = Network::new(2);
        network.link(HostId(0), HostId(1)).cuts = 1;
        let mut random = Random::new(1);
        assert_eq!(network.latency(HostId(0), HostId(1), &mut random), None);
        assert!(network.latency(HostId(1), HostId(0), &mut random).is_some());
    }
}
