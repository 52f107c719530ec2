//! How many connections each address of a client has, so that one of them cannot take all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Counts connections by address. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Guests {
    most: Option<u32>,
    open: Arc<Mutex<HashMap<IpAddr, Visits>>>,
}

#[derive(Debug, Default)]
struct Visits {
    open: u32,
    /// That it was turned away is said once, until it has fewer connections again.
    told: bool,
}

/// One connection; it no longer counts when this is dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    guests: Guests,
    address: IpAddr,
}

impl Guests {
    /// At most `most` for each address; none: as many as come.
    pub fn new(most: Option<u32>) -> Self {
        Guests { most, open: Arc::default() }
    }

    /// Counts one more connection, unless the address has as many as it may.
    pub fn admit(&self, address: IpAddr) -> Option<Guest> {
        // An IPv4 client of a socket for both families.
        let address = address.to_canonical();
        let mut open = self.open.lock();
        let visits = open.entry(address).or_default();
        if let Some(most) = self.most.filter(|most| visits.open >= *most) {
            if !std::mem::replace(&mut visits.told, true) {
                tracing::warn!(client = %address, most, "this client has as many connections as one may, others are closed at once");
            }
            return None;
        }
        visits.open += 1;
        Some(Guest { guests: self.clone(), address })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut open = self.guests.open.lock();
        let Some(visits) = open.get_mut(&self.address) else { return };
        visits.open -= 1;
        visits.told = false;
        if visits.open == 0 {
            open.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_counts_for_itself_and_is_forgotten_when_it_is_gone() {
        let guests = Guests::new(Some(2));
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let first = guests.admit(one).unwrap();
        let second = guests.admit("::ffff:10.0.0.1".parse().unwrap()).unwrap();
        assert!(guests.admit(one).is_none());
        assert!(guests.admit(other).is_some());
        drop(first);
        assert!(guests.admit(one).is_some());
        drop(second);
        assert!(guests.open.lock().is_empty());
        let many: Vec<_> = (0..100).map(|_| Guests::new(None).admit(one)).collect();
        assert!(many.iter().all(Option::is_some));
    }
}
