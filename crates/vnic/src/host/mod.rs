//! What needs privilege: making V-NIC sockets, loading and attaching the flow programs, and looking at
//! interfaces. Used by the daemon, the tests and the benchmarks; never by a process of a stack.
