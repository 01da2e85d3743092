"""The end of a connection."""

import time

from peer import ACK, FIN, PSH, RST, SYN
from stage import full


def peer_first(w):
    p = w.established()
    p.out(ACK | FIN)
    p.see(0.3)
    w.do("recv('a')")
    w.do("state('a')")
    w.do("send('a', 10)")
    p.see(0.1)
    p.out(ACK)
    w.do("close('a')")
    p.see(0.1)
    p.out(ACK)
    p.see(0.1)
    p.out(ACK | PSH, b"too late")
    p.see(0.1)


def peer_first_with_data(w):
    p = w.established()
    p.out(ACK | FIN | PSH, b"and that was all")
    p.see(0.3)
    w.do("recv('a')")
    w.do("recv('a')")
    p.out(ACK | FIN | PSH, b"and that was all", seq=1)
    p.see(0.3)


def fin_before_data(w):
    p = w.established()
    p.out(ACK | FIN | PSH, b"end", seq=4)
    p.see(0.1)
    w.do("s['a'].setblocking(False)", show=False)
    w.do("recv('a')")
    p.out(ACK | PSH, b"beg", seq=1)
    p.see(0.3)
    w.do("recv('a')")
    w.do("recv('a')")


def data_after_fin(w):
    p = w.established()
    p.out(ACK | FIN)
    p.see(0.1)
    p.out(ACK | PSH, b"more")
    p.see(0.3)
    w.do("recv('a')")
    w.do("state('a')")


def last_ack_again(w):
    """The FIN's acknowledgement is lost: it comes again."""
    p = w.established()
    p.out(ACK | FIN)
    p.see(0.1)
    w.do("close('a')")
    p.see(0.1)
    again = [p.show(one) for _ in range(2) if (one := p.take(0.7))]
    w.say(f"  again {again}")
    p.out(ACK)
    p.see(0.8)


def us_first(w):
    p = w.established()
    w.do("shutdown('a', 'SHUT_WR')")
    p.see(0.1)
    w.do("state('a')")
    p.out(ACK)
    time.sleep(0.05)
    w.do("state('a')")
    p.out(ACK | PSH, b"still talking")
    p.see(0.3)
    w.do("recv('a')")
    p.out(ACK | FIN)
    p.see(0.3)
    w.do("recv('a')")
    w.do("state('a')")
    p.out(ACK | FIN, seq=p.seq - p.isn - 1)
    p.see(0.6)


def us_first_fin_with_ack(w):
    p = w.established()
    w.do("shutdown('a', 'SHUT_WR')")
    p.take(0.2)
    p.out(ACK | FIN)
    p.see(0.3)
    w.do("recv('a')")


def both_at_once(w):
    p = w.established()
    w.do("shutdown('a', 'SHUT_WR')")
    p.take(0.2)
    p.out(ACK | FIN, ack=1)
    p.see(0.15)
    w.do("state('a')")
    p.out(ACK)
    time.sleep(0.05)
    w.do("state('a')")


def fin_wait_out_of_order(w):
    """FIN_WAIT_2, and the FIN comes before the data."""
    p = w.established()
    w.do("shutdown('a', 'SHUT_WR')")
    p.take(0.2)
    p.out(ACK)
    p.out(ACK | FIN, b"", seq=11, ack=2)
    p.see(0.1)
    p.out(ACK | PSH, b"0123456789", seq=1, ack=2)
    p.see(0.3)
    w.do("recv('a')")
    w.do("recv('a')")


def closed_then_data(w):
    """Nobody can read what comes: a reset."""
    p = w.established()
    w.do("close('a')")
    p.see(0.1)
    p.out(ACK)
    p.out(ACK | PSH, b"hello?")
    p.see(0.2)
    p.out(ACK | PSH, b"hello?")
    p.see(0.1)


def closed_then_data_unacked(w):
    p = w.established()
    w.do("close('a')")
    p.take(0.1)
    p.out(ACK | PSH, b"hello?", ack=1)
    p.see(0.15)


def closed_then_fin(w):
    p = w.established()
    w.do("close('a')")
    p.see(0.1)
    p.out(ACK)
    p.out(ACK | FIN)
    p.see(0.2)
    p.out(ACK | FIN, seq=1)
    p.see(0.6)


def closed_unread(w):
    p = w.established()
    p.out(ACK | PSH, b"nobody reads this")
    time.sleep(0.1)
    while p.take(0.05):
        pass
    w.do("close('a')")
    p.see(0.1)
    p.out(ACK)
    p.see(0.1)


def closed_unread_after_fin(w):
    p = w.established()
    p.out(ACK | PSH | FIN, b"nobody reads this")
    time.sleep(0.1)
    while p.take(0.05):
        pass
    w.do("close('a')")
    p.see(0.1)


def closed_unsent(w):
    """Data that waits for the window goes out before the FIN."""
    p = w.established()
    p.out(ACK, window=0)
    time.sleep(0.05)
    w.do("send('a', 5000)")
    w.do("close('a')")
    p.see(0.1)
    p.out(ACK, window=65535)
    p.see(0.1, most=4)
    p.out(ACK)


def linger_zero(w):
    p = w.established()
    w.do("linger('a', 0)")
    w.do("close('a')")
    p.see(0.1)
    p.out(ACK | PSH, b"x")
    p.see(0.1)


def linger_zero_half_closed(w):
    p = w.established()
    w.do("shutdown('a', 'SHUT_WR')")
    p.see(0.1)
    p.out(ACK)
    w.do("linger('a', 0)")
    w.do("close('a')")
    p.see(0.1)


def linger_zero_unsent(w):
    p = w.established()
    p.out(ACK, window=0)
    time.sleep(0.05)
    w.do("send('a', 5000)", show=False)
    w.do("linger('a', 0)")
    w.do("close('a')")
    p.see(0.15)


def shut_reading_then_data(w):
    p = w.established()
    w.do("shutdown('a', 'SHUT_RD')")
    p.see(0.1)
    p.out(ACK | PSH, b"anybody?")
    p.see(0.3)
    w.do("recv('a')")


def shut_both_then_data(w):
    p = w.established()
    w.do("shutdown('a', 'SHUT_RDWR')")
    p.see(0.1)
    p.out(ACK)
    p.out(ACK | PSH, b"anybody?")
    p.see(0.3)
    w.do("recv('a')")


def reset_in_close_wait(w):
    p = w.established()
    p.out(ACK | FIN)
    p.see(0.1)
    p.out(RST)
    time.sleep(0.05)
    w.do("send('a', 1, 0x4000)")
    w.do("recv('a')")


def reset_in_fin_wait(w):
    p = w.established()
    w.do("shutdown('a', 'SHUT_WR')")
    p.take(0.2)
    p.out(ACK)
    p.out(RST)
    time.sleep(0.05)
    w.do("recv('a')")
    w.do("error('a')")


def time_wait(w):
    """What TIME_WAIT answers, and how a new connection follows."""
    p = w.established()
    w.do("close('a')")
    p.take(0.2)
    p.out(ACK | FIN)
    p.see(0.2)
    p.out(ACK | PSH, b"old")
    p.see(0.6)
    p.out(SYN, seq=1, options=full(100))
    p.see(0.6)
    p.out(SYN, seq=1000, options=full(9000))
    p.see(0.2)


def time_wait_reset(w):
    p = w.established()
    w.do("close('a')")
    p.take(0.2)
    p.out(ACK | FIN)
    p.see(0.2)
    p.out(RST)
    p.see(0.1)
    p.out(ACK | PSH, b"old")
    p.see(0.3)


def fin_wait_two_again(w):
    """Both have said all; the peer did not hear our last ACK."""
    p = w.established()
    w.do("close('a')")
    p.take(0.2)
    p.out(ACK)
    p.out(ACK | FIN)
    p.see(0.2)
    for _ in range(2):
        p.out(ACK | FIN, seq=1)
        p.see(0.6)


def syn_in_close_wait(w):
    p = w.established()
    p.out(ACK | FIN)
    p.see(0.1)
    p.out(SYN, seq=5000, options=full(9000))
    p.see(0.6)
    w.do("state('a')")


def syn_in_last_ack(w):
    p = w.established()
    p.out(ACK | FIN)
    p.see(0.1)
    w.do("close('a')")
    p.see(0.1)
    p.out(SYN, seq=5000, options=full(9000))
    p.see(0.15)
