"""How large the window is that we offer: in the SYN, in the first acknowledgments, after `SO_RCVBUF`, when the program
does not read. Sizes that depend on how the kernel accounts for a packet's memory are not compared."""

import time

from peer import ACK, FIN, PSH, RST, SYN, Options, mss, sack_ok, scale, stamp
from stage import full, old


def _listen(w, **buffers):
    """A listener with these buffers, set before `listen`."""
    w.listen()
    for name, n in buffers.items():
        w.do(f"sol('l', '{name}', {n})", show=False)


def _open(w, options, **buffers):
    """A connection whose windows are shown; accepted as `a`."""
    _listen(w, **buffers)
    p = w.peer()
    p.exact = True
    p.shake(options)
    w.do("accept('a', 'l')", 20, show=False)
    return p


def _answer(w, p, seconds=0.3):
    one = p.take(seconds)
    w.say("  < " + (p.show(one) if one else "nothing"))
    return one


def syn_ack(w):
    """A multiple of the segment size that will be used; a scale for the largest buffer."""
    for options in (
        full(), old(), Options(mss(1460), scale(0)), Options(mss(1460), sack_ok()), Options(mss(536), scale(7)),
        Options(mss(1000), stamp(1, 0), scale(7)), Options(), Options(mss(9000), stamp(1, 0), scale(14)),
    ):  # fmt: skip
        p = _open(w, options)
        p.out(ACK | PSH, b"x")
        _answer(w, p)
        w.do("linger('a', 0), close('a'), close('l')", show=False)
        time.sleep(0.02)


def syn_ack_small_buffer(w):
    for n in (1000, 3000, 10000, 20000, 65536, 200000):
        for options in (old(), full()):
            p = _open(w, options, SO_RCVBUF=n)
            w.do("s['a'].getsockopt(1, socket.SO_RCVBUF)")
            w.do("linger('a', 0), close('a'), close('l')", show=False)
            time.sleep(0.02)


def syn_ack_by_cookie(w):
    w.listen(backlog=3)
    for options in (full(), Options(mss(1000))):
        for _ in range(30):
            p = w.peer()
            p.exact = True
            p.out(SYN, options=options)
            one = p.take(2)
        w.say(f"  {p.show(one)}")
        p.stamps = bool(one.option(8))
        p.out(ACK)
        w.do("accept('a', 'l')")
        p.out(ACK | PSH, b"x")
        _answer(w, p)


def syn_ack_clamped(w):
    for n in (1000, 5000, 70000):
        w.listen()
        w.do(f"tcp('l', 'TCP_WINDOW_CLAMP', {n})", show=False)
        p = w.peer()
        p.exact = True
        p.shake(full())
        w.do("accept('a', 'l')", 20, show=False)
        p.out(ACK | PSH, b"x")
        _answer(w, p)
        w.do("linger('a', 0), close('a'), close('l')", show=False)
        time.sleep(0.02)


def syn_ack_small_mss(w):
    w.listen(TCP_MAXSEG=600)
    p = w.peer()
    p.exact = True
    p.shake(full())


def syn(w):
    for n in (0, 3000, 20000, 200000):
        p = w.peer(9000)
        p.exact = True
        buffer = f", rcvbuf={n}" if n else ""
        ticket = w.later(f"dial('a', '{w.wire.address}', {p.port}, {w.port}{buffer})")
        _answer(w, p)
        p.remote = w.port
        p.out(SYN | ACK, options=full())
        _answer(w, p)
        w.result(ticket, show=False)
        p.stamps = True
        p.out(ACK | PSH, b"x")
        _answer(w, p)
        w.do("linger('a', 0), close('a')", show=False)
        time.sleep(0.02)


def syn_plain_answer(w):
    for options in (old(), Options(), Options(mss(1460), scale(0)), Options(mss(500), sack_ok(), stamp(1, 0))):
        p = w.peer(9000)
        p.exact = True
        p.remote = w.port
        ticket = w.later(f"dial('a', '{w.wire.address}', {p.port}, {w.port})")
        p.take(1)
        p.out(SYN | ACK, options=options)
        _answer(w, p)
        w.result(ticket, show=False)
        w.do("linger('a', 0), close('a')", show=False)
        time.sleep(0.02)


def first_acks(w):
    """A few bytes, read at once: the window stays."""
    p = _open(w, full())
    for _ in range(4):
        p.out(ACK | PSH, b"abc")
        _answer(w, p)
        w.do("recv('a')", show=False)


def first_ack_in_answer(w):
    p = _open(w, full())
    w.do("send('a', 100)", show=False)
    _answer(w, p)


def grows(w):
    """Full segments that are read: it opens by as much again, up to the buffer."""
    p = _open(w, full())
    sizes = []
    for _ in range(12):
        p.out(ACK | PSH, bytes(1448))
        one = p.take(0.3)
        sizes.append(one.window << p.shift if one else 0)
        w.do("recv('a', 100000)", show=False)
    w.say(f"  grows {sizes == sorted(sizes)}, larger {sizes[-1] > sizes[0]}")


def buffer_too_small_for_more(w):
    """A segment that is larger than the window is taken while nothing waits, and then the window is shut."""
    p = _open(w, Options(mss(1000), scale(7)), SO_RCVBUF=20000)
    for i in range(14):
        p.out(ACK, bytes(1400), seq=1 + 1400 * i)
    time.sleep(0.1)
    while p.take(0.02):
        pass
    w.do("recv('a', 100000)", show=False)
    time.sleep(0.05)
    while p.take(0.02):
        pass
    edge = (p.edge - p.isn) & 0xFFFFFFFF
    p.out(ACK | PSH, bytes(1000), seq=edge - 500)
    one = p.take(0.2)
    w.say(f"  behind a hole, over the edge: {'sack' if one and one.option(5) else 'not taken'}")


def _fill(p):
    """Sends until the window is shut."""
    for _ in range(40):
        left = (p.edge - p.seq) & 0xFFFFFFFF
        if left == 0 or left > 1 << 31:
            break
        p.out(ACK | PSH, bytes(min(left, 1000)))
        while p.take(0.05):
            pass
    time.sleep(0.3)
    while p.take(0.05):
        pass


def fin_at_shut_window(w):
    """The window is shut; a FIN is heard all the same."""
    p = _open(w, old(), SO_RCVBUF=4000)
    _fill(p)
    w.say(f"  shut {p.edge == p.seq}")
    p.out(ACK | FIN)
    one = p.take(0.3)
    w.say(f"  acknowledged {one is not None and p.acked() == (p.seq - p.isn) & 0xFFFFFFFF}, window {one and one.window}")
    w.do("state('a')")


def data_at_shut_window(w):
    """Behind the edge nothing is taken, and each is answered."""
    p = _open(w, old(), SO_RCVBUF=4000)
    _fill(p)
    at = (p.seq - p.isn) & 0xFFFFFFFF
    for seq, n in ((at, 1), (at, 1000), (at - 1, 0), (at - 1, 1), (at - 1, 2), (at + 1, 10), (at, 0)):
        p.out(ACK | PSH, bytes(n), seq=seq)
        one = p.take(0.1)
        w.say(f"  {seq - at}+{n}: " + ("nothing" if not one else f"ack {p.acked() - at} win {one.window}"))
    w.do("send('a', 10)")
    one = p.take(0.1)
    w.say("  < " + (p.show(one) if one else "nothing").replace(str(at), "N"))
    w.say(f"  all {w.do(chr(115) + '[chr(97)].recv(100000)', show=False).count('x00') == at - 1}")
    one = p.take(0.1)
    w.say(f"  open {one is not None and one.window > 0}")


def too_big_when_empty(w):
    p = _open(w, old(), SO_RCVBUF=4000)
    edge = (p.edge - p.isn) & 0xFFFFFFFF
    p.out(ACK | PSH, bytes(1000))
    one = p.take(0.3)
    w.say(f"  {one and p.acked()}")
    edge = (p.edge - p.isn) & 0xFFFFFFFF
    p.out(ACK | PSH, bytes(1460), seq=edge - 1000)
    one = p.take(0.3)
    w.say(f"  not while something waits: {one and p.acked()}")
    w.do("recv('a')")
    while p.take(0.05):
        pass


def shrinks_never(w):
    """`SO_RCVBUF` afterwards takes nothing back."""
    p = _open(w, full())
    p.out(ACK | PSH, b"abc")
    p.take(0.3)
    edge = p.edge
    w.do("sol('a', 'SO_RCVBUF', 4000)")
    p.out(ACK | PSH, b"abc")
    p.take(0.3)
    w.say(f"  {((p.edge - edge) & 0xFFFFFFFF) < 1 << 31}")
