//! flyover-cli
