"""What is left of the public lists of packet tests: message boundaries, growth of the window, ICMP in all states, windows and
times that are odd."""

import time

from peer import ACK, FIN, PSH, RST, SYN, Options, stamp
from recovery import MSS, PATH, _ack, _begin, _info, _open, _say, _took
from stage import full

EOR = "0x80"


def _lengths(p, seconds=0.02):
    got = []
    while one := p.take(seconds):
        got.append(f"{len(one.data)}{'P' if one.flags & PSH else ''}")
    return " ".join(got) or "-"


def record_ends(w):
    """MSG_EOR: what follows is another segment, however small."""
    p = _begin(w, bytes_more=0)
    for n, flags in ((300, EOR), (400, "0"), (500, EOR), (600, "0"), (700, "0")):
        w.do(f"send('a', {n}, {flags})", show=False)
    _ack(p, 10)
    _say(w, _lengths(p))


def record_ends_large(w):
    p = _begin(w, bytes_more=0)
    w.do(f"send('a', 2500, {EOR})", show=False)
    w.do("send('a', 2500)", show=False)
    _ack(p, 10)
    _say(w, _lengths(p))


def grows_by_ack(w):
    """Slow start: an acknowledgment of each, of every second, of all."""
    p = _begin(w, bytes_more=200000)
    for i in (1, 2, 4, 6, 10):
        _ack(p, i)
        _say(w, i, _took(p, 0.003))
    _info(w, "cwnd", "unacked")


def grows_when_full(w):
    """Nine of ten: the window is used enough to grow."""
    for n in (4, 5, 6, 9, 10):
        p = _open(w)
        w.do(f"send('a', {n * MSS})", show=False)
        _took(p, 0.01)
        time.sleep(PATH)
        _ack(p, n)
        time.sleep(0.01)
        _info(w, "cwnd", "unacked")
        w.do("linger('a', 0), close('a'), close('l')", show=False)
        time.sleep(0.02)
        w.port += 1


def stretch_ack_beyond_threshold(w):
    """The threshold lies within what is acknowledged."""
    p = _begin(w, bytes_more=100000)
    for i in range(2, 6):
        _ack(p, 0, (1, i))
    _took(p, 0.02)
    time.sleep(PATH)
    _ack(p, 13)
    _took(p, 0.02)
    _info(w, "state", "cwnd", "ssthresh")


def old_acks_with_sack(w):
    """Acknowledgments that were overtaken still bring SACK blocks."""
    p = _begin(w)
    _ack(p, 4)
    _say(w, _took(p, 0.02))
    time.sleep(PATH - 0.02)
    _ack(p, 2, (5, 9))
    _say(w, _took(p, 0.02))
    _info(w)


def icmp_half_open(w):
    w.listen()
    for code in (0, 1, 3):
        p = w.peer()
        p.out(SYN, options=full())
        one = p.take(1)
        p.stamps = True
        w.icmp(3, code, 0, p, syn=True)
        time.sleep(0.2)
        p.out(ACK)
        p.see(0.1, most=1)
        w.do("[s['l'].setblocking(False)]", show=False)
        w.do("accept('a', 'l')")


def icmp_soft(w):
    """It is told when the connection ends by time."""
    p = w.established()
    w.do("tcp('a', 'TCP_USER_TIMEOUT', 700)", show=False)
    w.do("send('a', 10)", show=False)
    p.take(0.1)
    w.icmp(3, 1, 0, p)
    time.sleep(1.6)
    w.do("recv('a')")
    w.do("error('a')")


def icmp_soft_forgotten(w):
    """An acknowledgment of anything forgets it."""
    p = w.established()
    w.do("tcp('a', 'TCP_USER_TIMEOUT', 700)", show=False)
    w.do("send('a', 10)", show=False)
    p.take(0.1)
    w.icmp(3, 1, 0, p)
    time.sleep(0.02)
    p.out(ACK)
    w.do("send('a', 10)", show=False)
    time.sleep(1.8)
    w.do("recv('a')")


def icmp_told(w):
    """With IP_RECVERR a message ends nothing, and is told at once."""
    for kind, code in ((3, 1), (3, 3), (3, 2), (11, 0)):
        p = w.established()
        w.do("s['a'].setsockopt(0, 11, 1)", show=False)
        w.do("s['a'].setblocking(False)", show=False)
        w.do("send('a', 10)", show=False)
        p.take(0.1)
        w.icmp(kind, code, 0, p)
        time.sleep(0.02)
        w.do("recv('a')")
        w.do("state('a')")
        w.do("linger('a', 0), close('a'), close('l')", show=False)
        time.sleep(0.02)
        w.port += 1


def icmp_not_ours(w):
    """A number that is not in flight."""
    p, ticket = w.dialled()
    p.theirs -= 77777
    w.icmp(3, 1, 0, p, syn=True)
    w.result(ticket, 0.2)
    p.theirs += 77777
    p.out(SYN | ACK, options=full())
    w.result(ticket)


def icmp_wakes_dialling(w):
    """Time exceeded, parameter problem, source quench, host unknown, administratively prohibited."""
    for kind, code in ((11, 0), (12, 0), (4, 0), (3, 7), (3, 9), (3, 10), (3, 0), (3, 2)):
        p, ticket = w.dialled()
        w.icmp(kind, code, 0, p, syn=True)
        w.result(ticket, 0.2)
        p.out(RST | ACK)
        w.result(ticket, show=False)
        w.do("close('a')", show=False)


def icmp_back_off(w):
    """The way is gone for a while: the timeout is taken back by one step."""
    p = w.established()
    w.do("send('a', 10)", show=False)
    for _ in range(3):
        p.take(1)
    w.icmp(3, 1, 0, p)
    p.see(0.9, timed=True, most=1)
    _info(w, "retransmits", "backoff", "state")


def user_timeout_dialling(w):
    w.listen()
    p = w.peer()
    w.do("[s.update(a=socket.socket()), tcp('a', 'TCP_USER_TIMEOUT', 1500)][0]", show=False)
    ticket = w.later(f"s['a'].connect(('{w.wire.address}', {p.port}))")
    w.result(ticket, 4)


def user_timeout_probes(w):
    p = w.established()
    p.out(ACK, window=0)
    time.sleep(0.02)
    w.do("tcp('a', 'TCP_USER_TIMEOUT', 900)", show=False)
    w.do("send('a', 10)", show=False)
    time.sleep(2.4)
    w.do("recv('a')")


def data_beyond_edge(w):
    """It is taken whole when its beginning fits, as long as nothing waits to be read; numbers relative to the edge."""
    p = w.established()
    for before in (1, 0, -1):
        edge = (p.edge - p.isn) & 0xFFFFFFFF
        p.out(ACK, b"abc", seq=edge - before)
        one = p.take(0.1)
        body = one and one.option(5)
        _say(w, "taken" if body and int.from_bytes(body[4:8], "big") - p.isn == edge - before + 3 else "not")

def stamp_in_reset(w):
    """An old time does not keep a reset away."""
    p = w.established()
    p.out(ACK | PSH, b"abc")
    p.see(0.1, most=1)
    p.out(RST, options=Options(stamp(1, p.echo)))
    w.do("recv('a')")
    w.do("recv('a')")


def stamp_of_fin(w):
    p = w.established()
    p.out(ACK | PSH, b"abc")
    p.see(0.1, most=1)
    p.out(ACK | FIN, options=Options(stamp(1, p.echo)))
    p.see(0.2, most=1)
    p.out(ACK | FIN, seq=4)
    p.see(0.2, most=1)


def stamp_not_taken(w):
    """A segment beyond what was acknowledged does not change what is echoed."""
    p = w.established()
    p.out(ACK, b"def", seq=4, options=Options(stamp(7000, p.echo)))
    one = p.take(0.2)
    _say(w, one and one.option(8)[4:].hex())
    p.out(ACK, b"abc", seq=1, options=Options(stamp(6000, p.echo)))
    one = p.take(0.2)
    _say(w, one and one.option(8)[4:].hex())


def dsack_many(w):
    """What came twice, in all places."""
    p = w.established()
    p.out(ACK, bytes(1000), seq=1001)
    p.see(0.05)
    p.out(ACK, bytes(1000), seq=3001)
    p.see(0.05)
    p.out(ACK, bytes(1000), seq=1001)
    p.see(0.05)
    p.out(ACK, bytes(1400), seq=1701)
    p.see(0.05)
    p.out(ACK, bytes(1400), seq=1)
    p.see(0.05)
    p.out(ACK, bytes(500), seq=1)
    p.see(0.05)


def shut_down_sending_lost(w):
    """Both directions end while segments are lost."""
    p = _begin(w, n=4, bytes_more=0)
    w.do("shutdown('a', 'SHUT_WR')", show=False)
    _say(w, _took(p, 0.01))
    p.out(ACK | FIN, ack=1)
    p.see(0.03)
    _ack(p, 0, (1, 4))
    _say(w, _took(p, 0.05))
    _info(w)
    time.sleep(PATH)
    p.out(ACK, ack=4002)
    time.sleep(0.02)
    w.do("state('a')")


def mss_changes_nothing(w):
    """TCP_MAXSEG of the program, smaller than the peer's."""
    w.listen(TCP_MAXSEG=600)
    p = w.peer()
    p.shake(full())
    w.do("accept('a', 'l')", show=False)
    w.do("send('a', 2000)", show=False)
    _say(w, _lengths(p))


def window_clamp(w):
    p = w.established()
    w.do("tcp('a', 'TCP_WINDOW_CLAMP', 5000)", show=False)
    p.out(ACK | PSH, bytes(1000))
    p.see(0.1, most=1)
    p.fill(bytes(1000), 40)
    time.sleep(0.1)
    while p.take(0.05):
        pass
    _say(w, "shut", p.acked() < 66000)


def times_of_two(w):
    p = _open(w, path=0.03)
    w.do("send('a', 2000)", show=False)
    p.see(1.6, timed=True, most=4)


def quick_then_delayed(w):
    """The first segments are acknowledged at once."""
    p = w.established()
    answers = 0
    for _ in range(24):
        p.out(ACK | PSH, bytes(1000))
        answers += p.take(0.004) is not None
    _say(w, answers > 12)
    w.do("recv('a', 30000)")
