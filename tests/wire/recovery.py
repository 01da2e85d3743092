"""Loss detection and recovery: what is sent again, when, and what is taken back. The path is 100 ms long (the first
acknowledgment waits so long), so that a quarter of it is longer than a busy machine's delays."""

import time

from peer import ACK, ECE, FIN, PSH, RST, SYN, Options, mss, sack, sack_ok, scale, stamp
from stage import full

MSS = 1000
PATH = 0.1


def _open(w, stamps=True, with_sack=True, path=PATH, size=MSS, **more):
    """A connection over a path that long; segments of 1000 bytes, whatever options there are."""
    w.listen(**more)
    p = w.peer()
    parts = [mss(size + (12 if stamps else 0))]
    parts += [sack_ok()] if with_sack else []
    parts += [stamp(5000, 0)] if stamps else []
    p.out(SYN, options=Options(*parts, scale(7)))
    one = p.take(2)
    p.stamps = one.option(8) is not None
    time.sleep(path)
    p.out(ACK)
    w.do("accept('a', 'l')", 20, show=False)
    w.do("s['a'].setblocking(False)", show=False)
    p.base = p.theirs + 1
    p.born = {}
    return p


def _took(p, seconds=0.005, most=99):
    """What comes: numbers of segments; with ! what was pushed beyond a full one."""
    got = []
    while len(got) < most and (one := p.take(seconds)):
        first = one.seq - p.base
        for n in range(first // MSS, max(first // MSS + 1, -(-(first + len(one.data)) // MSS))):
            p.born.setdefault(n, p.echo)
        tail = f"+{len(one.data)}" if len(one.data) % MSS or first % MSS else ""
        fin = "F" if one.flags & FIN else ""
        got.append(f"{first // MSS}{tail}{fin}")
    return " ".join(got) or "-"


def _ack(p, upto, *ranges, echo=None, flags=ACK, window=None):
    """Acknowledges so many segments and SACKs ranges of them; `echo`: the time of which segment."""
    p.clock += 1
    parts = []
    if p.stamps:
        at = p.echo if echo is None else p.born[echo]
        parts.append(stamp(p.clock, at))
    if ranges:
        parts.append(sack(*((p.base + a * MSS, p.base + b * MSS) for a, b in ranges)))
    p.out(flags, ack=1 + int(upto * MSS), options=Options(*parts), window=window)


def _say(w, *words):
    w.say("  " + " ".join(str(x) for x in words))


def _info(w, *names):
    """Of TCP_INFO."""
    places = {
        "state": (1, 1), "retransmits": (2, 1), "backoff": (4, 1), "unacked": (24, 4), "sacked": (28, 4), "lost": (32, 4),
        "retrans": (36, 4), "ssthresh": (76, 4), "cwnd": (80, 4), "reordering": (88, 4), "total": (100, 4),
        "delivered": (192, 4), "dups": (216, 4), "seen": (220, 4),
    }  # fmt: skip
    names = names or ("state", "unacked", "sacked", "lost", "retrans", "ssthresh", "cwnd", "total")
    raw = w.do("s['a'].getsockopt(6, socket.TCP_INFO, 256).hex()", show=False).strip("'")
    data = bytes.fromhex(raw)
    words = []
    for n in names:
        at, size = places[n]
        v = int.from_bytes(data[at : at + size], "little")
        words.append(f"{n} {'inf' if v == 0x7FFFFFFF else v}")
    w.say("  " + ", ".join(words))


def _begin(w, n=10, bytes_more=60000, **more):
    """The first ten are in flight, others wait."""
    p = _open(w, **more)
    w.do(f"send('a', {n * MSS + bytes_more})", show=False)
    _say(w, _took(p, 0.02, 10))
    time.sleep(PATH - 0.02)
    return p


def fast_retransmit(w):
    p = _begin(w, bytes_more=0)
    for i in (2, 3, 4):
        _ack(p, 0, (1, i))
        _say(w, _took(p))
    _info(w)
    for i in (5, 6, 7, 8, 9, 10):
        _ack(p, 0, (1, i))
        _say(w, _took(p))
    _info(w)
    time.sleep(PATH)
    _ack(p, 10)
    _info(w)


def fast_retransmit_more_to_send(w):
    p = _begin(w)
    for i in range(2, 11):
        _ack(p, 0, (1, i))
        _say(w, _took(p))
    _info(w)
    time.sleep(PATH)
    _ack(p, 10)
    _say(w, _took(p))
    _info(w)


def two_lost(w):
    p = _begin(w)
    for r in ([(1, 2)], [(1, 3)], [(4, 5), (1, 3)], [(4, 6), (1, 3)], [(4, 7), (1, 3)], [(4, 8), (1, 3)], [(4, 10), (1, 3)]):
        _ack(p, 0, *r)
        _say(w, _took(p))
    _info(w)
    time.sleep(PATH)
    _ack(p, 3, (4, 10))
    _say(w, _took(p))
    _info(w)
    _ack(p, 10)
    _say(w, _took(p))
    _info(w)


def four_lost(w):
    """The first four."""
    p = _begin(w)
    for i in range(5, 11):
        _ack(p, 0, (4, i))
        _say(w, _took(p))
    _info(w)
    time.sleep(PATH)
    for i in (1, 2, 3, 4):
        _ack(p, i if i < 4 else 10, *([(4, 10)] if i < 4 else []))
        _say(w, _took(p))
    _info(w)


def newreno(w):
    p = _begin(w, with_sack=False, stamps=False)
    for _ in range(6):
        _ack(p, 0)
        _say(w, _took(p))
    _info(w)
    time.sleep(PATH)
    _ack(p, 4)
    _say(w, _took(p))
    _info(w)
    _ack(p, 4)
    _say(w, _took(p))
    _ack(p, 10)
    _say(w, _took(p))
    _info(w)
    _ack(p, 11)
    _say(w, _took(p))
    _info(w)


def newreno_stamps(w):
    p = _begin(w, with_sack=False)
    for _ in range(5):
        _ack(p, 0, echo=0)
        _say(w, _took(p))
    time.sleep(PATH)
    _ack(p, 10)
    _say(w, _took(p))
    _info(w)


def limited_transmit(w):
    """The first duplicates let new segments out."""
    p = _begin(w)
    _ack(p, 0, (1, 2))
    _say(w, _took(p, 0.008))
    _ack(p, 0, (1, 3))
    _say(w, _took(p, 0.004))
    _info(w)


def limited_transmit_reno(w):
    p = _begin(w, with_sack=False)
    for _ in range(3):
        _ack(p, 0, echo=0)
        _say(w, _took(p))
    _info(w)


def early_retransmit(w):
    """Of three in flight two arrive: the first one again after a quarter of a round trip."""
    p = _begin(w, n=3, bytes_more=0)
    _ack(p, 0, (1, 3))
    begun = time.monotonic()
    got = _took(p, 0.1, 1)
    took = time.monotonic() - begun
    _say(w, got, "late" if took > 0.006 else "at once", took < 0.05)
    _info(w)


def reordered(w):
    """What comes late is no loss; the connection learns."""
    p = _begin(w)
    _ack(p, 0, (1, 2))
    _say(w, _took(p, 0.004))
    _ack(p, 2)
    _say(w, _took(p, 0.01))
    _info(w)
    _info(w, "reordering", "seen")


def reordered_far(w):
    """Six arrive before the first one: sent again for nothing, and taken back."""
    p = _begin(w)
    for i in range(2, 8):
        _ack(p, 0, (1, i), echo=0)
        _say(w, _took(p, 0.01))
    _info(w)
    _ack(p, 7, echo=0)
    _say(w, _took(p))
    _info(w)
    _info(w, "reordering", "seen", "dups")


def dsack_undo(w):
    """The peer says that what was sent again came twice (without timestamps)."""
    p = _begin(w, stamps=False)
    for i in range(2, 6):
        _ack(p, 0, (1, i))
        _say(w, _took(p))
    _info(w)
    time.sleep(PATH)
    _ack(p, 5)
    _say(w, _took(p))
    _info(w)
    _ack(p, 5, (0, 1))
    _say(w, _took(p))
    _info(w)
    _info(w, "reordering", "seen", "dups")


def dsack_undo_after(w):
    """The same when recovery is over."""
    p = _begin(w, stamps=False, bytes_more=0)
    for i in range(2, 11):
        _ack(p, 0, (1, i))
    _say(w, _took(p, 0.03))
    _info(w)
    time.sleep(PATH)
    _ack(p, 10)
    _info(w)
    _ack(p, 10, (0, 1))
    _info(w)


def dsack_of_two(w):
    """Two were sent again; one came twice."""
    p = _begin(w, stamps=False)
    for i in range(3, 8):
        _ack(p, 0, (2, i))
        _say(w, _took(p))
    time.sleep(PATH)
    _ack(p, 7, (0, 1))
    _say(w, _took(p))
    _info(w)
    _ack(p, 7, (1, 2))
    _say(w, _took(p))
    _info(w)


def eifel(w):
    """The echoed time says that the first transmission has arrived."""
    p = _begin(w)
    for i in range(2, 6):
        _ack(p, 0, (1, i), echo=0)
        _say(w, _took(p))
    _info(w)
    _ack(p, 10, echo=0)
    _say(w, _took(p))
    _info(w)


def not_eifel(w):
    p = _begin(w)
    for i in range(2, 6):
        _ack(p, 0, (1, i), echo=0)
        _say(w, _took(p))
    time.sleep(PATH)
    _ack(p, 10)
    _say(w, _took(p))
    _info(w)


def partial_late(w):
    """In recovery a partial acknowledgment echoes a time before the first retransmission."""
    p = _begin(w)
    for i in range(4, 8):
        _ack(p, 0, (3, i), echo=0)
        _say(w, _took(p, 0.002))
    _info(w)
    _ack(p, 1, (3, 7), echo=0)
    _say(w, _took(p, 0.002))
    _info(w)
    _ack(p, 2, (3, 7), echo=0)
    _say(w, _took(p, 0.002))
    _info(w)
    _ack(p, 10, echo=0)
    _say(w, _took(p, 0.002))
    _info(w)


def lost_again(w):
    """What was sent again is lost as well: later segments say so."""
    p = _begin(w)
    for i in range(2, 8):
        _ack(p, 0, (1, i))
        _say(w, _took(p))
    time.sleep(PATH)
    # Those sent after the first one went out again have arrived.
    _ack(p, 0, (1, 12))
    _say(w, _took(p, 0.03))
    _info(w)


def timeout(w):
    p = _begin(w, bytes_more=0)
    _say(w, _took(p, 0.5, 1))
    _say(w, _took(p, 0.7, 1))
    _info(w)
    _info(w, "retransmits", "backoff")
    _ack(p, 1)
    _say(w, _took(p, 0.02))
    _info(w)
    _ack(p, 3)
    _say(w, _took(p, 0.02))
    _info(w)
    _ack(p, 10)
    _info(w)


def timeout_reno(w):
    p = _begin(w, bytes_more=0, with_sack=False, stamps=False)
    _say(w, _took(p, 0.5, 1))
    _info(w)
    _info(w, "retransmits", "backoff")
    _ack(p, 1)
    _say(w, _took(p, 0.02))
    _info(w)
    _info(w, "retransmits", "backoff")
    _ack(p, 3)
    _say(w, _took(p, 0.02))
    _info(w)
    _ack(p, 10)
    _info(w)


def frto_spurious(w):
    """After a timeout the first acknowledgment lets two new ones out; an acknowledgment of what was sent once undoes it."""
    p = _begin(w, bytes_more=20000, stamps=False)
    _say(w, _took(p, 0.5, 1))
    _say(w, _took(p, 0.7, 1))
    _info(w)
    _ack(p, 1)
    _say(w, _took(p, 0.02))
    _info(w)
    _ack(p, 2)
    _say(w, _took(p, 0.02))
    _info(w)


def frto_spurious_sack(w):
    p = _begin(w, bytes_more=20000, stamps=False)
    _say(w, _took(p, 0.5, 1))
    _say(w, _took(p, 0.7, 1))
    _ack(p, 1)
    _say(w, _took(p, 0.02))
    _ack(p, 1, (4, 5))
    _say(w, _took(p, 0.008))
    _info(w)


def frto_real(w):
    p = _begin(w, bytes_more=20000, stamps=False)
    _say(w, _took(p, 0.5, 1))
    _say(w, _took(p, 0.7, 1))
    _ack(p, 1)
    _say(w, _took(p, 0.02))
    _info(w)
    _ack(p, 1, (11, 12))
    _say(w, _took(p, 0.02))
    _info(w)
    _ack(p, 1, (11, 13))
    _say(w, _took(p, 0.02))
    _info(w)


def frto_reno(w):
    p = _begin(w, bytes_more=20000, stamps=False, with_sack=False)
    _say(w, _took(p, 0.5, 1))
    _ack(p, 1)
    _say(w, _took(p, 0.02))
    _info(w)
    _ack(p, 2)
    _say(w, _took(p, 0.02))
    _info(w)


def frto_reno_real(w):
    p = _begin(w, bytes_more=20000, stamps=False, with_sack=False)
    _say(w, _took(p, 0.5, 1))
    _ack(p, 1)
    _say(w, _took(p, 0.02))
    _ack(p, 1)
    _say(w, _took(p, 0.02))
    _ack(p, 1)
    _say(w, _took(p, 0.02))
    _info(w)


def timeout_eifel(w):
    p = _begin(w, bytes_more=20000)
    _say(w, _took(p, 0.5, 1))
    _say(w, _took(p, 0.7, 1))
    _info(w)
    _ack(p, 1, echo=0)
    _say(w, _took(p, 0.02))
    _info(w)


def probe_last(w):
    """The tail-loss probe is the last segment; its SACK starts recovery."""
    p = _begin(w, n=5, bytes_more=0)
    _say(w, _took(p, 0.4, 1))
    time.sleep(PATH)
    _ack(p, 0, (4, 5))
    _say(w, _took(p, 0.05))
    _info(w)


def probe_acked(w):
    """Everything but the last had arrived; the probe repairs it and counts as a loss once something later is acknowledged."""
    p = _begin(w, n=5, bytes_more=0)
    _ack(p, 4)
    _say(w, _took(p, 0.6, 1))
    _info(w)
    time.sleep(PATH)
    _ack(p, 5)
    _info(w)
    w.do("send('a', 1000)", show=False)
    _say(w, _took(p))
    time.sleep(PATH)
    _ack(p, 6)
    _info(w)


def probe_not_needed(w):
    p = _begin(w, n=5, bytes_more=0)
    _say(w, _took(p, 0.4, 1))
    _ack(p, 5)
    _info(w)
    _ack(p, 5, (4, 5))
    _info(w)
    w.do("send('a', 1000)", show=False)
    _say(w, _took(p))
    time.sleep(PATH)
    _ack(p, 6)
    _info(w)
    _info(w, "dups")


def probe_new(w):
    """There is something new to send: that is the probe."""
    p = _begin(w, n=10, bytes_more=5000)
    _say(w, _took(p, 0.4, 1))
    _info(w)
    time.sleep(PATH)
    _ack(p, 0, (10, 11))
    _say(w, _took(p, 0.05))
    _info(w)


def small_again(w):
    """Small segments are taken together when they are sent again."""
    p = _open(w)
    w.do("tcp('a', 'TCP_NODELAY', 1)", show=False)
    for _ in range(5):
        w.do("send('a', 100)", show=False)
    _say(w, _took(p, 0.02))
    p.see(0.5, most=1)
    p.see(0.9, most=1)
    _info(w)


def sacked_in_part(w):
    """Only whole segments count."""
    p = _begin(w, bytes_more=0)
    t = p.base
    for a, b in ((1500, 2500), (1500, 3500), (3000, 4999), (8000, 9500)):
        p.clock += 1
        p.out(ACK, ack=1, options=Options(stamp(p.clock, p.echo), sack((t + a, t + b))))
    _info(w)


def sack_nonsense(w):
    p = _begin(w, bytes_more=0)
    for a, b in ((0, 3), (-3, 2), (9, 14), (5, 5), (6, 4), (20, 30)):
        _ack(p, 0, (a, b))
    _info(w)


def reneging(w):
    """What was SACKed is not acknowledged when the hole before it is filled."""
    p = _begin(w, bytes_more=0)
    for i in (5, 6, 7):
        _ack(p, 0, (4, i))
    _say(w, _took(p, 0.03))
    _info(w)
    time.sleep(PATH)
    _ack(p, 4)
    _say(w, _took(p, 0.2))
    _info(w)


def window_moderated(w):
    """An acknowledgment of everything: the window does not jump."""
    p = _begin(w, bytes_more=100000)
    _ack(p, 10)
    _say(w, _took(p, 0.02))
    _info(w)
    _ack(p, 20)
    _say(w, len(_took(p, 0.02).split()))
    _info(w)


def idle_restart(w):
    p = _begin(w, bytes_more=10000)
    _ack(p, 10)
    _took(p, 0.02)
    _ack(p, 20)
    _info(w)
    time.sleep(0.9)
    w.do("send('a', 60000)", show=False)
    _say(w, _took(p, 0.02))
    _info(w)


def program_limited(w):
    """A window that the program does not use does not grow."""
    p = _open(w)
    for i in range(1, 9):
        w.do("send('a', 1000)", show=False)
        _took(p, 0.01)
        time.sleep(0.02)
        _ack(p, i)
    _info(w)
    w.do("send('a', 30000)", show=False)
    _say(w, _took(p, 0.02))
    _info(w)


def fin_lost(w):
    p = _begin(w, n=3, bytes_more=0)
    w.do("shutdown('a', 'SHUT_WR')", show=False)
    _say(w, _took(p, 0.02))
    _ack(p, 3)
    _say(w, _took(p, 0.5, 1))
    _info(w)
    _say(w, _took(p, 0.9, 1))
    _info(w)


def data_and_fin_lost(w):
    p = _open(w)
    w.do("send('a', 2500)", show=False)
    w.do("shutdown('a', 'SHUT_WR')", show=False)
    _say(w, _took(p, 0.02))
    time.sleep(0.03)
    _ack(p, 1)
    _say(w, _took(p, 0.5, 1))
    _say(w, _took(p, 0.9, 1))
    _info(w)


def ece_in_recovery(w):
    p = _begin(w)
    for i in range(2, 6):
        _ack(p, 0, (1, i), flags=ACK | ECE)
        _say(w, _took(p))
    _info(w)


def dup_with_window(w):
    """Window updates are no duplicates (without SACK)."""
    p = _begin(w, with_sack=False, stamps=False)
    for i in range(5):
        p.out(ACK, ack=1, window=60000 - i)
    _say(w, _took(p, 0.03))
    _info(w)
    for i in range(5):
        p.out(ACK, ack=1, window=61000 + i)
    _say(w, _took(p, 0.03))
    _info(w)


def dup_with_data(w):
    """Nor is data."""
    p = _begin(w, with_sack=False, stamps=False, bytes_more=0)
    for _ in range(5):
        p.out(ACK | PSH, b"abc", ack=1)
    got = []
    while one := p.take(0.03):
        got.append(len(one.data))
    _say(w, 1000 in got)
    _info(w)


def late_timer(w):
    """The reordering window runs out without another acknowledgment."""
    p = _begin(w)
    _ack(p, 0, (1, 2))
    _say(w, _took(p, 0.004, 1))
    _say(w, _took(p, 0.05))
    _info(w)


def reorder_window(w):
    """Once the order was seen to change, three segments above a hole mean nothing yet."""
    p = _begin(w)
    _ack(p, 0, (1, 2), echo=0)
    _took(p, 0.003)
    _ack(p, 2, echo=0)
    _took(p, 0.02)
    _info(w, "state", "seen", "reordering", "cwnd")
    time.sleep(0.03)
    _ack(p, 2, (3, 6), echo=1)
    _say(w, _took(p, 0.003))
    _say(w, _took(p, 0.05))
    _info(w)


def shut_after_sending(w):
    """The window shuts while data is in flight: retransmissions are probes."""
    p = _begin(w, n=3, bytes_more=3000)
    _took(p, 0.01)
    _ack(p, 0, window=0)
    p.see(0.3, most=1)
    _ack(p, 0, window=0)
    p.see(0.9, most=1)
    _info(w)
    _ack(p, 0)
    _say(w, _took(p, 0.03))


def reset_in_recovery(w):
    p = _begin(w)
    for i in range(2, 6):
        _ack(p, 0, (1, i))
    _took(p, 0.03)
    p.out(RST | ACK, ack=1)
    w.do("recv('a')")
    _say(w, _took(p, 0.3))
