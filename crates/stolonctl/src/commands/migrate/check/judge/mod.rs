//! What stands in the way of a migration, judged from what was found. No IO.

mod access;
mod copied;
mod hba;
mod place;
mod replicated;
mod settings;
#[cfg(test)]
mod tests;

use super::finding::Finding;
use super::inventory::{Destination, Inventory, Method};

/// Everything that is judged, and the method that it was judged for.
pub fn findings(
    legacy: &Inventory,
    destination: &Destination,
    asked: Option<Method>,
) -> (Method, Vec<Finding>) {
    let (method, mut findings) = access::method(legacy, destination, asked);
    findings.extend(access::findings(legacy, method));
    findings.extend(place::findings(legacy, destination, method));
    findings.extend(settings::findings(legacy, destination, method));
    findings.extend(hba::findings(legacy, destination, method));
    findings.extend(copied::findings(legacy, method));
    if method == Method::Logical {
        findings.extend(replicated::findings(legacy, destination));
    }
    (method, findings)
}
