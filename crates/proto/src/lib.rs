//! flyover-proto
