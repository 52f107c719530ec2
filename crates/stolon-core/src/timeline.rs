//! Timelines: whether two instances share a history.
