//! What is promised of the V-NICs.

use super::plan::Better::{Higher, Lower};
use super::plan::Column::{Both, Client, Kernel, RawPacket, RawXdp, Server, Xdp};
use super::report::{Bar, Results};

/// The promises of the project, as far as this run measured what they are about.
pub fn bars(results: &Results) -> Vec<Bar> {
    let median = |row, column| results.median(row, column);
    let over = |above: Option<f64>, below: Option<f64>| Some(above? / below?);
    let minus = |left: Option<f64>, right: Option<f64>| Some(left? - right?);
    let spinning = "TCP 64 B round trip, spinning, p50";
    let sleeping = "TCP 64 B round trip, sleeping, p50";
    let bulk = "stream, 64 KB writes";
    let redis = "redis GET -c 50";
    let (pipe, start) = ("pipe read, 1 B", "start and end of `true`");
    let idle = "1000 idle connections, CPU of one core";
    let slower = |row| {
        let times = over(median(row, Server), median(row, Kernel));
        Some((times? - 1.0) * 100.0)
    };
    [
        (
            "round trip, spinning: packet / raw packet frames",
            over(median(spinning, Both), median(spinning, RawPacket)),
            1.3,
            Lower,
        ),
        (
            "round trip, spinning: xdp / raw xdp frames",
            over(median(spinning, Xdp), median(spinning, RawXdp)),
            1.3,
            Lower,
        ),
        (
            "round trip, spinning: packet / kernel",
            over(median(spinning, Both), median(spinning, Kernel)),
            0.8,
            Lower,
        ),
        (
            "round trip, sleeping: packet / kernel",
            over(median(sleeping, Both), median(sleeping, Kernel)),
            1.0,
            Lower,
        ),
        (
            "stream 64 KB, both: packet / kernel",
            over(median(bulk, Both), median(bulk, Kernel)),
            1.2,
            Higher,
        ),
        (
            "stream 64 KB, Flyover receives from the kernel / kernel",
            over(median(bulk, Server), median(bulk, Kernel)),
            1.0,
            Higher,
        ),
        (
            "stream 64 KB, Flyover sends to the kernel / kernel",
            over(median(bulk, Client), median(bulk, Kernel)),
            1.0,
            Higher,
        ),
        (
            "stream 64 KB, xdp / raw xdp frames",
            over(median(bulk, Xdp), median(bulk, RawXdp)),
            0.85,
            Higher,
        ),
        (
            "redis GET -c 50, both / kernel",
            over(median(redis, Both), median(redis, Kernel)),
            1.3,
            Higher,
        ),
        (
            "redis GET -c 50, server only / kernel",
            over(median(redis, Server), median(redis, Kernel)),
            1.0,
            Higher,
        ),
        (
            "pipe read through the library, ns added",
            minus(median(pipe, Server), median(pipe, Kernel)),
            20.0,
            Lower,
        ),
        (
            "flyover run true, ms added",
            minus(median(start, Server), median(start, Kernel)),
            15.0,
            Lower,
        ),
        (
            "fork without accelerated sockets, of a program that does nothing else, % slower",
            slower("fork, least"),
            5.0,
            Lower,
        ),
        (
            "exec without accelerated sockets, of a program that does nothing else, % slower",
            slower("fork and exec, least"),
            5.0,
            Lower,
        ),
        (
            "fork without accelerated sockets, python3, % slower",
            slower("fork of python3, least"),
            5.0,
            Lower,
        ),
        (
            "exec without accelerated sockets, python3, % slower",
            slower("start and end of python3, least"),
            5.0,
            Lower,
        ),
        (
            "close without accelerated sockets, % slower",
            slower("close of a file, least"),
            5.0,
            Lower,
        ),
        (
            "1000 idle connections, % of a core",
            median(idle, Server),
            0.5,
            Lower,
        ),
    ]
    .into_iter()
    .filter_map(|(name, measured, limit, better)| {
        Some(Bar {
            name,
            row: None,
            measured: measured?,
            limit,
            better,
        })
    })
    .collect()
}
