//! flyover-preload
