"""Data that comes: acknowledgements, what is out of order, what is outside of the window."""

import time

from peer import ACK, FIN, PSH, RST, SYN, URG, Options, sack, stamp
from stage import old

MSS = 1448


def in_order(w):
    p = w.established()
    p.out(ACK | PSH, b"abc")
    p.see(0.3, timed=True)
    p.out(ACK | PSH, b"def")
    p.see(0.3, timed=True)
    w.do("recv('a')")
    p.see(0.1)


def many_in_order(w):
    """Every second full segment at least is acknowledged."""
    p = w.established()
    for _ in range(20):
        p.out(ACK, bytes(MSS))
    time.sleep(0.3)
    last = None
    while one := p.take(0.05):
        last = one
    w.say("  last " + (p.show(last) if last else "none"))
    w.do("recv('a')")


def hole(w):
    p = w.established()
    p.out(ACK | PSH, b"3" * 100, seq=201)
    p.see(0.1)
    p.out(ACK | PSH, b"5" * 100, seq=401)
    p.see(0.1)
    p.out(ACK | PSH, b"4" * 100, seq=301)
    p.see(0.1)
    p.out(ACK | PSH, b"1" * 200, seq=1)
    p.see(0.1)
    w.do("recv('a')")


def hole_without_sack(w):
    p = w.established(old())
    p.out(ACK | PSH, b"3" * 100, seq=201)
    p.see(0.1)
    p.out(ACK | PSH, b"2" * 100, seq=101)
    p.see(0.1)
    p.out(ACK | PSH, b"1" * 100, seq=1)
    p.see(0.1)
    w.do("recv('a')")


def many_holes(w):
    """More than fit into the option: the newest first."""
    p = w.established()
    for i in (3, 7, 5, 11, 9, 13):
        p.out(ACK | PSH, b"x" * 100, seq=1 + 100 * i)
        p.see(0.05)
    p.out(ACK | PSH, b"x" * 300, seq=1)
    p.see(0.1)


def hole_filled_in_part(w):
    p = w.established()
    p.out(ACK | PSH, b"c" * 100, seq=201)
    p.see(0.05)
    p.out(ACK | PSH, b"a" * 150, seq=1)
    p.see(0.05)
    p.out(ACK | PSH, b"b" * 200, seq=101)
    p.see(0.05)
    w.do("recv('a')")


def overlap(w):
    """What is there already is cut off, the first copy counts."""
    p = w.established()
    p.out(ACK | PSH, b"aaaa", seq=1)
    p.see(0.3)
    p.out(ACK | PSH, b"bbbbbb", seq=3)
    p.see(0.3)
    w.do("recv('a')")
    p.out(ACK | PSH, b"zz", seq=11)
    p.see(0.05)
    p.out(ACK | PSH, b"yyyyyy", seq=9)
    p.see(0.05)
    w.do("recv('a')")


def again(w):
    """All of it was here before: a duplicate is acknowledged, with a D-SACK."""
    p = w.established()
    p.out(ACK | PSH, b"abcdef", seq=1)
    p.see(0.3)
    p.out(ACK | PSH, b"abcdef", seq=1)
    p.see(0.1)
    p.out(ACK | PSH, b"def", seq=4)
    p.see(0.1)
    w.do("recv('a')")


def again_out_of_order(w):
    p = w.established()
    p.out(ACK | PSH, b"c" * 10, seq=101)
    p.see(0.05)
    p.out(ACK | PSH, b"c" * 10, seq=101)
    p.see(0.05)
    p.out(ACK | PSH, b"c" * 4, seq=103)
    p.see(0.05)


def beyond_window(w):
    p = w.established()
    p.out(ACK | PSH, b"far", seq=1 << 28)
    p.see(0.1)
    p.out(ACK | PSH, b"old", seq=-100)
    p.see(0.6)
    w.do("s['a'].setblocking(False)", show=False)
    w.do("recv('a')")


def window_shut(w):
    """Nobody reads: the window closes and is kept to; probes are answered; reading opens it."""
    p = w.established()
    last = p.fill(bytes(MSS), 2000)
    w.say(f"  shut: {last.window == 0}")
    p.out(ACK, seq=p.acked() - 1)
    got = p.take(0.6)
    w.say(f"  a probe is answered: {got is not None and got.ack == last.ack and got.window == 0}")
    p.out(ACK, b"p", seq=p.acked())
    got = p.take(0.6)
    w.say(f"  a byte too many is refused: {got is not None and got.ack == last.ack}")
    w.do("len(s['a'].recv(1 << 24)) > 60000")
    got = p.take(0.3)
    w.say(f"  open again: {got is not None and got.window > 0}")


def old_stamp(w):
    """PAWS: what is older than the last one is no data."""
    p = w.established()
    p.out(ACK | PSH, b"abc")
    p.see(0.3)
    p.out(ACK | PSH, b"def", options=Options(stamp(100, p.echo)))
    p.see(0.6)
    w.do("s['a'].setblocking(False)", show=False)
    w.do("recv('a')")
    w.do("recv('a')")


def no_stamp(w):
    """It was agreed upon, and is missing."""
    p = w.established()
    p.out(ACK | PSH, b"abc", options=Options())
    p.see(0.6)
    w.do("s['a'].setblocking(False)", show=False)
    w.do("recv('a')")


def stamp_never_agreed(w):
    p = w.established(old())
    p.out(ACK | PSH, b"abc", options=Options(stamp(100, 0)))
    p.see(0.3)
    w.do("recv('a')")


def broken_options(w):
    p = w.established(old())
    for raw in (b"\x08\x0aAB", b"\5\2\1\1", b"\5\5aaa\0\0\0", b"\1\1\1\x63", b"\xfe\0\0\0"):
        p.out(ACK | PSH, b"abc", options=Options(raw))
        p.see(0.3)
    w.do("recv('a')")


def wrong_checksum(w):
    p = w.established()
    p.out(ACK | PSH, b"abc", seq=1, spoil=0x1234)
    p.see(0.2)
    p.out(ACK | PSH, b"abc")
    p.see(0.3)
    w.do("recv('a')")


def wrong_offset(w):
    p = w.established(old())
    for offset in (0, 4, 15):
        p.out(ACK | PSH, b"abc", seq=1, offset=offset)
        p.see(0.1)
    w.do("s['a'].setblocking(False)", show=False)
    w.do("recv('a')")


def no_ack_flag(w):
    p = w.established()
    p.out(PSH, b"abc", seq=1)
    p.see(0.1)
    p.out(0, b"abc", seq=1)
    p.see(0.1)
    w.do("s['a'].setblocking(False)", show=False)
    w.do("recv('a')")


def ack_of_the_future(w):
    p = w.established()
    p.out(ACK | PSH, b"abc", seq=1, ack=1000)
    p.see(0.6)
    w.do("s['a'].setblocking(False)", show=False)
    w.do("recv('a')")


def ack_of_the_past(w):
    p = w.established()
    w.do("send('a', 100)", show=False)
    p.take(0.5)
    p.out(ACK)
    p.out(ACK | PSH, b"abc", ack=50)
    p.see(0.3)
    p.out(ACK | PSH, b"def", ack=-(1 << 29))
    p.see(0.6)
    w.do("s['a'].setblocking(False)", show=False)
    w.do("recv('a')")


def syn_in_the_middle(w):
    p = w.established()
    p.out(SYN, seq=1)
    p.see(0.6)
    p.out(SYN | ACK, seq=0)
    p.see(0.6)
    p.out(SYN, seq=1 << 29)
    p.see(0.6)
    w.do("state('a')")


def reset_exact(w):
    p = w.established()
    p.out(RST, seq=1)
    p.see(0.1)
    w.do("recv('a')")
    w.do("send('a', 1, 0x4000)")


def reset_near(w):
    """In the window, and not the next number: a challenge (RFC 5961)."""
    p = w.established()
    p.out(RST, seq=100)
    p.see(0.6)
    p.out(RST | ACK, seq=200)
    p.see(0.6)
    w.do("state('a')")


def reset_far(w):
    p = w.established()
    p.out(RST, seq=1 << 29)
    p.see(0.3)
    p.out(RST, seq=-1)
    p.see(0.3)
    w.do("state('a')")


def reset_behind_hole(w):
    """The number after what was received out of order counts, too."""
    p = w.established()
    p.out(ACK | PSH, b"c" * 100, seq=101)
    p.see(0.1)
    p.out(RST, seq=201)
    p.see(0.3)
    w.do("state('a')")


def reset_with_data_unread(w):
    p = w.established()
    p.out(ACK | PSH, b"last words")
    time.sleep(0.1)
    p.out(RST)
    time.sleep(0.1)
    w.do("recv('a')")
    w.do("recv('a')")


def urgent(w):
    p = w.established()
    p.out(ACK | PSH | URG, b"abcU", urgent=4)
    p.see(0.3)
    w.do("recv('a', 10, socket.MSG_OOB)")
    w.do("recv('a')")
    p.out(ACK | URG, b"", urgent=3)
    p.see(0.1)
    p.out(ACK | PSH, b"defg")
    p.see(0.3)
    w.do("recv('a', 10, socket.MSG_OOB)")
    w.do("recv('a')")
    w.do("recv('a')", 0.3)


def window_update_is_no_answer(w):
    """An empty ACK is answered by nobody."""
    p = w.established()
    for _ in range(3):
        p.out(ACK)
    p.out(ACK, window=100)
    p.see(0.3)


def sack_nonsense(w):
    """Blocks that acknowledge what was never sent."""
    p = w.established()
    w.do("send('a', 5000)", show=False)
    while p.take(0.1):
        pass
    t = p.theirs
    p.out(ACK, ack=1, options=Options(stamp(6000, p.echo), sack((t + 100000, t + 200000), (t - 5000, t - 4000))))
    p.see(0.05)
    p.out(ACK, ack=5001)
    w.do("send('a', 10)")
    p.see(0.1)
