//! What an operator gives to `stolonctl init` and `update`: a specification, or a patch of one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stolon_model::{ClusterSpec, Document as _, Patch, spec_changes, unknown_fields};

fuzz_target!(|text: &str| {
    let _ = unknown_fields(text);
    match ClusterSpec::from_json(text) {
        Ok(spec) => {
            let _ = spec.validate();
            spec.remarks();
            spec.effective();
            assert_eq!(spec_changes(&spec, &spec), Vec::<String>::new());
        }
        Err(error) => {
            error.explain(text);
        }
    }
    if let Ok(patch) = Patch::parse(text) {
        patch.unknown_fields();
        let _ = patch.apply(&ClusterSpec::default());
    }
});
