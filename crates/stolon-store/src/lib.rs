//! The stores: one contract, several backends, one conformance suite.
