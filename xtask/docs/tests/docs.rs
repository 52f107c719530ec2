//! Pages that are made from the code are as the code would make them now.

use std::process::Command;

#[test]
fn pages_made_from_the_code_are_fresh() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_xtask-docs")).arg("--check").output().expect("xtask-docs runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
