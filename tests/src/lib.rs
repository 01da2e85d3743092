//! Harness of the end-to-end tests, the demonstration and the benchmarks.
//!
//! Everything here watches Flyover from outside: unmodified programs in network namespaces that are
//! joined by veth pairs, with a plain kernel peer wherever a test is about one side.
//!
//! | file | what lives there |
//! |---|---|
//! | [`netns`] | one network namespace: create, configure, enter, delete |
//! | [`lab`] | namespaces wired together, a private daemon, a directory: what one test needs |
//! | [`wiring`] | the topologies: a pair, a pair behind a lossy middlebox, two gateways |
//! | [`local`] | the same within this host, as an ordinary user: the local path |
//! | [`cmd`] | start a program in a namespace, plain or under `flyover run`; capture; time limit |
//! | [`procfs`] | what the kernel says: process trees, CPU time, listening ports, SNMP counters |
//! | [`daemon`] | a private `flyoverd`, and who belongs to it |
//! | [`user`] | programs of an ordinary user, and the daemon that they start |
//! | [`sockets`] | `flyover ss --json`, and proof that the kernel's TCP was bypassed |
//! | [`echo`] | a live connection that a test can ask for one echo at a time |
//! | [`machine`] | what machine a measurement was made on |
//! | [`cleanup`] | nothing is left behind: Ctrl-C, failure, leftovers of a killed run |
//! | [`runner`] | the list of cases, their time limits, the summary |
//! | [`lanes`] | two cases at a time, of those that mostly wait |
//! | [`tools`] | redis-benchmark, wrk, iperf3, sockperf: run one, read its report |
//! | [`servers`], [`workloads`] | what tests, demonstration and benchmarks run alike |
//! | [`pattern`], [`stats`], [`table`] | payload that can be verified, medians, text tables |
#![forbid(unsafe_code)]

pub mod cleanup;
pub mod cmd;
pub mod daemon;
pub mod echo;
pub mod lab;
pub mod lanes;
pub mod local;
pub mod machine;
pub mod netns;
pub mod pattern;
pub mod procfs;
pub mod runner;
pub mod servers;
pub mod sockets;
pub mod stats;
pub mod table;
pub mod tools;
pub mod user;
pub mod wiring;
pub mod workloads;
