//! The keeper: observe, plan, apply.
