//! What the programs share: flags, logging, metrics, signals, exit codes.
