//! Facts of the interfaces of this network namespace.

use std::fs;
use std::io;

use anyhow::Context as _;
use flyover_vnic::host::{Interface, Offloads, interface, offloads};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// What there is to know of one interface.
pub(super) struct Facts {
    /// What the kernel says.
    pub(super) link: Interface,
    /// Driver of a physical device, kind of a virtual one.
    pub(super) driver: String,
    /// What is switched on; `None` when the device cannot say.
    pub(super) offloads: Option<Offloads>,
    /// The bridge, bond or team that it is a port of.
    pub(super) master: Option<String>,
}

/// All of them, in the kernel's order.
pub(super) fn all() -> anyhow::Result<Vec<Facts>> {
    // Unlike /sys, /proc/net follows the namespace of the process, whatever is mounted.
    let table = fs::read_to_string("/proc/net/dev").context("reading /proc/net/dev")?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut all = Vec::new();
    for name in names(&table) {
        // One that goes away while we look is not there.
        let Ok(index) = name_to_index(&socket, name) else {
            continue;
        };
        match facts(index) {
            Ok(facts) => all.push(facts),
            Err(error) if error.raw_os_error() == Some(ENODEV) => {}
            Err(error) => return Err(error).context(format!("asking about {name}")),
        }
    }
    Ok(all)
}

const ENODEV: i32 = 19;

/// Names in the text of /proc/net/dev: two lines of headings, then `  name: numbers`.
fn names(table: &str) -> impl Iterator<Item = &str> {
    table
        .lines()
        .skip(2)
        .filter_map(|line| line.rsplit_once(':'))
        .map(|(name, _)| name.trim())
}

fn facts(index: u32) -> io::Result<Facts> {
    let link = interface(index)?;
    let sys = |what: &str| fs::read_link(format!("/sys/class/net/{}/{what}", link.name));
    let last = |path: std::path::PathBuf| path.file_name()?.to_str().map(str::to_owned);
    // /sys may show another namespace, with other interfaces of the same names.
    let same = fs::read_to_string(format!("/sys/class/net/{}/ifindex", link.name))
        .is_ok_and(|text| text.trim().parse() == Ok(index));
    let driver = sys("device/driver").ok().filter(|_| same).and_then(last);
    let master = sys("master").ok().filter(|_| same).and_then(last);
    let driver = match driver {
        Some(driver) => driver,
        None if link.loopback => "loopback".to_owned(),
        None if link.kind.is_empty() => "unknown".to_owned(),
        None => link.kind.clone(),
    };
    Ok(Facts {
        offloads: offloads(&link.name).ok(),
        driver,
        master,
        link,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_table() {
        let table = "Inter-|   Receive\n face |bytes\n    lo: 1 2\n eth0.5:3 4\nveth:x: 5\n";
        assert_eq!(names(table).collect::<Vec<_>>(), ["lo", "eth0.5", "veth:x"]);
    }

    #[test]
    fn this_machine() {
        let all = all().unwrap();
        let lo = all.iter().find(|i| i.link.loopback).unwrap();
        assert_eq!(
            (lo.link.name.as_str(), lo.driver.as_str()),
            ("lo", "loopback")
        );
    }
}
