"""Every state of a connection, and in each the segments that a peer may, should not and must not send. Each of them gets a
connection of its own, so that no limit of rate hides an answer."""

import time

from peer import ACK, FIN, PSH, RST, SYN, URG
from stage import full

#: Name, flags, sequence number (relative to the next one, or to the window's edge), acknowledgment number (relative to
#: all that was sent), bytes, where from, and whether the options of a SYN are there.
PROBES = (
    ("ack", ACK, 0, 0, 0),
    ("ack, old number", ACK, -1, 0, 0),
    ("ack of nothing new", ACK, 0, -1, 0),
    ("ack of long ago", ACK, 0, -(1 << 29), 0),
    ("ack of the future", ACK, 0, 1, 0),
    ("ack of the far future", ACK, 0, 5000, 0),
    ("data", ACK | PSH, 0, 0, 5),
    ("data, old ack", ACK | PSH, 0, -1, 5),
    ("data, future ack", ACK | PSH, 0, 2, 5),
    ("data again", ACK | PSH, -1, 0, 1),
    ("data ahead", ACK | PSH, 5, 0, 5),
    ("data without ack", PSH, 0, 0, 5),
    ("data and fin", ACK | FIN, 0, 0, 5),
    ("fin", ACK | FIN, 0, 0, 0),
    ("fin, old ack", ACK | FIN, 0, -1, 0),
    ("fin ahead", ACK | FIN, 5, 0, 0),
    ("fin again", ACK | FIN, -1, 0, 0),
    ("fin without ack", FIN, 0, 0, 0),
    ("nothing", 0, 0, 0, 0),
    ("urgent", ACK | URG, 0, 0, 3),
    ("reset", RST, 0, 0, 0),
    ("reset with ack", RST | ACK, 0, 0, 0),
    ("reset, future ack", RST | ACK, 0, 5, 0),
    ("reset ahead", RST, 5, 0, 0),
    ("reset behind", RST, -1, 0, 0),
    ("reset far behind", RST, -5, 0, 0),
    ("syn", SYN, 0, 0, 0),
    ("syn with options", SYN, 1000, 0, 0),
    ("syn behind", SYN, -1, 0, 0),
    ("syn and ack", SYN | ACK, 0, 0, 0),
    ("syn and ack behind", SYN | ACK, -1, 0, 0),
    ("syn and fin", SYN | FIN, 0, 0, 0),
    ("syn and reset", SYN | RST, 0, 0, 0),
    ("everything", SYN | ACK | FIN | PSH | RST | URG, 0, 0, 0),
)  # fmt: skip

#: At the edge of the window, one and two behind it.
EDGE = (
    ("ack", ACK, 0), ("data", ACK | PSH, 6), ("fin", ACK | FIN, 0), ("syn", SYN, 0), ("syn and ack", SYN | ACK, 0),
    ("reset", RST, 0),
)  # fmt: skip


def _answers(p, seconds=0.025):
    got = []
    while len(got) < 4 and (one := p.take(seconds)):
        got.append(p.show(one))
        seconds = 0.025
    return "; ".join(got) or "-"


def _gone(w):
    w.do("[linger(n, 0) for n in list(s) if n != 'l'], [close(n) for n in list(s)]", show=False)
    w.wire.waiting.clear()


def _probe(w, reach, name, flags, seq, ack, data, edge=False):
    """One connection, one segment, one line."""
    p = reach(w)
    while p.take(0.004):
        pass
    base = ((p.edge if edge else p.seq) - p.isn) & 0xFFFFFFFF
    to = ((p.ack or 0) - (p.theirs or 0)) & 0xFFFFFFFF
    options = full(9000) if name == "syn with options" else None
    p.out(flags, bytes(range(65, 65 + data)), seq=base + seq, ack=to + ack, options=options)
    text = _answers(p).replace(str(base), "N") if edge else _answers(p)
    if reach is _syn_rcvd:
        w.do("[s['l'].settimeout(0.01)]", show=False)
        w.do("accept('a', 'l')", show=False)
    w.say(f"  {name}: {text} | {w.do(chr(108) + 'ook(chr(97))', show=False)}")
    _gone(w)


def _all(w, reach):
    for probe in PROBES:
        _probe(w, reach, *probe)
    for name, flags, data in EDGE:
        for by in range(3):
            _probe(w, reach, f"{name} at the edge + {by}", flags, by, 0, data, edge=True)


def _syn_sent(w):
    p, _ = w.dialled()
    return p


def _syn_rcvd(w):
    w.listen()
    p = w.peer()
    p.out(SYN, options=full())
    one = p.take(2)
    p.stamps = one.option(8) is not None
    return p


def _established(w):
    return w.established()


def _fin_wait_1(w):
    p = w.established()
    w.do("shutdown('a', 'SHUT_WR')", show=False)
    p.take(0.3)
    return p


def _fin_wait_2(w):
    p = _fin_wait_1(w)
    p.out(ACK)
    time.sleep(0.002)
    return p


def _close_wait(w):
    p = w.established()
    p.out(ACK | FIN)
    p.take(0.3)
    return p


def _closing(w):
    p = _fin_wait_1(w)
    p.out(ACK | FIN, ack=1)
    p.take(0.3)
    return p


def _last_ack(w):
    p = _close_wait(w)
    w.do("close('a')", show=False)
    p.take(0.3)
    return p


def _time_wait(w):
    p = w.established()
    w.do("close('a')", show=False)
    p.take(0.3)
    p.out(ACK | FIN)
    p.take(0.3)
    return p


def _closed_fin_wait_1(w):
    p = w.established()
    w.do("close('a')", show=False)
    p.take(0.3)
    return p


def _closed_fin_wait_2(w):
    p = _closed_fin_wait_1(w)
    p.out(ACK)
    time.sleep(0.002)
    return p


def _closed_closing(w):
    p = _closed_fin_wait_1(w)
    p.out(ACK | FIN, ack=1)
    p.take(0.3)
    return p


def syn_sent(w):
    for probe in PROBES:
        _probe(w, _syn_sent, *probe)


def syn_rcvd(w):
    _all(w, _syn_rcvd)


def established(w):
    _all(w, _established)


def fin_wait_1(w):
    _all(w, _fin_wait_1)


def fin_wait_2(w):
    _all(w, _fin_wait_2)


def close_wait(w):
    _all(w, _close_wait)


def closing(w):
    _all(w, _closing)


def last_ack(w):
    _all(w, _last_ack)


def time_wait(w):
    _all(w, _time_wait)


def closed_fin_wait_1(w):
    _all(w, _closed_fin_wait_1)


def closed_fin_wait_2(w):
    _all(w, _closed_fin_wait_2)


def closed_closing(w):
    _all(w, _closed_closing)
