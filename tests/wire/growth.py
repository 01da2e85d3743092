"""How the congestion window grows and shrinks, step by step, and what the counters of `TCP_INFO` say meanwhile. Paths of
100 ms, as in `recovery`."""

import time

from peer import ACK, ECE, FIN, PSH, RST, SYN, Options, mss, sack, sack_ok, scale, stamp
from recovery import MSS, PATH, _ack, _begin, _info, _open, _say, _took
from stage import full


def _each(w, p, first, last, step):
    for i in range(first, last + 1, step):
        _ack(p, i)
        _say(w, i, _took(p, 0.004))
        _info(w, "cwnd", "unacked")


def ack_of_each(w):
    p = _begin(w, bytes_more=40000)
    _each(w, p, 1, 10, 1)


def ack_of_two(w):
    p = _begin(w, bytes_more=40000)
    _each(w, p, 2, 10, 2)


def ack_of_four(w):
    p = _begin(w, bytes_more=40000)
    _each(w, p, 4, 8, 4)
    _each(w, p, 10, 10, 1)


def few_in_flight(w):
    """Five or six of the window's ten: does it grow?"""
    for n in (1, 5, 6, 9):
        p = _open(w)
        w.do(f"send('a', {n * MSS})", show=False)
        _took(p, 0.01)
        time.sleep(PATH)
        for i in range(1, n + 1):
            _ack(p, i)
            time.sleep(0.003)
        _info(w, "cwnd", "unacked")
        w.do("linger('a', 0), close('a'), close('l')", show=False)
        time.sleep(0.02)
        w.port += 1


def window_shut_then_open(w):
    """Idle behind a shut window: it begins again with the first window."""
    p = _begin(w, bytes_more=16000)
    _ack(p, 10)
    _took(p, 0.02)
    time.sleep(PATH)
    _ack(p, 26, window=0)
    _info(w, "cwnd", "unacked")
    w.do("send('a', 20000)", show=False)
    for _ in range(2):
        p.see(0.9, most=1)
    _info(w, "cwnd", "backoff")
    _ack(p, 26)
    _say(w, _took(p, 0.02))
    _info(w, "cwnd", "unacked")


def four_and_six_lost(w):
    """Twenty, of which the first four and later six are lost."""
    p = _begin(w, bytes_more=10000)
    for i in range(5, 13):
        _ack(p, 0, (4, i))
        _say(w, _took(p))
    _info(w)
    time.sleep(PATH)
    _ack(p, 1, (4, 12))
    _say(w, _took(p))
    _ack(p, 1, (2, 12))
    _say(w, _took(p))
    _info(w)
    _ack(p, 1, (2, 13))
    _say(w, _took(p))
    _ack(p, 1, (2, 14))
    _say(w, _took(p))
    _info(w)


def sack_below_acked(w):
    p = _begin(w, bytes_more=0)
    _ack(p, 0, (1, 2))
    _ack(p, 0, (1, 3))
    _ack(p, 0, (1, 3), (8, 9))
    _say(w, _took(p))
    time.sleep(PATH)
    _ack(p, 4, (8, 9))
    _say(w, _took(p))
    w.do("send('a', 10000)", show=False)
    _ack(p, 3, (5, 7))
    _say(w, _took(p))
    _info(w)


def _sacks(w, *steps, final=True):
    p = _begin(w, bytes_more=0)
    for blocks in steps:
        _ack(p, 0, *blocks)
        _say(w, _took(p, 0.04 if blocks is steps[0] else 0.005))
        _info(w, "state", "sacked", "lost", "retrans", "reordering", "cwnd")
    time.sleep(PATH)
    _ack(p, 10)
    _info(w)


def shift_seven(w):
    _sacks(w, [(7, 8)], [(5, 6), (7, 8)], [(5, 8)], [(5, 9)], [(5, 10)])


def shift_seven_three(w):
    _sacks(w, [(7, 8)], [(3, 4), (7, 8)], [(3, 5), (7, 8)], [(8, 9), (3, 5), (7, 9)], [(7, 10), (3, 5)])


def shift_two_six(w):
    _sacks(w, [(2, 3)], [(6, 7), (2, 3)], [(8, 9), (6, 7), (2, 3)], [(2, 4), (8, 9), (6, 7)], [(8, 10), (2, 4), (6, 7)])


def shift_all(w):
    """From the back to the front."""
    _sacks(w, [(9, 10)], [(8, 10)], [(7, 10)], [(5, 6), (7, 10)], [(3, 6), (7, 10)])


def four_in_flight(w):
    """The fewest that allow three duplicates."""
    p = _begin(w, n=4, bytes_more=0)
    for i in (2, 3, 4):
        _ack(p, 0, (1, i))
        _say(w, _took(p, 0.004))
    _info(w)
    time.sleep(PATH)
    _ack(p, 4)
    _say(w, _took(p))
    _info(w)


def four_in_flight_last_only(w):
    """Three quarters are SACKed by one block of the last, or of its last byte."""
    for first in (3 * MSS, 4 * MSS - 1):
        p = _begin(w, n=4, bytes_more=0)
        p.clock += 1
        p.out(ACK, ack=1, options=Options(stamp(p.clock, p.echo), sack((p.base + first, p.base + 4 * MSS))))
        _say(w, _took(p, 0.06))
        _info(w)
        w.do("linger('a', 0), close('a'), close('l')", show=False)
        time.sleep(0.02)
        w.port += 1


def four_in_flight_reno(w):
    p = _begin(w, n=4, bytes_more=0, with_sack=False, stamps=False)
    for _ in range(3):
        _ack(p, 0)
        _say(w, _took(p, 0.004))
    _info(w)
    time.sleep(PATH)
    _ack(p, 4)
    _say(w, _took(p))
    _info(w)


def timeout_then_grows(w):
    """After a timeout: slow start up to the threshold, then slowly."""
    p = _begin(w, bytes_more=40000)
    _took(p, 0.35)
    time.sleep(0.7)
    _took(p, 0.01)
    _info(w)
    for i in (1, 2, 4, 6, 8, 10):
        time.sleep(0.02)
        _ack(p, i)
        _say(w, i, _took(p, 0.01))
        _info(w)


def avoidance(w):
    """Beyond the threshold one more for each window."""
    p = _begin(w, bytes_more=200000)
    for i in range(2, 6):
        _ack(p, 0, (1, i))
    _took(p, 0.02)
    time.sleep(PATH)
    _ack(p, 14)
    _took(p, 0.02)
    _info(w, "state", "cwnd", "ssthresh")
    at = 14
    for _ in range(12):
        at += 1
        _ack(p, at)
        _took(p, 0.004)
    _info(w, "state", "cwnd", "ssthresh")


def marked_in_full_flight(w):
    """ECE: how far the window goes down."""
    w.listen()
    p = w.peer()
    p.out(SYN | 64 | 128, options=Options(mss(1012), sack_ok(), stamp(5000, 0), scale(7)))
    p.take(2)
    p.stamps = True
    time.sleep(PATH)
    p.out(ACK)
    w.do("accept('a', 'l')", 20, show=False)
    w.do("s['a'].setblocking(False)", show=False)
    p.base = p.theirs + 1
    p.born = {}
    w.do("send('a', 60000)", show=False)
    _took(p, 0.02)
    time.sleep(PATH)
    for i in range(1, 9):
        _ack(p, i, flags=ACK | ECE if i < 6 else ACK)
        _say(w, _took(p, 0.005))
        _info(w, "state", "cwnd", "ssthresh", "unacked")
    _ack(p, 12)
    _say(w, _took(p, 0.005))
    _info(w, "state", "cwnd", "ssthresh")


def seventh_lost_twice(w):
    """A segment is lost, and when it is sent again once more; the timer brings it."""
    p = _begin(w, bytes_more=0)
    for i in range(8, 11):
        _ack(p, 6, (7, i))
    _say(w, _took(p, 0.02))
    _say(w, _took(p, 0.6, 1))
    _info(w)
    _info(w, "retransmits", "backoff")
    _ack(p, 10)
    _info(w)


def acked_behind_timeout(w):
    """Everything is acknowledged at once after the timeout."""
    p = _begin(w, bytes_more=10000)
    _took(p, 0.36)
    time.sleep(0.6)
    _took(p, 0.01)
    time.sleep(PATH)
    _ack(p, 11)
    _say(w, _took(p, 0.02))
    _info(w)


def info_counts(w):
    """Segments and bytes, as they are counted."""
    p = _begin(w, n=5, bytes_more=0)
    p.out(ACK | PSH, bytes(500))
    p.take(0.2)
    _ack(p, 3)
    time.sleep(0.02)
    text = (
        "[struct.unpack_from(f, s['a'].getsockopt(6, socket.TCP_INFO, 256), at)[0] for f, at in "
        "(('I', 16), ('I', 20), ('I', 60), ('I', 84), ('Q', 120), ('Q', 128), ('I', 136), ('I', 140), ('I', 144), ('I', 152), "
        "('I', 156), ('Q', 200), ('Q', 208), ('B', 5), ('B', 6))]"
    )
    w.do(text)


def info_times(w):
    """How long something was on its way, and how long the peer's window was the limit, in tenths of a second."""
    text = "[round(struct.unpack_from('Q', s['a'].getsockopt(6, socket.TCP_INFO, 256), at)[0] / 1e5) for at in (168, 176, 184)]"
    p = _open(w)
    w.do(text)
    w.do("send('a', 1000)", show=False)
    p.take(0.1)
    time.sleep(0.1)
    _ack(p, 1, window=0)
    time.sleep(0.1)
    w.do(text)
    w.do("send('a', 1000)", show=False)
    time.sleep(0.2)
    _ack(p, 1)
    p.take(0.2)
    w.do(text)
    time.sleep(0.1)
    _ack(p, 2)
    time.sleep(0.02)
    w.do(text)


def info_last(w):
    """Times since something was sent, received, acknowledged; in tenths of a second."""
    text = "[round(struct.unpack_from('I', s['a'].getsockopt(6, socket.TCP_INFO, 256), at)[0] / 100) for at in (44, 52, 56)]"
    p = _open(w)
    time.sleep(0.3)
    w.do(text)
    p.out(ACK | PSH, b"abc")
    p.take(0.1)
    time.sleep(0.2)
    w.do(text)
    w.do("send('a', 1000)", show=False)
    p.take(0.1)
    time.sleep(0.1)
    w.do(text)
    _ack(p, 1)
    time.sleep(0.02)
    w.do(text)


def info_received_size(w):
    """What is believed to be the peer's segment size, also from what is out of order."""
    text = "struct.unpack_from('I', s['a'].getsockopt(6, socket.TCP_INFO, 104), 20)[0]"
    p = _open(w)
    w.do(text)
    p.out(ACK, bytes(1000), seq=2001)
    p.take(0.2)
    w.do(text)
    p.out(ACK, bytes(300), seq=1)
    p.take(0.2)
    w.do(text)
    p.out(ACK, bytes(1400), seq=301)
    p.take(0.2)
    w.do(text)
