//! The program as operators and scripts see it: bytes on stdout and stderr, exit status, what is stored afterwards.

mod clusterdata;
mod command_line;
mod harness;
mod init;
mod keepers;
mod status;
mod stores;
mod update;
