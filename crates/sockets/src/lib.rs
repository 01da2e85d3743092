//! flyover-sockets
