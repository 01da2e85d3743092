"""Data that goes: windows, Nagle's rule, probes, retransmission."""

import time

from peer import ACK, FIN, PSH, RST, SYN, Options, mss, sack, sack_ok, scale, stamp
from stage import full, old

MSS = 1448


def _drain(p, seconds=0.1):
    got = []
    while one := p.take(seconds):
        got.append(one)
    return got


def small(w):
    p = w.established()
    w.do("send('a', 10)")
    p.see(0.1)
    p.out(ACK)
    w.do("send('a', 1500)")
    p.see(0.1, most=2)


def first_window(w):
    """Ten segments at the beginning, and one more as a probe when nothing comes back."""
    p = w.established()
    w.do("send('a', 60000)")
    got = _drain(p, 0.15)
    w.say(f"  {len({one.seq for one in got})} segments")
    p.out(ACK)
    got = _drain(p, 0.15)
    w.say(f"  then {len({one.seq for one in got})}")


def small_mss(w):
    for n in (1000, 536, 88, 48):
        p = w.established(Options(mss(n), sack_ok(), stamp(1, 0), scale(7)))
        w.do("send('a', 2000)", show=False)
        one = p.take(0.2)
        w.say(f"  mss {n}: {len(one.data) if one else 'nothing'}")
        w.do("linger('a', 0), close('a'), close('l')", show=False)
        time.sleep(0.05)
        w.port += 1


def no_mss(w):
    p = w.established(Options())
    w.do("send('a', 2000)")
    p.see(0.1)


def peer_window(w):
    """Never more than the peer allows."""
    p = w.established(window=20)
    w.do("send('a', 4000)")
    got = _drain(p, 0.15)
    edge = max(o.seq + len(o.data) for o in got) - p.theirs - 1
    w.say(f"  up to {edge}")


def scaled_window(w):
    p = w.established(Options(mss(1460), scale(2)), window=1000)
    w.do("send('a', 9000)")
    got = _drain(p, 0.15)
    edge = max(o.seq + len(o.data) for o in got) - p.theirs - 1
    w.say(f"  up to {edge}")


def window_shut(w):
    """Probes: when, and of what."""
    p = w.established()
    p.out(ACK, window=0)
    time.sleep(0.05)
    w.do("send('a', 100)")
    p.see(1.7, timed=True)
    p.out(ACK, window=1000)
    p.see(0.1)


def window_shut_probe_answered(w):
    p = w.established()
    p.out(ACK, window=0)
    time.sleep(0.05)
    w.do("send('a', 100)")
    for _ in range(3):
        one = p.take(2)
        w.say("  < " + (p.show(one) if one else "nothing"))
        p.out(ACK, window=0)
    p.out(ACK, window=1000)
    p.see(0.1)


def window_shrinks(w):
    p = w.established()
    w.do("send('a', 3000)", show=False)
    _drain(p)
    p.out(ACK, ack=1449, window=0)
    _drain(p, 0.15)
    p.out(ACK, ack=3001, window=0)
    p.see(0.15)
    w.do("send('a', 10)", show=False)
    p.out(ACK, window=500)
    p.see(0.15)


def nagle(w):
    """A small segment waits while another one is on its way."""
    p = w.established()
    w.do("send('a', 10)")
    w.do("send('a', 20)")
    w.do("send('a', 30)")
    p.see(0.1)
    p.out(ACK)
    p.see(0.1)


def nodelay(w):
    p = w.established()
    w.do("tcp('a', 'TCP_NODELAY', 1)")
    w.do("send('a', 10)")
    w.do("send('a', 20)")
    p.see(0.1, most=2)
    p.out(ACK)
    w.do("tcp('a', 'TCP_NODELAY', 0)", show=False)
    w.do("send('a', 30)")
    w.do("send('a', 40)")
    p.see(0.1)
    w.do("tcp('a', 'TCP_NODELAY', 1)")
    p.see(0.1, most=1)


def cork(w):
    p = w.established()
    w.do("tcp('a', 'TCP_CORK', 1)")
    w.do("send('a', 10)")
    w.do("send('a', 20)")
    p.see(0.1)
    w.do("tcp('a', 'TCP_CORK', 0)")
    p.see(0.1)


def cork_runs_out(w):
    p = w.established()
    w.do("tcp('a', 'TCP_CORK', 1)", show=False)
    w.do("send('a', 10)")
    p.see(0.5, timed=True, most=1)


def more(w):
    p = w.established()
    w.do("send('a', 10, socket.MSG_MORE)")
    p.see(0.1)
    w.do("send('a', 20)")
    p.see(0.1)


def more_then_close(w):
    p = w.established()
    w.do("send('a', 10, socket.MSG_MORE)")
    w.do("close('a')")
    p.see(0.1)


def urgent(w):
    p = w.established()
    w.do("s['a'].send(b'abcd', socket.MSG_OOB)")
    p.see(0.1)
    p.out(ACK)
    w.do("send('a', 5)")
    p.see(0.1)


def lost_last(w):
    """Nothing is acknowledged: again, and again twice as late."""
    p = w.established()
    w.do("send('a', 100)")
    got = []
    begun = time.monotonic()
    while time.monotonic() < begun + 2.2:
        if one := p.take(0.2):
            got.append(one)
    w.say(f"  the same segment at least 3 times: {len(got) >= 3 and len({(o.seq, len(o.data)) for o in got}) == 1}")
    p.out(ACK)
    p.see(0.5)


def lost_first_of_many(w):
    """Three duplicate ACKs bring the first one again at once."""
    p = w.established()
    w.do("send('a', 14480)", show=False)
    got = _drain(p, 0.02)
    t = p.theirs
    for i in range(1, 5):
        p.clock += 1
        blocks = sack((t + 1 + MSS, t + 1 + MSS * (i + 1)))
        p.out(ACK, ack=1, options=Options(stamp(p.clock, p.echo), blocks))
    again = [o for o in _drain(p, 0.15) if o.seq == t + 1]
    w.say(f"  first one again: {bool(again)}")
    p.out(ACK, ack=14481)
    p.see(0.3)
    w.do("send('a', 10)")
    p.see(0.1)


def lost_first_without_sack(w):
    p = w.established(old())
    w.do("send('a', 14600)", show=False)
    _drain(p, 0.02)
    t = p.theirs
    for _ in range(5):
        p.out(ACK, ack=1)
    again = [o for o in _drain(p, 0.15) if o.seq == t + 1]
    w.say(f"  first one again: {bool(again)}")
    p.out(ACK, ack=14601)
    p.see(0.3)


def two_holes(w):
    """Only what is missing comes again."""
    p = w.established()
    w.do("send('a', 14480)", show=False)
    _drain(p, 0.02)
    t = p.theirs
    edge = lambda i: t + 1 + MSS * i
    for blocks in (
        [(edge(1), edge(2))],
        [(edge(1), edge(3))],
        [(edge(4), edge(5)), (edge(1), edge(3))],
        [(edge(4), edge(7)), (edge(1), edge(3))],
        [(edge(4), edge(10)), (edge(1), edge(3))],
    ):
        p.clock += 1
        p.out(ACK, ack=1, options=Options(stamp(p.clock, p.echo), sack(*blocks)))
    came = {(o.seq - t - 1) // MSS for o in _drain(p, 0.15)}
    w.say(f"  again: {sorted(came)}")
    p.out(ACK, ack=1 + 14480)
    p.see(0.3)


def few_in_flight(w):
    """Early retransmit: two duplicates are all that can come."""
    p = w.established()
    w.do("send('a', 4344)", show=False)
    _drain(p, 0.02)
    t = p.theirs
    for i in (2, 3):
        p.clock += 1
        p.out(ACK, ack=1, options=Options(stamp(p.clock, p.echo), sack((t + 1 + MSS, t + 1 + MSS * i))))
    came = {(o.seq - t - 1) // MSS for o in _drain(p, 0.6)}
    w.say(f"  first one again: {0 in came}")


def acked_in_the_middle(w):
    """A partial acknowledgement within a segment."""
    p = w.established()
    w.do("send('a', 1000)", show=False)
    _drain(p, 0.05)
    p.out(ACK, ack=501)
    got = _drain(p, 0.5)
    starts = {o.seq - p.theirs for o in got}
    w.say(f"  covers the rest: {bool(got) and all(s <= 501 for s in starts) and max(o.seq + len(o.data) for o in got) == p.theirs + 1001}")
    p.out(ACK, ack=1001)
    p.see(0.5)


def ack_then_more(w):
    """The window grows with the acknowledgements."""
    p = w.established()
    w.do("s['a'].setblocking(False)", show=False)
    w.do("send('a', 200000)", show=False)
    rounds = []
    for _ in range(3):
        got = _drain(p, 0.03)
        rounds.append(sum(len(o.data) for o in got) // MSS)
        if got:
            p.out(ACK)
    w.say(f"  first {rounds[0] in (10, 11)}, doubled {rounds[1] >= 19}")


def keepalive(w):
    """Probes of a quiet connection, and the end when nobody answers."""
    p = w.established()
    w.do("sol('a', 'SO_KEEPALIVE', 1)", show=False)
    for option, value in (("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 2)):
        w.do(f"tcp('a', '{option}', {value})", show=False)
    p.see(1.5, timed=True)
    p.out(ACK)
    p.see(4.5, timed=True)
    w.do("recv('a')")


def user_timeout(w):
    p = w.established()
    w.do("tcp('a', 'TCP_USER_TIMEOUT', 700)", show=False)
    w.do("send('a', 10)")
    _drain(p, 1.6)
    w.do("recv('a')")
    w.do("send('a', 10, 0x4000)")


def send_after_shut(w):
    p = w.established()
    w.do("shutdown('a', 'SHUT_WR')")
    w.do("send('a', 10, 0x4000)")
    p.see(0.1)


def fin_rides(w):
    """The FIN goes with the last data when both wait."""
    p = w.established()
    p.out(ACK, window=0)
    time.sleep(0.05)
    w.do("send('a', 100)", show=False)
    w.do("shutdown('a', 'SHUT_WR')", show=False)
    p.out(ACK, window=1000)
    got = _drain(p, 0.15)
    w.say(f"  last: {p.show(got[-1]) if got else 'nothing'}")


def unreachable(w):
    """ICMP that is no end: the connection goes on."""
    p = w.established()
    w.do("send('a', 100)", show=False)
    _drain(p, 0.05)
    w.icmp(3, 1, 0, p)
    w.icmp(3, 3, 0, p)
    time.sleep(0.05)
    w.do("state('a')")
    p.out(ACK)
    w.do("send('a', 10)")
    p.see(0.1)


def unreachable_dialling(w):
    for code in (1, 3, 13):
        p, ticket = w.dialled()
        w.icmp(3, code, 0, p, syn=True)
        w.result(ticket, 0.3)
        p.out(RST | ACK)
        w.result(ticket)
        w.do("close('a')", show=False)


def too_big(w):
    """ICMP says that the path takes less. The last one: Linux remembers that of the path."""
    p = w.established()
    w.do("send('a', 2896)", show=False)
    got = _drain(p, 0.05)
    w.say(f"  {[len(o.data) for o in got[:2]]}")
    w.icmp(3, 4, 1000, p)
    got = _drain(p, 0.6)
    w.say(f"  at most {max((len(o.data) for o in got), default=0)}, from the first one: {bool(got) and min(o.seq for o in got) == p.theirs + 1}")
    p.out(ACK, ack=2897)
