"""Opening a connection, from either side."""

import time

from peer import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG, Options, mss, sack_ok, scale, stamp
from stage import full, old


def syn_without_options(w):
    w.listen()
    p = w.peer()
    p.shake()
    w.do("accept('a', 'l')")
    w.do("s['a'].getsockopt(6, socket.TCP_MAXSEG)")


def syn_with_all_options(w):
    w.listen()
    p = w.peer()
    p.shake(full())
    w.do("accept('a', 'l')")


def syn_with_some_options(w):
    w.listen()
    for options in (
        Options(mss(1460), scale(7)),
        Options(mss(1460), sack_ok()),
        Options(mss(1460), stamp(77, 0)),
        Options(mss(536), sack_ok(), scale(0)),
        Options(b"\2\4\5\xb4\4\2\x08\x0a\0\0\0\x4d\0\0\0\0\1\3\3\7"),
        Options(mss(1460), scale(200)),
        Options(mss(0)),
        Options(mss(20)),
    ):
        w.peer().shake(options)


def syn_with_odd_options(w):
    w.listen()
    for raw in (
        b"\2\4\5\xb4\xfd\4\0\0",
        b"\2\4\5\xb4\x22\x0aABCDEFGH",
        b"\0\0\0\0",
        b"\2\4\5\xb4\0\4\2\1",
        b"\2\3\5\1",
        b"\2\0\5\xb4",
        b"\2\4\5\xb4\3\x63\0\0",
        b"\x1e\2\1\1\2\4\5\xb4",
    ):
        w.peer().shake(Options(raw))


def syn_with_data(w):
    w.listen()
    p = w.peer()
    p.out(SYN, b"early data", options=full())
    p.seq = p.isn + 1
    p.see(0.2)
    p.stamps = True
    p.out(ACK)
    p.out(ACK | PSH, b"early data")
    p.see(0.2)
    w.do("accept('a', 'l')")
    w.do("recv('a')")


def syn_with_ecn(w):
    w.listen()
    p = w.peer()
    p.out(SYN | ECE | CWR, options=full())
    p.see(0.1)


def syn_again(w):
    w.listen()
    p = w.peer()
    p.out(SYN, seq=0, options=full())
    p.see(0.1)
    p.out(SYN, seq=0, options=full(5010))
    p.see(0.1)


def syn_again_elsewhere(w):
    """A SYN in SYN_RCVD with another number is no retransmission."""
    w.listen()
    p = w.peer()
    p.out(SYN, seq=0, options=full())
    p.see(0.1)
    p.out(SYN, seq=500, options=full(5010))
    p.see(0.1)


def syn_ack_lost(w):
    w.listen()
    p = w.peer()
    p.out(SYN, options=full())
    p.see(3.6, timed=True)
    p.stamps = True
    p.out(ACK)
    w.do("accept('a', 'l')")


def last_ack_lost(w):
    """Data completes the handshake as well."""
    w.listen()
    p = w.peer()
    p.out(SYN, options=full())
    p.take(1)
    p.stamps = True
    p.out(ACK | PSH, b"hello")
    p.see(0.1)
    w.do("accept('a', 'l')")
    w.do("recv('a')")


def last_ack_with_fin(w):
    w.listen()
    p = w.peer()
    p.out(SYN, options=full())
    p.take(1)
    p.stamps = True
    p.out(ACK | FIN | PSH, b"hello")
    p.see(0.1)
    w.do("accept('a', 'l')")
    w.do("recv('a')")
    w.do("recv('a')")


def last_ack_wrong(w):
    w.listen()
    for ack in (0, 2, 5000, -10):
        p = w.peer()
        p.out(SYN, options=full())
        p.take(1)
        p.stamps = True
        p.out(ACK, ack=ack)
        p.see(0.1)
    w.do("s['l'].settimeout(0.1)", show=False)
    w.do("accept('a', 'l')")


def reset_while_opening(w):
    w.listen()
    for seq in (1, 2, 70000):
        p = w.peer()
        p.out(SYN, options=full())
        p.take(1)
        p.out(RST, seq=seq)
        p.see(0.1)
        p.stamps = True
        p.out(ACK)
        p.see(0.1)


def fin_while_opening(w):
    w.listen()
    p = w.peer()
    p.out(SYN, options=full())
    p.take(1)
    p.out(FIN)
    p.see(0.1)


def listener_and_flags(w):
    w.listen()
    for flags in (0, ACK, FIN, FIN | ACK, RST, RST | ACK, SYN | ACK, SYN | RST, SYN | FIN, FIN | PSH | URG, PSH | ACK):
        w.say(f" flags {flags}")
        w.peer().out(flags, ack=777)
        p = w.peer()
        p.out(flags, seq=3, ack=777)
        p.see(0.06)


def listener_and_data(w):
    w.listen()
    p = w.peer()
    p.out(ACK | PSH, b"nobody knows me", ack=99)
    p.see(0.1)


def listener_closed(w):
    """The SYN is there, the listener goes."""
    w.listen()
    p = w.peer()
    p.out(SYN, options=full())
    p.see(0.1)
    w.do("close('l')")
    p.see(0.1)
    p.stamps = True
    p.out(ACK)
    p.see(0.1)


def accepted_never(w):
    """In the accept queue when the listener goes."""
    w.listen()
    p = w.peer()
    p.shake(full())
    time.sleep(0.05)
    w.do("close('l')")
    p.see(0.1)


def backlog_full(w):
    w.listen(backlog=1)
    for _ in range(2):
        p = w.peer()
        p.shake(full())
    p = w.peer()
    p.out(SYN, options=full())
    p.see(0.2)


def syn_flood(w):
    """More half-open connections than a listener keeps: all are answered, and whoever goes on is connected."""
    w.listen(backlog=3)
    for options in (full(), Options(mss(1000))):
        answers = 0
        for _ in range(40):
            p = w.peer()
            p.out(SYN, options=options)
            one = p.take(2)
            answers += one is not None
        w.say(f"  {answers} answers, the last: {p.show(one) if one else 'none'}")
        p.stamps = bool(one and one.option(8))
        p.out(ACK)
        w.do("accept('a', 'l')")
        p.out(ACK | PSH, b"after all")
        p.see(0.1, most=1)
        w.do("s['a'].recv(100)")
        w.do("s['a'].send(bytes(1200))")
        p.see(0.1)
        p.out(ACK)
        w.do("s['a'].getsockopt(6, socket.TCP_MAXSEG)")


def deferred(w):
    """TCP_DEFER_ACCEPT: the third ACK alone opens nothing."""
    w.listen(TCP_DEFER_ACCEPT=2)
    p = w.peer()
    p.shake(full())
    w.do("s['l'].settimeout(0.2)", show=False)
    w.do("accept('a', 'l')")
    p.out(ACK | PSH, b"now")
    p.see(0.1)
    w.do("accept('a', 'l')")


def dial(w):
    p, ticket = w.dialled()
    p.out(SYN | ACK, options=full())
    p.see(0.1)
    w.result(ticket)
    w.do("state('a')")


def dial_shows_options(w):
    p = w.peer(9000)
    p.remote = w.port
    ticket = w.later(f"dial('a', '{w.wire.address}', {p.port}, {w.port})")
    p.see(3.4, timed=True)
    p.out(SYN | ACK, options=full())
    p.see(0.1)
    w.result(ticket)


def dial_plain_answer(w):
    p, ticket = w.dialled()
    p.out(SYN | ACK, options=old())
    p.see(0.1)
    w.result(ticket)
    w.do("send('a', 3000)")
    p.see(0.1)


def dial_refused(w):
    p, ticket = w.dialled()
    p.out(RST | ACK)
    p.see(0.1)
    w.result(ticket)


def dial_reset_wrong(w):
    """A reset that acknowledges something else is none, and one without an ACK neither."""
    p, ticket = w.dialled()
    p.out(RST | ACK, ack=5)
    p.see(0.1)
    p.out(RST)
    p.see(0.1)
    w.result(ticket, 0.2)
    p.out(RST | ACK)
    w.result(ticket)


def dial_wrong_ack(w):
    for ack in (0, 2, 3000):
        p, ticket = w.dialled()
        p.out(SYN | ACK, seq=0, ack=ack, options=full())
        p.see(0.1)
        p.out(ACK, ack=ack)
        p.see(0.1)
        p.out(RST | ACK)
        w.result(ticket)
        w.do("close('a')")


def dial_simultaneous(w):
    p, ticket = w.dialled()
    p.out(SYN, options=full())
    p.see(0.1)
    p.stamps = True
    p.out(ACK)
    p.see(0.1)
    w.result(ticket)
    w.do("send('a', 10)")
    p.see(0.1)


def dial_simultaneous_syn_ack(w):
    p, ticket = w.dialled()
    p.out(SYN, seq=0, options=full())
    p.see(0.1)
    p.out(SYN | ACK, options=full())
    p.see(0.1)
    w.result(ticket)


def dial_answer_with_data(w):
    p, ticket = w.dialled()
    p.out(SYN | ACK, b"banner", options=full())
    p.see(0.1)
    w.result(ticket)
    w.do("s['a'].setblocking(False)")
    w.do("recv('a')")


def dial_answer_with_fin(w):
    p, ticket = w.dialled()
    p.out(SYN | ACK | FIN, options=full())
    p.see(0.1)
    w.result(ticket)
    w.do("s['a'].setblocking(False)")
    w.do("recv('a')")


def dial_no_flags(w):
    p, ticket = w.dialled()
    for flags in (0, FIN, ACK, PSH | ACK, FIN | ACK):
        p.out(flags, b"x", seq=0)
        p.see(0.05)
    w.result(ticket, 0.1)


def dial_wrong_stamp(w):
    """An answer that echoes a time that never was."""
    p, ticket = w.dialled()
    p.out(SYN | ACK, seq=0, options=Options(mss(1460), sack_ok(), stamp(1, 12345), scale(7)))
    p.see(0.1)
    w.result(ticket, 0.1)


def dial_syn_ack_again(w):
    p, ticket = w.dialled()
    p.out(SYN | ACK, options=full())
    p.see(0.1)
    w.result(ticket)
    p.out(SYN | ACK, seq=0, options=full(5010))
    p.see(0.1)


def dial_close(w):
    """Closed before there is an answer."""
    p, _ = w.dialled()
    w.do("s['a'].setblocking(False)", show=False)
    w.do("close('a')")
    p.out(SYN | ACK, options=full())
    p.see(0.1)


def dial_reset_after(w):
    p, ticket = w.dialled()
    p.out(SYN | ACK, options=full())
    p.see(0.1)
    w.result(ticket)
    p.out(RST)
    w.do("recv('a')")
    w.do("send('a', 1, 0x4000)")
