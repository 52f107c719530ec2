//! Names of hosts: keepers and proxies know each other's addresses by them. A lookup that fails, or that takes long, takes no address away.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use stolon_core::proxy::{ClosedBecause, Event as MachineEvent};
use stolon_model::ServerAddress;

use crate::coverage::Point;
use crate::host::HostId;
use crate::invariants::Invariant;
use crate::sabotage::Guard;
use crate::scenario::{Fault, Program, Scenario, What};
use crate::world::World;

/// The resolver of the C library gives up after so long (two servers, or two attempts, of five seconds).
const RESOLVER_LIMIT: Duration = Duration::from_secs(10);
/// A lookup where nothing is wrong.
const USUAL: Duration = Duration::from_micros(500);

/// What becomes of lookups on a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// They are answered at once.
    #[default]
    Work,
    /// They fail.
    Fail,
    /// They are answered after so long.
    Late(Duration),
}

impl World {
    /// Names fail, take long, or work again where the fault says.
    pub(crate) fn names_become(&mut self, what: &What, names: Names) {
        let hosts: Vec<HostId> = match what {
            What::NamesFail(proxy) => vec![self.host_of(Program::Proxy(*proxy))],
            What::NamesFailAtKeeper(keeper) => vec![HostId(*keeper)],
            _ => (0..self.hosts.len() as u8).map(HostId).collect(),
        };
        let names = match what {
            What::NamesLate(millis) if names == Names::Fail => Names::Late(Duration::from_millis(*millis)),
            _ => names,
        };
        hosts.iter().for_each(|host| self.hosts[usize::from(host.0)].names = names);
    }

    /// How long a lookup takes on a host; none: it fails.
    pub(crate) fn lookup(&mut self, host: HostId) -> Option<Duration> {
        match self.hosts[usize::from(host.0)].names {
            Names::Work => Some(Duration::ZERO),
            Names::Late(span) if span < RESOLVER_LIMIT => {
                self.coverage.reached(Point::NamesLate);
                Some(span)
            }
            Names::Late(_) | Names::Fail => {
                self.coverage.reached(Point::NamesFailed);
                None
            }
        }
    }

    /// A proxy asks for the address of a name. Every keeper has one address, which is told by its name.
    pub(crate) fn resolve(&mut self, index: u8, name: ServerAddress, limit: Duration) {
        let address = |keeper| SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, keeper)), 5432);
        let keeper = self.keeper_at(&name.host);
        let host = self.host_of(Program::Proxy(index));
        let takes = self.lookup(host).map(|span| span + USUAL).filter(|span| *span < limit);
        let (event, delay) = match (keeper, takes) {
            (Some(keeper), Some(takes)) => (MachineEvent::Resolved(name, vec![address(keeper)]), takes),
            // Without the guard what cannot be looked up seems to have moved.
            (Some(keeper), None) if self.lacks(Guard::NameKeepsAddress) => {
                (MachineEvent::Resolved(name, vec![address(keeper + 100)]), limit)
            }
            _ => (MachineEvent::ResolveFailed(name), limit),
        };
        self.tell_proxy_after(index, delay, event);
    }

    /// A proxy ends the connections through it.
    pub(crate) fn check_close(&mut self, proxy: u8, why: &ClosedBecause) {
        let only_names = self.scenario.faults.iter().all(|fault| fault.what.is_about_names());
        let began = self.scenario.faults.first().map_or(u64::MAX, |fault| fault.at);
        if only_names && self.now >= Duration::from_millis(began) {
            self.violate(Invariant::NamesCutNothing, || {
                format!("p{proxy} ends its sessions ({why:?}) although nothing is wrong but lookups of names")
            });
        }
    }
}

impl What {
    fn is_about_names(&self) -> bool {
        matches!(
            self,
            What::NamesFail(_) | What::NamesFailAtKeeper(_) | What::NamesFailForAll | What::NamesLate(_)
        )
    }
}

impl Scenario {
    /// Nothing is wrong but names: they fail everywhere, then are answered late, then fail at each keeper and proxy.
    pub fn without_names(seed: u64) -> Scenario {
        let scenario = Scenario::draw(seed, Duration::from_secs(300));
        let at = 45_000 + seed % 997;
        let keepers = (0..scenario.keepers).map(What::NamesFailAtKeeper);
        let proxies = (0..scenario.proxies).map(What::NamesFail);
        let first = [What::NamesFailForAll, What::NamesLate(3_000 + seed % 11 * 1_000)];
        let spans = (0..).map(|number| at + number * 35_000);
        let faults = first.into_iter().chain(keepers).chain(proxies).zip(spans);
        let faults = faults.map(|(what, at)| Fault { at, lasts: 30_000, what }).collect::<Vec<_>>();
        let quiet_at = faults.iter().map(|fault| fault.at + fault.lasts).max().unwrap_or(0) + 1_000;
        Scenario { faults, quiet_at, ..scenario }
    }
}
