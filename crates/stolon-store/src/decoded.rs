//! Everything that a sentinel decides on, made of the entries of a store. A sentinel reads often, and between two readings hardly
//! anything is written anew: what was decoded before is used again, and equal parameters of PostgreSQL are one in memory. Revisions
//! alone do not tell what is the same: a store that was restored counts from an older one on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stolon_model::{ClusterDocument, KeeperReport, Parameters, ProxyReport, ProxyUid};

use crate::kv_cluster::{Reports, StoredDocument, decode, document_key, readable_report, readable_reports};
use crate::{Entry, Everything, Key, Selector, StoreError, Versioned};

/// What was decoded.
#[derive(Default)]
pub(crate) struct Decoded {
    document: Option<(Entry, Option<Versioned<ClusterDocument>>)>,
    /// By their keys; none: it cannot be read.
    keepers: BTreeMap<Key, (Entry, Option<Arc<KeeperReport>>)>,
    parameters: BTreeSet<Arc<Parameters>>,
}

impl Decoded {
    /// Everything in these entries of a cluster.
    ///
    /// # Errors
    /// The cluster document cannot be read.
    pub fn everything<'a>(
        &mut self,
        cluster: &Key,
        entries: impl Iterator<Item = &'a Entry> + Clone,
    ) -> Result<Everything, StoreError> {
        let document = document_key(cluster);
        let below = |kind: Reports| {
            let selector = Selector::Below(kind.below(cluster));
            entries.clone().filter(move |entry| selector.contains(entry.key.as_str()))
        };
        let document = self.document(entries.clone().find(|entry| entry.key == document))?;
        let keepers = self.keepers(below(Reports::Keepers));
        self.parameters.retain(|parameters| Arc::strong_count(parameters) > 1);
        Ok(Everything {
            document,
            keepers: keepers.into_iter().map(|report| (report.uid.clone(), report)).collect(),
            arrivals: BTreeMap::new(),
            proxies: readable_reports(below(Reports::Proxies), |report: &ProxyReport| report.uid.clone()),
            unreadable_proxies: unreadable_proxies(below(Reports::Proxies)),
        })
    }

    fn document(&mut self, entry: Option<&Entry>) -> Result<Option<Versioned<ClusterDocument>>, StoreError> {
        let known = self.document.take().filter(|(known, _)| Some(known) == entry);
        let document = match known {
            Some((_, document)) => document,
            None => {
                let mut document = StoredDocument::read(entry)?.present();
                for (_, instance) in
                    document.iter_mut().flat_map(|it| it.value.instances.iter_mut().flatten())
                {
                    self.share(&mut instance.spec.pg_parameters);
                    self.share(&mut instance.status.pg_parameters);
                }
                document
            }
        };
        self.document = entry.map(|entry| (entry.clone(), document.clone()));
        Ok(document)
    }

    fn keepers<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) -> Vec<Arc<KeeperReport>> {
        let mut known = std::mem::take(&mut self.keepers);
        for entry in entries {
            let decoded = match known.remove(&entry.key).filter(|(known, _)| known == entry) {
                Some((_, report)) => report,
                None => readable_report(entry).map(|mut report: KeeperReport| {
                    if let Some(state) = &mut report.postgres_state {
                        self.share(&mut state.pg_parameters);
                    }
                    Arc::new(report)
                }),
            };
            self.keepers.insert(entry.key.clone(), (entry.clone(), decoded));
        }
        self.keepers.values().filter_map(|(_, report)| report.clone()).collect()
    }

    fn share(&mut self, parameters: &mut Option<Arc<Parameters>>) {
        let Some(own) = parameters else { return };
        match self.parameters.get(own) {
            Some(shared) => *own = Arc::clone(shared),
            None => drop(self.parameters.insert(Arc::clone(own))),
        }
    }
}

/// A proxy whose report cannot be read may be forwarding, which is not the same as a proxy that has closed: its silence must not
/// be taken for consent to another primary.
fn unreadable_proxies<'a>(entries: impl Iterator<Item = &'a Entry>) -> BTreeSet<ProxyUid> {
    entries
        .filter(|entry| !entry.value.is_empty() && decode::<ProxyReport>(entry).is_err())
        .filter_map(|entry| entry.key.as_str().rsplit('/').next())
        .map(ProxyUid::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use stolon_model::{ClusterData, ClusterSpec, Document, Instance, PostgresState, Timestamp};

    use super::*;
    use crate::Revision;

    fn entry(key: Key, revision: i64, document: &impl Document) -> Entry {
        Entry { key, value: document.to_json().into_bytes(), revision: Revision(revision) }
    }

    fn parameters(work_mem: &str) -> Option<Arc<Parameters>> {
        Some(Arc::new(Parameters::from([("work_mem".to_owned(), work_mem.to_owned())])))
    }

    fn report(uid: &str, work_mem: &str) -> KeeperReport {
        let state = PostgresState { pg_parameters: parameters(work_mem), ..PostgresState::default() };
        KeeperReport { uid: uid.into(), postgres_state: Some(state), ..KeeperReport::default() }
    }

    fn of(everything: &Everything, keeper: &str) -> Arc<KeeperReport> {
        Arc::clone(&everything.keepers[&keeper.into()])
    }

    #[test]
    fn what_is_written_anew_is_decoded_and_the_rest_is_what_it_was() {
        let cluster = Key::new("stolon/cluster/c");
        let key = |uid| Reports::Keepers.below(&cluster).child(uid);
        let mut decoded = Decoded::default();
        let before = [entry(key("a"), 1, &report("a", "1MB")), entry(key("b"), 2, &report("b", "1MB"))];
        let first = decoded.everything(&cluster, before.iter()).expect("readable");
        let after = [before[0].clone(), entry(key("b"), 3, &report("b", "2MB"))];
        let second = decoded.everything(&cluster, after.iter()).expect("readable");
        assert!(Arc::ptr_eq(&of(&first, "a"), &of(&second, "a")));
        assert_eq!(*of(&second, "b"), report("b", "2MB"));
        let restored = [before[0].clone(), entry(key("b"), 3, &report("b", "3MB"))];
        let third = decoded.everything(&cluster, restored.iter()).expect("readable");
        assert_eq!(*of(&third, "b"), report("b", "3MB"), "the revision is that of another report");
        assert_eq!(second, Decoded::default().everything(&cluster, after.iter()).expect("readable"));
        let gone = decoded.everything(&cluster, after[1..].iter()).expect("readable");
        assert_eq!(gone.keepers.keys().map(|uid| uid.as_str()).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn equal_parameters_are_one_in_memory_and_go_with_the_last_who_has_them() {
        let cluster = Key::new("stolon/cluster/c");
        let key = |uid| Reports::Keepers.below(&cluster).child(uid);
        let mut instance = Instance { uid: "i".into(), ..Instance::default() };
        instance.spec.pg_parameters = parameters("1MB");
        instance.status.pg_parameters = parameters("1MB");
        let mut data = ClusterData::initial("c".into(), ClusterSpec::default(), Timestamp::ZERO);
        data.instances.insert(instance.uid.clone(), instance);
        let document = entry(document_key(&cluster), 1, &ClusterDocument::from(data));
        let entries = [document, entry(key("a"), 2, &report("a", "1MB"))];
        let mut decoded = Decoded::default();
        let everything = decoded.everything(&cluster, entries.iter()).expect("readable");
        let reported =
            of(&everything, "a").postgres_state.clone().and_then(|it| it.pg_parameters).expect("told");
        let stored = everything.document.expect("there").value.instances.expect("there");
        for (_, instance) in stored {
            for parameters in [instance.spec.pg_parameters, instance.status.pg_parameters] {
                assert!(Arc::ptr_eq(&parameters.expect("there"), &reported));
            }
        }
        drop((reported, everything.keepers));
        decoded.everything(&cluster, entries[..0].iter()).expect("readable");
        assert!(decoded.parameters.is_empty(), "{:?}", decoded.parameters);
    }
}
