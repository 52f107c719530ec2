//! The property of the wire format, shared by the tests and the fuzz target: no text makes reading panic,
//! and what can be read is written so that it is read back as the same.

use std::fmt::Debug;

use stolon_model::{
    ClusterDocument, ClusterSpec, Document, KeeperReport, Patch, ProxyReport, SentinelReport, unknown_fields,
};

/// Panics when `text` breaks the property of any document.
pub fn every_document_holds(text: &str) {
    holds::<ClusterDocument>(text);
    holds::<ClusterSpec>(text);
    holds::<KeeperReport>(text);
    holds::<SentinelReport>(text);
    holds::<ProxyReport>(text);
    let _ = unknown_fields(text);
    if let Ok(spec) = ClusterSpec::from_json(text) {
        let _ = (spec.validate(), spec.remarks());
        assert_eq!(spec.with_defaults().effective(), spec.effective());
        if let Ok(patched) = Patch::parse(text).and_then(|patch| patch.apply(&spec)) {
            holds::<ClusterSpec>(&patched.to_json_set_only());
            holds::<ClusterSpec>(&patched.to_json_with_defaults());
        }
    }
}

fn holds<D: Document + PartialEq + Debug>(text: &str) {
    let document = match D::from_json(text) {
        Ok(document) => document,
        Err(error) => {
            assert!(error.explain(text).sentence.starts_with(&error.to_string()));
            return;
        }
    };
    let written = document.to_json();
    let again = D::from_json(&written).unwrap_or_else(|error| panic!("{}", error.explain(&written)));
    assert_eq!(again.to_json(), written);
    let indented = D::from_json(&document.to_json_indented()).map(|document| document.to_json());
    assert_eq!(indented, Ok(written));
}
