//! flyover-daemon
