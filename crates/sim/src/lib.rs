//! flyover-sim
