//! The proxy: route, then forward.
