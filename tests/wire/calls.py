"""Calls of the program that can be seen on the wire, and segments that can be seen in calls."""

import socket
import struct
import time

from peer import ACK, FIN, PSH, RST, SYN, URG, Options, mss, sack_ok, scale, stamp, checksum
from recovery import MSS, PATH, _ack, _begin, _info, _open, _say, _took
from stage import full, old


def _lengths(p, seconds=0.02):
    got = []
    while one := p.take(seconds):
        flags = "".join(c for i, c in enumerate("FSRP") if one.flags >> i & 1)
        got.append(f"{len(one.data)}{flags}")
    return " ".join(got) or "-"


def told_of_more(w):
    """TCP_INQ: how much is left after a read; one byte is told of the end."""
    p = w.established()
    w.do("s['a'].setsockopt(6, 36, 1)")
    text = "[(len(d), [(l, t, struct.unpack('i', v)[0]) for l, t, v in c]) for d, c, f, a in [s['a'].recvmsg({}, 100)]]"
    p.out(ACK | PSH, bytes(10000)[:1400])
    time.sleep(0.05)
    w.do(text.format(1000))
    w.do(text.format(400))
    p.out(ACK | PSH | FIN, bytes(1000))
    time.sleep(0.05)
    w.do(text.format(999))
    w.do(text.format(1))
    w.do(text.format(10))


def sent_while_dialling(w):
    """A program that waits in `send` for the connection: its data is the third segment."""
    p = w.peer(9000)
    w.do(f"s.update(a=socket.socket()), s['a'].setsockopt(1, 2, 1), s['a'].bind(('', {w.port}))", show=False)
    w.do("s['a'].setblocking(False)", show=False)
    w.do(f"s['a'].connect(('{w.wire.address}', {p.port}))", show=False)
    p.remote = w.port
    p.take(1)
    w.do("s['a'].setblocking(True)", show=False)
    ticket = w.later("send('a', 10)")
    time.sleep(0.1)
    p.out(SYN | ACK, options=full())
    p.see(0.1)
    w.result(ticket)


def read_while_dialling(w):
    p = w.peer(9000)
    w.do(f"s.update(a=socket.socket()), s['a'].setsockopt(1, 2, 1), s['a'].bind(('', {w.port}))", show=False)
    w.do("s['a'].setblocking(False)", show=False)
    w.do(f"s['a'].connect(('{w.wire.address}', {p.port}))")
    w.do("send('a', 10)")
    w.do("recv('a')")
    p.remote = w.port
    p.take(1)
    w.do("s['a'].setblocking(True)", show=False)
    ticket = w.later("recv('a')")
    time.sleep(0.05)
    p.out(SYN | ACK, options=full())
    p.see(0.1)
    p.stamps = True
    p.out(ACK | PSH, b"hello")
    p.see(0.1)
    w.result(ticket)


def calls_while_dialling_refused(w):
    for call in ("send('a', 10)", "recv('a')"):
        p = w.peer(9000)
        w.do(f"s.update(a=socket.socket()), s['a'].setsockopt(1, 2, 1), s['a'].bind(('', {w.port}))", show=False)
        w.do("s['a'].setblocking(False)", show=False)
        w.do(f"s['a'].connect(('{w.wire.address}', {p.port}))", show=False)
        p.remote = w.port
        p.take(1)
        w.do("s['a'].setblocking(True)", show=False)
        ticket = w.later(call)
        time.sleep(0.05)
        p.out(RST | ACK)
        w.result(ticket)
        w.do(call)
        w.do("close('a')", show=False)


def waits_to_answer(w):
    """TCP_DEFER_ACCEPT and TCP_QUICKACK 0 of who dials: the third segment waits."""
    for option, value in (("TCP_DEFER_ACCEPT", 1), ("TCP_QUICKACK", 0)):
        p = w.peer(9000)
        p.remote = w.port
        ticket = w.later(f"dial('a', '{w.wire.address}', {p.port}, {w.port}, {option}={value})")
        p.take(1)
        p.out(SYN | ACK, options=full())
        p.see(0.3, timed=True)
        w.result(ticket)
        w.do("linger('a', 0), close('a')", show=False)


def stops_dialling_unreachable(w):
    """After an ICMP message that ends it nobody knows the peer's answer."""
    p, ticket = w.dialled()
    w.icmp(3, 1, 0, p, syn=True)
    w.result(ticket, 0.3)
    p.out(SYN | ACK, options=full())
    p.see(0.1)


def backlog_is_full(w):
    """The third segment of one more than fit is not heard: its SYN-ACK comes again. Then there is room."""
    w.listen(backlog=1)
    late = w.peer()
    late.out(SYN, options=full())
    late.take(1)
    late.stamps = True
    for _ in range(2):
        w.peer().shake(full(), quiet=True)
    late.out(ACK)
    late.see(1.4, timed=True, most=1)
    late.out(ACK | PSH, b"hello")
    late.see(0.1)
    w.peer().out(SYN, options=full())
    for _ in range(2):
        w.do("accept('b', 'l')")
    late.out(ACK | PSH, b"hello", seq=1)
    late.see(0.2, most=1)
    w.do("accept('c', 'l')")
    w.do("recv('c')")


def linger(w):
    """`close` waits until everything is acknowledged, or for so long."""
    for seconds, answer in ((1, True), (1, False)):
        p = w.established()
        w.do(f"linger('a', {seconds})", show=False)
        w.do("send('a', 10)", show=False)
        begun = time.monotonic()
        ticket = w.later("close('a')")
        _say(w, _lengths(p, 0.05))
        if answer:
            p.out(ACK)
        w.result(ticket)
        _say(w, "took", round(time.monotonic() - begun, 0))
        w.do("close('l')", show=False)
        w.port += 1


def linger_after_shutdown(w):
    p = w.established()
    w.do("linger('a', 0)", show=False)
    w.do("shutdown('a', 'SHUT_RDWR')", show=False)
    w.do("close('a')", show=False)
    p.see(0.1)


def alone_for_a_second(w):
    """TCP_LINGER2: so long the peer may take for its FIN."""
    for value in (1, -1):
        p = w.established()
        w.do(f"tcp('a', 'TCP_LINGER2', {value})")
        w.do("close('a')", show=False)
        p.see(0.1)
        p.out(ACK)
        p.see(0.1)
        time.sleep(1.5)
        p.out(ACK | FIN)
        p.see(0.1)
        w.do("close('l')", show=False)
        w.port += 1


def shut_with_data_waiting(w):
    """All that waits goes before the FIN, whatever is shut and closed."""
    for calls in (("SHUT_RDWR",), ("SHUT_WR", "SHUT_RD"), ("SHUT_RD", "SHUT_WR"), ("SHUT_WR", "SHUT_WR")):
        p = _begin(w, bytes_more=5000)
        for how in calls:
            w.do(f"shutdown('a', '{how}')", show=False)
        w.do("close('a')", show=False)
        _ack(p, 10)
        _say(w, _took(p, 0.02))
        p.out(ACK, ack=15002)
        time.sleep(0.01)
        p.out(ACK | FIN)
        _say(w, _lengths(p))
        w.do("close('l')", show=False)
        w.port += 1


def shut_reading_then_fin(w):
    p = w.established()
    w.do("shutdown('a', 'SHUT_RD')", show=False)
    p.out(ACK | PSH, b"anybody?")
    p.take(0.2)
    w.do("look('a')")
    w.do("recv('a')")
    w.do("recv('a')")
    p.out(ACK | FIN)
    p.take(0.2)
    w.do("close('a')", show=False)
    p.see(0.1)


def closed_with_data_read(w):
    """What was read, sent again with a FIN: no reset."""
    p = w.established(old())
    p.out(ACK, bytes(1000))
    p.see(0.2, most=1)
    w.do("recv('a')", show=False)
    p.out(ACK | FIN, bytes(1000), seq=1)
    p.see(0.1, most=1)
    w.do("close('a')", show=False)
    p.see(0.1)


def fin_overtaken(w):
    """A FIN with an acknowledgment from before, after a later one."""
    p = w.established(old())
    w.do("shutdown('a', 'SHUT_WR')", show=False)
    p.take(0.2)
    p.out(ACK)
    p.out(ACK | FIN, ack=1)
    p.see(0.2)


def stamp_of_bad_ack(w):
    """A segment that acknowledges what never was does not change the time that is echoed."""
    p = w.established()
    p.out(ACK | FIN, seq=1, ack=9999, options=Options(stamp(200000, p.echo)))
    time.sleep(0.02)
    while p.take(0.02):
        pass
    p.out(ACK, bytes(1000), seq=1)
    one = p.take(0.2)
    _say(w, one and p.show(one), one and int.from_bytes(one.option(8)[4:], "big") == p.clock)


def stamps_go_on(w):
    """The times of a FIN and of a reset are those of their sending."""
    for call in ("close('a')", "linger('a', 0), close('a')"):
        p = w.established()
        first = p.echo
        time.sleep(0.5)
        w.do(call, show=False)
        one = p.take(0.2)
        body = one and one.option(8)
        _say(w, one and p.show(one), body and 450 <= int.from_bytes(body[:4], "big") - first <= 700)
        w.do("close('l')", show=False)
        w.port += 1


def signed(w):
    """Signatures (RFC 2385) that nobody asked for: not heard."""
    w.listen()
    p = w.peer()
    p.out(SYN, options=Options(mss(1000), sack_ok(), scale(7)))
    p.see(0.1)
    for _ in range(2):
        p.out(ACK, options=Options(b"\x13\x12" + bytes(range(16))))
    p.see(0.1)
    w.do("[s['l'].settimeout(0.1)]", show=False)
    w.do("accept('a', 'l')")
    p.out(ACK)
    w.do("accept('a', 'l')")
    w.do("send('a', 1000)", show=False)
    p.see(0.1)


def opened_with_cookie_request(w):
    """Fast open, without it being allowed: as without."""
    w.listen()
    p = w.peer()
    p.out(SYN, options=Options(mss(1460), sack_ok(), b"\x22\x02\1\1"))
    p.see(0.1)
    p.out(ACK | PSH, b"hello", seq=1)
    p.see(0.1)
    w.do("accept('a', 'l')")
    p = w.peer()
    p.out(SYN, b"early", options=Options(mss(1460), sack_ok(), b"\x22\x0aABCDEFGH\1\1"))
    p.see(0.1)


def opens_fast(w):
    """MSG_FASTOPEN of who dials: a cookie is asked for, the data follows."""
    for flags in (0x20000000, 0x20004000):
        p = w.peer(9000)
        w.do(f"s.update(a=socket.socket()), s['a'].setsockopt(1, 2, 1), s['a'].bind(('', {w.port}))", show=False)
        ticket = w.later(f"s['a'].sendto(b'hello', {flags}, ('{w.wire.address}', {p.port}))")
        p.remote = w.port
        p.see(0.1)
        p.out(SYN | ACK, options=Options(mss(1000), sack_ok()))
        p.see(0.1)
        w.result(ticket)
        w.do("linger('a', 0), close('a')", show=False)


def opens_fast_by_option(w):
    p = w.peer(9000)
    w.do(f"s.update(a=socket.socket()), s['a'].setsockopt(1, 2, 1), s['a'].bind(('', {w.port}))", show=False)
    w.do("s['a'].setsockopt(6, 30, 1)", show=False)
    w.do(f"s['a'].connect(('{w.wire.address}', {p.port}))", 0.2)
    ticket = w.later("s['a'].send(b'hello')")
    p.remote = w.port
    p.see(0.1)
    p.out(SYN | ACK, options=Options(mss(1000), sack_ok()))
    p.see(0.1)
    w.result(ticket)


def corked_beyond_full(w):
    """Full segments go, what is left waits; without the cork it goes."""
    p = w.established(Options(mss(1000), scale(7)))
    w.do("tcp('a', 'TCP_CORK', 1)", show=False)
    w.do("send('a', 400)", show=False)
    _say(w, _lengths(p))
    w.do("send('a', 1700)", show=False)
    _say(w, _lengths(p))
    p.out(ACK)
    _say(w, _lengths(p))
    w.do("tcp('a', 'TCP_CORK', 0)", show=False)
    _say(w, _lengths(p))


def more_and_nodelay(w):
    """MSG_MORE holds back what TCP_NODELAY would not; setting it again lets go."""
    p = w.established(Options(mss(1000), scale(7)))
    w.do("tcp('a', 'TCP_NODELAY', 1)", show=False)
    w.do("send('a', 40, socket.MSG_MORE)", show=False)
    p.see(0.4, timed=True, most=1)
    p.out(ACK)
    for n in (100, 160, 495):
        w.do(f"send('a', {n}, socket.MSG_MORE)", show=False)
    _say(w, _lengths(p))
    w.do("send('a', 5)", show=False)
    _say(w, _lengths(p))
    p.out(ACK)
    w.do("send('a', 3100, socket.MSG_MORE)", show=False)
    _say(w, _lengths(p))
    w.do("send('a', 50, socket.MSG_MORE)", show=False)
    _say(w, _lengths(p))
    p.out(ACK, ack=800 + 2001)
    _say(w, _lengths(p))
    for n in (1, 2, 3):
        w.do(f"send('a', {n}, socket.MSG_MORE)", show=False)
    _say(w, _lengths(p))
    p.out(ACK)
    _say(w, _lengths(p))
    p.out(ACK)
    w.do("send('a', 40, socket.MSG_MORE)", show=False)
    w.do("send('a', 40, socket.MSG_MORE)", show=False)
    w.do("tcp('a', 'TCP_NODELAY', 1)", show=False)
    _say(w, _lengths(p))


def nagle_fills_up(w):
    """A small one is on its way; the next small one is filled up to a full segment."""
    p = w.established(Options(mss(1000), scale(7)))
    w.do("send('a', 10)", show=False)
    _say(w, _lengths(p))
    w.do("send('a', 10)", show=False)
    _say(w, _lengths(p))
    w.do("send('a', 1000)", show=False)
    _say(w, _lengths(p))
    for _ in range(3):
        w.do("send('a', 1000)", show=False)
    _say(w, _lengths(p))
    p.out(ACK)
    _say(w, _lengths(p))


def nodelay_client(w):
    """A header, then a body of two segments and a bit: nothing waits."""
    p = w.established(Options(mss(974), sack_ok(), scale(7)))
    w.do("tcp('a', 'TCP_NODELAY', 1)", show=False)
    w.do("send('a', 51)", show=False)
    w.do("send('a', 2002)", show=False)
    _say(w, _lengths(p))


def little_unsent(w):
    """TCP_NOTSENT_LOWAT: writable again when so little is not sent."""
    p = _open(w)
    w.do("tcp('a', 'TCP_NOTSENT_LOWAT', 5000)", show=False)
    w.do("s.update(e=select.epoll()), s['e'].register(s['a'].fileno(), select.EPOLLOUT | select.EPOLLET)", show=False)
    w.do("[hex(e) for _, e in s['e'].poll(0.1)]")
    w.do("send('a', 16000)")
    w.do("send('a', 16000)")
    w.do("[hex(e) for _, e in s['e'].poll(0.1)]")
    _took(p, 0.01)
    _ack(p, 2)
    w.do("[hex(e) for _, e in s['e'].poll(0.1)]")
    _took(p, 0.01)
    _ack(p, 6)
    w.do("[hex(e) for _, e in s['e'].poll(0.1)]")
    w.do("look('a')")
    w.do("s.pop('e').close()", show=False)


def without_copies(w):
    """MSG_ZEROCOPY: numbers of what was sent."""
    p = w.established()
    w.do("s['a'].setsockopt(1, 60, 1)")
    # A connection that moves to the kernel for it says so with an acknowledgment.
    _lengths(p, 0.05)
    w.do("s['a'].send(bytes(2000), 0x4000000)")
    _say(w, _lengths(p, 0.004))
    p.out(ACK)
    time.sleep(0.05)
    text = "[[(l, t, struct.unpack('IBBBBII', v[:16])) for l, t, v in s['a'].recvmsg(0, 100, 0x2000)[1]]]"
    w.do(text)
    w.do("s['a'].send(bytes(2000), 0x4000000)")
    _say(w, _lengths(p, 0.004))
    p.out(ACK)
    time.sleep(0.05)
    w.do(text)


def times_of_sending(w):
    """SO_TIMESTAMPING: of the last byte of a call, when it is sent and when acknowledged."""
    p = w.established()
    w.do("s['a'].setsockopt(1, 37, 1 << 1 | 1 << 4 | 1 << 7 | 1 << 9)")
    # A connection that moves to the kernel for it says so with an acknowledgment.
    _lengths(p, 0.05)
    w.do("send('a', 3000)")
    _say(w, _lengths(p, 0.004))
    p.out(ACK)
    time.sleep(0.05)
    text = "[[(l, t, struct.unpack('IBBBBII', v[:16])) for l, t, v in s['a'].recvmsg(0, 200, 0x2000)[1] if not l]]"
    w.do(text)
    w.do(text)
    w.do(text)


def ends_of_records_again(w):
    """MSG_EOR: what is sent again is not put together."""
    p = _open(w)
    for _ in range(4):
        w.do("send('a', 400, 0x80)", show=False)
    _ack(p, 0)
    _say(w, _lengths(p))
    got = p.take(0.5)
    _say(w, got and len(got.data))
    got = p.take(0.9)
    _say(w, got and len(got.data))


def file_is_sent(w):
    p = w.established(Options(mss(1000), scale(7)))
    w.do("[open('/tmp/wire-file', 'wb').write(bytes(5400))]", show=False)
    w.do("__import__('os').sendfile(s['a'].fileno(), open('/tmp/wire-file').fileno(), 0, 5400)")
    _say(w, _lengths(p))
    p.out(ACK)
    _say(w, _lengths(p))


def waits_for_data(w):
    """TCP_DEFER_ACCEPT: the SYN-ACK comes again for as long as nothing comes, then the connection is there all the same."""
    w.listen(TCP_DEFER_ACCEPT=3)
    p = w.peer()
    p.shake(full(), quiet=True)
    p.see(2.5, timed=True, most=1)
    w.do("[s['l'].settimeout(0.05)]", show=False)
    w.do("accept('a', 'l')")
    p.out(ACK)
    p.see(3.0, timed=True, most=1)
    p.out(ACK)
    time.sleep(0.05)
    w.do("accept('a', 'l')")


def finished_while_waiting(w):
    """A FIN is no data, and is something."""
    w.listen(TCP_DEFER_ACCEPT=3)
    p = w.peer()
    p.shake(full(), quiet=True)
    p.out(ACK | FIN)
    p.see(0.1)
    w.do("[s['l'].settimeout(0.05)]", show=False)
    w.do("accept('a', 'l')")


def followed_in_time_wait(w):
    """What a new SYN must be like to follow a connection in TIME_WAIT."""
    for text, seq, at in (("older", -100, 1), ("older, later time", -100, 9000), ("same", 0, 1), ("next", 1, 1), ("next, old time", 1, 1), ("far", 100000, 1)):
        for stamped in (True, False):
            p = w.established(full() if stamped else old())
            w.do("close('a')", show=False)
            p.take(0.2)
            p.out(ACK | FIN)
            p.take(0.2)
            nxt = p.seq - p.isn
            p.out(SYN, seq=nxt + seq, options=full(at) if stamped else old())
            one = p.take(0.1)
            _say(w, text, stamped, p.show(one) if one else "nothing")
            w.do("close('l')", show=False)
            time.sleep(0.01)


def keepalive_counts(w):
    """Probes while data is unread, and none while data is on its way."""
    p = w.established()
    w.do("sol('a', 'SO_KEEPALIVE', 1)", show=False)
    for option, value in (("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3)):
        w.do(f"tcp('a', '{option}', {value})", show=False)
    p.out(ACK | PSH, b"abc")
    p.take(0.2)
    p.see(1.5, timed=True, most=1)
    p.out(ACK)
    w.do("send('a', 10)", show=False)
    p.see(0.1, most=1)
    p.out(ACK)
    p.see(1.5, timed=True, most=1)
    p.out(RST | ACK)
    w.do("recv('a')")
    w.do("recv('a')")


def keepalive_user_timeout(w):
    """TCP_USER_TIMEOUT stands above the number of probes."""
    p = w.established()
    w.do("sol('a', 'SO_KEEPALIVE', 1)", show=False)
    for option, value in (("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 9), ("TCP_USER_TIMEOUT", 2500)):
        w.do(f"tcp('a', '{option}', {value})", show=False)
    p.see(4.4, timed=True)
    w.do("recv('a')")


def same_address(w):
    """A SYN from the host's own address is not heard."""
    w.listen()
    p = w.peer()
    t = struct.pack("!HHIIBBHHH", p.port, w.port, 1000, 0, 5 << 4, SYN, 65535, 0, 0)
    own = socket.inet_aton(w.wire.peer)
    total = checksum(own + own + struct.pack("!BBH", 0, 6, len(t)) + t)
    w.wire.send_ip(6, t[:16] + struct.pack("!H", total) + t[18:], source=w.wire.peer)
    p.see(0.1)
    p.shake(full())
