//! flyover-shm
