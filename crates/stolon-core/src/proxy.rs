//! What the proxy decides.
