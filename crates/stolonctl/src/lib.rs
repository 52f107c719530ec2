//! The operator's hand, one file per subcommand.
