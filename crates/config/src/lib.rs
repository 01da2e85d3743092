//! flyover-config
