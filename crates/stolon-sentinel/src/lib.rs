//! The sentinel: read the view, reconcile, compare-and-put.
