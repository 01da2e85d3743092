//! flyover-core
