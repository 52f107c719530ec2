//! What PostgreSQL and its tools write: control data, timeline histories, logs; and configuration files that came with a legacy
//! database.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stolon_postgres::{
    ControlData, explain_startup_failure, parse_history, parse_setting, refused_hba_lines,
};

fuzz_target!(|text: &str| {
    let _ = ControlData::parse(text);
    let _ = parse_history(text);
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for line in &lines {
        parse_setting(line);
    }
    explain_startup_failure(&lines);
    refused_hba_lines(&lines);
});
