//! flyover-wire
