"""Explicit congestion notification, and what goes out while the window is reduced."""

import time

from peer import ACK, CWR, ECE, FIN, PSH, RST, SYN, Options, mss, sack, stamp
from stage import full

MSS = 1448
ASK = SYN | ECE | CWR


def _ecn(w, options=None, tos=0, flags=ASK, rtt=0, **more):
    """A connection whose SYN asked for ECN, accepted as `a`; `rtt`: of a path that long."""
    w.listen(**more)
    p = w.peer()
    p.out(flags, options=options or full(), tos=tos)
    one = p.take(2)
    p.stamps = one.option(8) is not None
    time.sleep(rtt)
    p.out(ACK)
    w.do("accept('a', 'l')", 20, show=False)
    return p


def _info(w):
    """Of TCP_INFO: state of congestion control, options."""
    w.do("[s['a'].getsockopt(6, socket.TCP_INFO, 8)[i] for i in (1, 5)]")


def asked(w):
    """What a SYN says, and what its answer."""
    w.listen()
    for flags, tos in ((ASK, 0), (SYN | ECE, 0), (SYN | CWR, 0), (ASK, 1), (ASK, 2), (ASK, 3), (SYN, 2)):
        p = w.peer()
        p.out(flags, options=full(), tos=tos)
        p.see(0.1, most=1)


def asked_by_cookie(w):
    w.listen(backlog=3)
    for options in (full(), Options(mss(1000))):
        for _ in range(30):
            p = w.peer()
            p.out(ASK, options=options)
            one = p.take(2)
        w.say(f"  {p.show(one)}")
        p.stamps = bool(one.option(8))
        p.out(ACK)
        w.do("accept('a', 'l')")
        w.do("send('a', 100)")
        p.see(0.1)
        p.out(ACK)


def answer_again(w):
    w.listen()
    p = w.peer()
    p.out(ASK, options=full())
    p.see(3.6, timed=True)


def dialled(w):
    """Who did not ask takes no answer for one."""
    p, ticket = w.dialled()
    p.out(SYN | ACK | ECE, options=full())
    p.see(0.1)
    w.result(ticket)
    w.do("send('a', 100)")
    p.see(0.1)
    _info(w)


def our_data(w):
    p = _ecn(w)
    w.do("send('a', 100)")
    p.see(0.1)
    p.out(ACK)
    p.out(ACK | PSH, b"abc")
    p.see(0.2)
    w.do("send('a', 3000)")
    p.see(0.1, most=3)
    p.out(ACK)
    _info(w)
    w.do("shutdown('a', 'SHUT_WR')")
    p.see(0.1)


def our_data_again(w):
    """What is sent again is not ECT."""
    p = _ecn(w)
    w.do("send('a', 14480)", show=False)
    while p.take(0.05):
        pass
    t = p.theirs
    for i in range(1, 5):
        p.clock += 1
        p.out(ACK, ack=1, options=Options(stamp(p.clock, p.echo), sack((t + 1 + MSS, t + 1 + MSS * (i + 1)))))
    one = p.take(0.5)
    w.say(f"  {p.show(one) if one else 'nothing'}")
    while p.take(0.05):
        pass
    p.out(ACK, ack=14481)
    w.do("send('a', 100)")
    p.see(0.1)
    p.out(ACK)
    w.do("send('a', 100)")
    p.see(0.1)


def last_again(w):
    """The timer brings it again, not ECT; new data says CWR."""
    p = _ecn(w)
    w.do("send('a', 100)")
    p.see(0.7)
    p.out(ACK)
    w.do("send('a', 100)")
    p.see(0.1)
    p.out(ACK)


def marked(w):
    """CE is echoed until CWR."""
    p = _ecn(w)
    p.out(ACK | PSH, b"abc", tos=2)
    p.see(0.3)
    _info(w)
    p.out(ACK | PSH, b"def", tos=3)
    p.see(0.3, timed=True)
    p.out(ACK | PSH, b"ghi", tos=2)
    p.see(0.3, timed=True)
    w.do("send('a', 100)")
    p.see(0.1)
    p.out(ACK)
    p.out(ACK | PSH | CWR, b"jkl", tos=2)
    p.see(0.3, timed=True)
    p.out(ACK | PSH, b"mno", tos=3)
    p.out(ACK | PSH | CWR, b"pqr", tos=3)
    p.see(0.3)
    p.out(ACK | PSH, b"stu", tos=2)
    p.see(0.3)


def marked_out_of_order(w):
    p = _ecn(w)
    p.out(ACK | PSH, b"ghi", seq=7, tos=3)
    p.see(0.1)
    p.out(ACK | PSH | CWR, b"def", seq=4, tos=2)
    p.see(0.1)
    p.out(ACK | PSH, b"abc", seq=1, tos=2)
    p.see(0.1)


def marked_duplicate(w):
    p = _ecn(w)
    p.out(ACK | PSH, b"abc", seq=1, tos=2)
    p.see(0.3)
    p.out(ACK | PSH, b"abc", seq=1, tos=3)
    p.see(0.3)
    p.out(ACK, tos=3)
    p.out(ACK | CWR)
    p.see(0.3)
    p.out(ACK | PSH, b"def", seq=4, tos=3)
    p.see(0.3)
    p.out(ACK | CWR, seq=7)
    p.see(0.3)
    p.out(ACK | FIN, seq=7)
    p.see(0.3)
    w.do("close('a')")
    p.see(0.1)


def marked_reset(w):
    p = _ecn(w)
    p.out(ACK | PSH, b"abc", tos=3)
    p.see(0.3)
    w.do("close('a')")
    p.see(0.1)


def marked_not_agreed(w):
    p = w.established()
    p.out(ACK | PSH | ECE | CWR, b"abc", tos=3)
    p.see(0.3)
    w.do("send('a', 100)")
    p.see(0.1)
    p.out(ACK | ECE)
    _info(w)


def echoed(w):
    """The window goes down once; the next new data says CWR."""
    p = _ecn(w)
    w.do("send('a', 100)")
    p.see(0.1)
    p.out(ACK | ECE)
    time.sleep(0.05)
    _info(w)
    w.do("send('a', 100)")
    p.see(0.1)
    p.out(ACK | ECE)
    time.sleep(0.05)
    _info(w)
    w.do("send('a', 100)")
    p.see(0.1)
    p.out(ACK)
    time.sleep(0.05)
    _info(w)
    w.do("send('a', 100)")
    p.see(0.1)
    p.out(ACK)
    time.sleep(0.05)
    _info(w)


def _count(p, seconds=0.012, most=99):
    got = []
    while len(got) < most and (one := p.take(seconds)):
        got.append(one)
    return got


def echoed_in_full_flight(w):
    """How the window goes down: one ACK for each segment, so many new ones for each."""
    p = _ecn(w, rtt=0.08)
    w.do("s['a'].setblocking(False)", show=False)
    w.do("send('a', 60000)", show=False)
    first = _count(p, 0.1, 10)
    went = []
    for i in range(1, len(first) + 1):
        p.out(ACK | (ECE if i <= 3 else 0), ack=1 + i * MSS)
        went.append("".join("c" if o.flags & CWR else "n" for o in _count(p)))
    w.say(f"  {len(first)}: {' '.join(x or '-' for x in went)}")
    w.do("struct.unpack('24I', s['a'].getsockopt(6, socket.TCP_INFO, 104)[8:])[18:20]")


def lost_in_full_flight(w):
    """What goes out for each ACK while one segment is missing."""
    p = _ecn(w, flags=SYN, rtt=0.08)
    w.do("s['a'].setblocking(False)", show=False)
    w.do("send('a', 60000)", show=False)
    first = _count(p, 0.1, 10)
    t = p.theirs
    went = []
    for i in range(2, len(first) + 1):
        p.clock += 1
        p.out(ACK, ack=1, options=Options(stamp(p.clock, p.echo), sack((t + 1 + MSS, t + 1 + MSS * i))))
        # Linux does not wait for the third one longer than a quarter of a round trip.
        if i > 3:
            went.append(" ".join(str((o.seq - t - 1) // MSS) for o in _count(p)))
    w.say(f"  {len(first)}: {', '.join(x or '-' for x in went)}")
    w.do("struct.unpack('24I', s['a'].getsockopt(6, socket.TCP_INFO, 104)[8:])[18:20]")
    _info(w)
    p.out(ACK)
    w.say(f"  {[(o.seq - t - 1) // MSS for o in _count(p, 0.012, 1)]}")
