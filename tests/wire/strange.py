"""Segments that nobody should send."""

import random
import time

from peer import ACK, FIN, PSH, RST, SYN, URG, Options
from stage import full


def data_of_nothing(w):
    p = w.established()
    p.out(ACK | PSH, b"")
    p.see(0.1)
    p.out(ACK | URG, b"", urgent=0)
    p.see(0.1)


def all_flags(w):
    """Every combination of flags at the next number; the state at the end of each."""
    for flags in range(64):
        p = w.established(isn=1000 + flags)
        p.out(flags, b"xy", seq=1)
        time.sleep(0.01)
        got = p.take(0.05)
        w.say(f"  {flags:2}: {p.show(got) if got and not (got.flags == ACK and flags & PSH) else '-'} {w.do(chr(115)+'tate(chr(97))', show=False)}")
        w.do("linger('a', 0), close('a'), close('l')", show=False)
        while p.take(0.01):
            pass


def sequence_wraps(w):
    p = w.established(isn=0xFFFFFFF0)
    p.out(ACK | PSH, b"b" * 20, seq=21)
    p.see(0.05)
    p.out(ACK | PSH, b"a" * 20, seq=1)
    p.see(0.1)
    w.do("recv('a')")
    p.out(ACK | FIN, seq=41)
    p.see(0.1)
    w.do("recv('a')")


def stamp_wraps(w):
    p = w.established(full(0xFFFFFFF0))
    p.clock = 0xFFFFFFF1
    p.out(ACK | PSH, b"a")
    p.see(0.3)
    p.clock = 5
    p.out(ACK | PSH, b"b")
    p.see(0.3)
    w.do("recv('a')")


def reserved_bits(w):
    p = w.established()
    p.out(ACK | PSH | 64 | 128, b"congested?")
    p.see(0.3)
    w.do("recv('a')")


def two_peers(w):
    """The same port of the peer twice in a row, the first one gone without a word."""
    p = w.established()
    p.out(SYN, seq=100000, options=full(9000))
    p.see(0.3)
    p.out(RST, seq=1)
    time.sleep(0.05)
    p.theirs = p.ack = None
    p.out(SYN, seq=100000, options=full(9000))
    p.see(0.1)


def dribble(w):
    """One byte at a time, in random order, some twice: the text comes out whole."""
    p = w.established()
    text = bytes(range(65, 91)) * 2
    order = list(range(len(text))) + [3, 9, 27]
    random.Random(4).shuffle(order)
    for i in order:
        p.out(ACK | PSH, text[i : i + 1], seq=1 + i)
    time.sleep(0.2)
    last = None
    while one := p.take(0.05):
        last = one
    w.say(f"  all acknowledged: {last is not None and p.acked() == 1 + len(text)}")
    w.do(f"s['a'].recv(100) == {text!r}")
