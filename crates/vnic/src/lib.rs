//! flyover-vnic
