//! The program as operators and scripts see it: bytes on stdout and stderr, exit status, what is stored afterwards.

// A test that meets an unexpected value fails; that is what unwrap does.
#![allow(clippy::unwrap_used)]

mod bad_specification;
mod clusterdata;
mod command_line;
mod harness;
mod init;
mod keepers;
mod migrate_check;
mod migrate_verify;
mod more_commands;
mod recover;
mod register;
mod settle;
mod status;
mod stores;
mod update;
