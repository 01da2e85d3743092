//! flyover-cplane
