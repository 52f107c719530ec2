//! The address behind the name of the server that clients are sent to. A name server that fails takes no address away.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use stolon_model::ServerAddress;

use super::pauses::pause_after;
use super::{Effect, Notice, Upstream};

/// How long a lookup may take. It runs beside the checks: nothing waits for it but a destination without an address.
const LIMIT: Duration = Duration::from_secs(5);

/// A server and the name of its address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub to: Upstream,
    pub name: ServerAddress,
}

/// What is known of the wanted target's address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Names {
    wanted: Option<Target>,
    address: Option<SocketAddr>,
    asking: Option<ServerAddress>,
    failures: u32,
    /// When to ask; `None`: not before the address is wanted.
    next: Option<Duration>,
}

/// The address, if the name is numeric.
fn literal(name: &ServerAddress) -> Option<SocketAddr> {
    Some(SocketAddr::new(name.host.parse::<IpAddr>().ok()?, name.port.parse().ok()?))
}

impl Names {
    /// Want this target from now on; `None`: no target.
    pub fn want(&mut self, now: Duration, target: Option<Target>) {
        if self.wanted == target {
            return;
        }
        self.address = target.as_ref().and_then(|target| literal(&target.name));
        self.failures = 0;
        self.next = (target.is_some() && self.address.is_none()).then_some(now);
        self.wanted = target;
    }

    /// The address of the wanted target.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Ask again, since a name may have got another address.
    pub fn refresh(&mut self, now: Duration) {
        if self.wanted.as_ref().is_some_and(|target| literal(&target.name).is_none()) {
            self.next = Some(self.next.map_or(now, |next| next.min(now)));
        }
    }

    /// When [`Names::ask`] has something to do.
    pub fn wake_at(&self) -> Option<Duration> {
        self.next.filter(|_| self.asking.is_none() || self.is_asking_for_another())
    }

    fn is_asking_for_another(&self) -> bool {
        self.asking.as_ref() != self.wanted.as_ref().map(|target| &target.name)
    }

    /// Begin a lookup, if it is time for one.
    pub fn ask(&mut self, now: Duration) -> Option<Effect> {
        self.wake_at().filter(|next| *next <= now)?;
        let name = self.wanted.as_ref()?.name.clone();
        self.next = None;
        self.asking = Some(name.clone());
        Some(Effect::Resolve { name, limit: LIMIT })
    }

    /// The addresses of `name` are these: the one in use goes on while it is one of them. Longest pause after a failure:
    /// `longest`.
    pub fn resolved(
        &mut self,
        now: Duration,
        name: &ServerAddress,
        addresses: &[SocketAddr],
        longest: Duration,
    ) -> Option<Notice> {
        let Some(first) = addresses.first().copied() else { return self.failed(now, name, longest) };
        if !self.is_answer(name) {
            return None;
        }
        self.failures = 0;
        self.address = self.address.filter(|address| addresses.contains(address)).or(Some(first));
        None
    }

    /// The name could not be resolved: an address that is in use goes on.
    pub fn failed(&mut self, now: Duration, name: &ServerAddress, longest: Duration) -> Option<Notice> {
        if !self.is_answer(name) {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        let retry_in = pause_after(self.failures, longest);
        self.next = Some(now.saturating_add(retry_in));
        Some(Notice::LookupFailed { name: name.clone(), keeps: self.address, retry_in })
    }

    /// True if the answer is to the last question and still needed.
    fn is_answer(&mut self, name: &ServerAddress) -> bool {
        if self.asking.as_ref() != Some(name) {
            return false;
        }
        self.asking = None;
        self.wanted.as_ref().is_some_and(|target| target.name == *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);
    const LONGEST: Duration = Duration::from_secs(5);

    fn name(host: &str) -> ServerAddress {
        ServerAddress { host: host.to_owned(), port: "5432".to_owned() }
    }

    fn target(primary: &str, host: &str) -> Target {
        Target { to: Upstream::Primary(primary.into()), name: name(host) }
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 5432))
    }

    fn wanting(primary: &str, host: &str) -> Names {
        let mut names = Names::default();
        names.want(NOW, Some(target(primary, host)));
        names
    }

    #[test]
    fn numbers_need_no_lookup() {
        let mut names = wanting("a", "10.0.0.7");
        assert_eq!(names.address(), Some(address(7)));
        names.refresh(NOW);
        assert_eq!(names.ask(NOW), None);
        assert!(wanting("a", "::1").address().is_some_and(|address| address.is_ipv6()));
    }

    #[test]
    fn the_address_in_use_goes_on_while_it_is_one_of_the_names_or_nobody_knows() {
        let mut names = wanting("a", "db");
        assert_eq!(names.ask(NOW), Some(Effect::Resolve { name: name("db"), limit: LIMIT }));
        assert_eq!(names.ask(NOW), None, "one lookup at a time");
        assert_eq!(names.resolved(NOW, &name("db"), &[address(1), address(2)], LONGEST), None);
        assert_eq!(names.address(), Some(address(1)));
        for (answer, expected) in
            [(vec![address(2), address(1)], 1), (vec![address(2)], 2), (vec![], 2), (vec![address(3)], 3)]
        {
            names.refresh(NOW);
            assert!(names.ask(NOW).is_some());
            let notice = names.resolved(NOW, &name("db"), &answer, LONGEST);
            assert_eq!(notice.is_some(), answer.is_empty());
            assert_eq!(names.address(), Some(address(expected)), "{answer:?}");
        }
    }

    #[test]
    fn a_failed_lookup_is_repeated_after_a_growing_pause() {
        let mut names = wanting("a", "db");
        for pause in [100, 200, 400] {
            let now = names.wake_at().unwrap();
            assert!(names.ask(now).is_some());
            let retry_in = Duration::from_millis(pause);
            let expected = Notice::LookupFailed { name: name("db"), keeps: None, retry_in };
            assert_eq!(names.failed(now, &name("db"), LONGEST), Some(expected));
            assert_eq!(names.wake_at(), Some(now + retry_in));
        }
    }

    #[test]
    fn another_primary_gets_no_address_of_the_one_before_even_under_the_same_name() {
        let mut names = wanting("a", "db");
        names.ask(NOW);
        names.resolved(NOW, &name("db"), &[address(1)], LONGEST);
        names.want(NOW, Some(target("b", "db")));
        assert_eq!(names.address(), None);
        assert!(names.ask(NOW).is_some());
    }

    #[test]
    fn a_late_answer_about_another_name_is_not_taken() {
        let mut names = wanting("a", "old");
        names.ask(NOW);
        names.want(NOW, Some(target("b", "new")));
        assert!(names.ask(NOW).is_some(), "it does not wait for the lookup of the old name");
        assert_eq!(names.resolved(NOW, &name("old"), &[address(1)], LONGEST), None);
        assert_eq!(names.address(), None);
        names.resolved(NOW, &name("new"), &[address(2)], LONGEST);
        assert_eq!(names.address(), Some(address(2)));
    }
}
