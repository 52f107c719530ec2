//! Connection strings that an operator wrote: without their password they still name everything else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stolon_postgres::conninfo::part;

fuzz_target!(|text: &str| {
    let Some(parted) = part(text, "/run/pgpass") else { return };
    assert!(part(&parted.conninfo, "/run/pgpass").is_none_or(|again| again.password.is_empty()));
});
