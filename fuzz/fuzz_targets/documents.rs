//! Any bytes, read as every document of the store and as a patch of a specification.

#![no_main]

#[path = "../../crates/stolon-model/tests/wire_property/mod.rs"]
mod wire_property;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wire_property::every_document_holds(&String::from_utf8_lossy(
    bytes
)));
