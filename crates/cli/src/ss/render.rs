//! Columns as `ss` has them: addresses meet at the colon.

use super::row::Row;

const TITLES: [&str; 4] = ["Netid", "State", "Recv-Q", "Send-Q"];
const LOCAL: (&str, &str) = ("Local Address", "Port");
const PEER: (&str, &str) = ("Peer Address", "Port");

/// The table, with its heading.
pub(super) fn text(rows: &[Row]) -> String {
    let cells: Vec<Cells> = rows.iter().map(Cells::new).collect();
    let width = |of: fn(&Cells) -> &str, title: &str| {
        cells
            .iter()
            .map(|c| of(c).chars().count())
            .chain([title.len()])
            .max()
            .unwrap_or(0)
    };
    let widths = Widths {
        netid: width(|c| &c.netid, TITLES[0]),
        state: width(|c| &c.state, TITLES[1]),
        recv_q: width(|c| &c.recv_q, TITLES[2]),
        send_q: width(|c| &c.send_q, TITLES[3]),
        local: (
            width(|c| &c.local.0, LOCAL.0),
            width(|c| &c.local.1, LOCAL.1),
        ),
        peer: (width(|c| &c.peer.0, PEER.0), width(|c| &c.peer.1, PEER.1)),
    };
    let title = |(ip, port): (&str, &str)| (ip.to_owned(), port.to_owned());
    let heading = Cells {
        netid: TITLES[0].to_owned(),
        state: TITLES[1].to_owned(),
        recv_q: TITLES[2].to_owned(),
        send_q: TITLES[3].to_owned(),
        local: title(LOCAL),
        peer: title(PEER),
        path: "Path".to_owned(),
    };
    let mut out = heading.line(&widths);
    for row in &cells {
        out.push_str(&row.line(&widths));
    }
    out
}

struct Cells {
    netid: String,
    state: String,
    recv_q: String,
    send_q: String,
    local: (String, String),
    peer: (String, String),
    path: String,
}

struct Widths {
    netid: usize,
    state: usize,
    recv_q: usize,
    send_q: usize,
    local: (usize, usize),
    peer: (usize, usize),
}

impl Cells {
    fn new(row: &Row) -> Self {
        let split = |address: &str| {
            let (ip, port) = address.rsplit_once(':').unwrap_or((address, ""));
            (ip.to_owned(), port.to_owned())
        };
        let path = match (row.reason, row.orphan) {
            ("", false) => row.path.clone(),
            ("", true) => format!("{} (closed by its program)", row.path),
            (reason, _) => format!("{} ({reason})", row.path),
        };
        Self {
            netid: row.proto.name().to_owned(),
            state: row.state.to_owned(),
            recv_q: row.recv_q.to_string(),
            send_q: row.send_q.to_string(),
            local: split(&row.local),
            peer: split(&row.remote),
            path,
        }
    }

    fn line(&self, w: &Widths) -> String {
        let Self {
            netid,
            state,
            recv_q,
            send_q,
            local,
            peer,
            path,
        } = self;
        let mut line = format!(
            "{netid:<0$} {state:<1$} {recv_q:<2$} {send_q:<3$} {local_ip:>4$}:{local_port:<5$} \
             {peer_ip:>6$}:{peer_port:<7$} {path}",
            w.netid,
            w.state,
            w.recv_q,
            w.send_q,
            w.local.0,
            w.local.1,
            w.peer.0,
            w.peer.1,
            local_ip = local.0,
            local_port = local.1,
            peer_ip = peer.0,
            peer_port = peer.1,
        );
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use flyover_core::{Kind, TcpState};
    use flyover_sockets::policy::Reason;

    use super::super::row::tests::{sample, stack};
    use super::*;

    #[test]
    fn looks_like_this() {
        let here = stack(&["packet"]);
        let listener = sample(Kind::Tcp, TcpState::Listen, "0.0.0.0:6379", "0.0.0.0:0");
        let mut orphan = sample(
            Kind::Tcp,
            TcpState::FinWait1,
            "[2001:db8::1]:6379",
            "[2001:db8::2]:50000",
        );
        orphan.orphan = true;
        let mut local = sample(Kind::Kernel, TcpState::Closed, "127.0.0.1:53", "0.0.0.0:0");
        local.reason = u32::from(Reason::Loopback.code());
        let rows = [
            Row::new(&listener, &here, None),
            Row::new(&orphan, &here, None),
            Row::new(&local, &here, None),
        ];
        assert_eq!(
            text(&rows),
            "\
Netid State      Recv-Q Send-Q Local Address:Port  Peer Address:Port  Path
tcp   LISTEN     0      128          0.0.0.0:6379       0.0.0.0:*     packet
tcp   FIN-WAIT-1 0      128    [2001:db8::1]:6379 [2001:db8::2]:50000 packet (closed by its program)
???   UNCONN     0      128        127.0.0.1:53         0.0.0.0:*     kernel (loopback)
"
        );
        assert_eq!(
            text(&[]),
            "Netid State Recv-Q Send-Q Local Address:Port Peer Address:Port Path\n"
        );
    }
}
