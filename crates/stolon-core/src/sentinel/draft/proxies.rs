//! Changes of where proxies send clients.

use stolon_model::{InstanceUid, ProxyUid, ServerAddress};

use super::Draft;
use crate::sentinel::{Change, PrimaryFault};

impl Draft<'_> {
    /// Send clients nowhere, because the primary is to be replaced.
    pub fn close_proxies(&mut self, because: &PrimaryFault) {
        if self.proxy.spec.primary.is_some() {
            self.send_nowhere();
            let generation = self.proxy.generation;
            self.note(Change::ProxiesClosed { generation, because: because.clone() });
        }
    }

    /// Send clients nowhere without telling operators: the document was edited by hand, and clients go from one primary to another
    /// only by way of none.
    pub fn send_nowhere(&mut self) {
        self.data.proxy.spec.primary = None;
        self.data.proxy.spec.handover = None;
        self.data.proxy.spec.legacy = None;
        self.data.proxy.generation += 1;
    }

    /// Send clients to the legacy server of a migration, through these proxies.
    pub fn open_to_legacy(&mut self, address: &ServerAddress, enabled: Vec<ProxyUid>) {
        self.data.proxy.spec.legacy = Some(address.clone());
        self.data.proxy.spec.handover = None;
        self.data.proxy.generation += 1;
        self.enable(enabled);
        let generation = self.proxy.generation;
        self.note(Change::ProxiesOpenedToLegacy { address: address.clone(), generation });
    }

    /// No proxy can be forwarding any more: whoever switches may go on.
    pub fn note_proxies_away(&mut self) {
        let generation = self.proxy.generation;
        if let Some(record) = &mut self.data.cluster.status.migration {
            record.proxies_away = Some(generation);
        }
    }

    /// Send clients to `primary`, through these proxies.
    pub fn open_proxies(&mut self, primary: &InstanceUid, enabled: Vec<ProxyUid>) {
        self.data.proxy.spec.primary = Some(primary.clone());
        self.data.proxy.spec.legacy = None;
        self.data.proxy.spec.handover = None;
        self.data.proxy.generation += 1;
        self.enable(enabled);
        let generation = self.proxy.generation;
        self.note(Change::ProxiesOpened { to: primary.clone(), generation });
    }

    /// Let these proxies forward.
    pub fn enable_proxies(&mut self, enabled: Vec<ProxyUid>) {
        if *self.proxy.spec.enabled_proxies.as_deref().unwrap_or_default() != *enabled {
            self.data.proxy.generation += 1;
            self.enable(enabled.clone());
            let generation = self.proxy.generation;
            self.note(Change::EnabledProxiesChanged { enabled, generation });
        }
    }

    /// No proxies, in the form that was there before: null and `[]` mean the same here.
    fn enable(&mut self, enabled: Vec<ProxyUid>) {
        let current = &mut self.data.proxy.spec.enabled_proxies;
        if !(enabled.is_empty() && current.as_ref().is_none_or(Vec::is_empty)) {
            *current = Some(enabled);
        }
    }
}
