//! PostgreSQL as a model: what it promises, and how it breaks.

mod history;
mod instance;
mod replication;
mod run;
mod server;

pub(crate) use history::{BranchId, Histories, Position};
pub(crate) use instance::UnderWay;
pub(crate) use run::Happening;
pub(crate) use server::{
    Condition, DataDirectory, Disk, Phase, Postgres, Sender, Server, Thaw, Troubles, Waiting,
};
