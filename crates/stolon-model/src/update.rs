//! Which changes of a specification a running cluster takes (docs: "Changing a running cluster").

use std::borrow::Cow;

use crate::effective::InvalidSpec;
use crate::explained::Advise;
use crate::spec::{ClusterSpec, Role};

/// Why a changed specification is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateRefused {
    /// It cannot be worked with.
    #[error("invalid cluster spec: {0}")]
    Invalid(#[from] InvalidSpec),
    /// How a cluster was made cannot be changed afterwards.
    #[error("cannot change cluster init mode")]
    InitModeChanged,
    /// A cluster with its own primary cannot start to follow another one.
    #[error("cannot update a cluster from master role to standby role")]
    PrimaryToStandby,
}

impl Advise for UpdateRefused {
    fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Invalid(invalid) => invalid.hint(),
            Self::InitModeChanged => {
                Some("repeat the stored initMode, or make the cluster anew with stolonctl init".into())
            }
            Self::PrimaryToStandby => Some(
                "make the cluster anew with stolonctl init, initMode \"pitr\" and role \"standby\"".into(),
            ),
        }
    }
}

impl ClusterSpec {
    /// May `self`, the stored specification, be replaced by `new`?
    ///
    /// Nothing is demanded of the stored one: an invalid one can be repaired. Where it has no known init mode
    /// or role, any valid one is taken.
    ///
    /// # Errors
    /// `new` is invalid, or the change is none that a running cluster takes.
    pub fn check_update(&self, new: &ClusterSpec) -> Result<(), UpdateRefused> {
        let wanted = new.validate()?;
        let stored = self.effective();
        let stored_init_mode_is_known = self.init_mode.as_ref().is_some_and(|mode| !mode.is_unknown());
        if stored_init_mode_is_known && wanted.init_mode != stored.init_mode {
            return Err(UpdateRefused::InitModeChanged);
        }
        if stored.role == Role::Primary && wanted.role == Role::Standby {
            return Err(UpdateRefused::PrimaryToStandby);
        }
        Ok(())
    }
}
