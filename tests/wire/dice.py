"""Random segments and random calls, by seed. What a step sends depends on the seed and on the answers alone, so that two
implementations that answer alike play the same game; the first line that differs is a difference of theirs.

Not shown, because it is a matter of timers: what is sent again, window probes, how long a delayed ACK takes. Between steps
that may be answered only every 500 ms (`tcp_invalid_ratelimit`) there is more time now and then."""

import os
import random
import struct
import time

from peer import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG, Options, mss, sack, sack_ok, scale, stamp
from stage import full, old

STEPS = 12
#: After so many steps the rate limits are over, and nothing is left unacknowledged.
REST = 4
MSS = 1448


class _Game:
    def __init__(self, w, seed):
        self.w, self.r, self.seed = w, random.Random(seed), seed
        self.top = self.over = 0
        self.owed = False

    def begin(self):
        w, r = self.w, self.r
        w.listen()
        p = self.p = w.peer(isn=r.choice((1000, 0xFFFFFF00, 0x7FFFFF00)))
        p.window = r.choice((502, 502, 200))
        options = r.choice((full(), full(), full(), old(), Options(mss(1460), sack_ok()), Options(mss(1000), stamp(5000, 0))))
        p.out(SYN, options=options)
        one = p.take(2)
        p.stamps = one.option(8) is not None
        self.sack = one.option(4) is not None
        # A long path: neither tail-loss probe nor timeout comes between the steps.
        time.sleep(0.08)
        if not one.option(3):
            p.window = 20000
        p.out(ACK)
        w.do("accept('a', 'l')", 20, show=False)
        w.do("s['a'].setblocking(False)", show=False)
        self.top = 1

    # What is where, relative.

    def nxt(self):
        """Their RCV.NXT, as far as they said."""
        return (self.p.una - self.p.isn) & 0xFFFFFFFF

    def sent(self):
        """Their SND.NXT."""
        return self.top

    def options(self, value=None, more=b""):
        p = self.p
        if not p.stamps:
            return Options(more) if more else None
        if value is None:
            p.clock += 1
            value = p.clock
        return Options(stamp(value, p.echo), more)

    def out(self, flags, n=0, seq=None, ack=None, text="", **more):
        seq = self.nxt() if seq is None else seq
        ack = self.sent() if ack is None else ack
        letters = "".join(c for i, c in enumerate("FSRPAUEW") if flags >> i & 1) or "-"
        told = " ".join(f"{k} {v}" for k, v in more.items() if k != "options")
        self.w.say(f" > {letters} {seq}+{n} ack {ack} {text} {told}".rstrip())
        data = bytes((seq + i) % 251 for i in range(n))
        if "options" not in more:
            more["options"] = self.options()
        self.p.out(flags, data, seq=seq, ack=ack, **more)
        self.owed = n > 0 or flags & FIN

    # Steps of the peer.

    def size(self):
        return self.r.choice((1, 1, 10, 100, 536, MSS))

    def in_order(self):
        seq = self.nxt()
        for _ in range(self.r.choice((1, 1, 1, 2))):
            n = self.size()
            self.out(ACK | self.r.choice((0, PSH)), n, seq)
            self.listen()
            seq += n

    def ahead(self):
        self.out(ACK | PSH, self.size(), self.nxt() + self.r.choice((1, 10, 100, 1000, MSS)))

    def overlap(self):
        n = self.r.choice((1, 5, 50))
        self.out(ACK | PSH, n + self.size(), self.nxt() - n)

    def twice(self):
        n = self.r.choice((1, 5, 50))
        self.out(ACK | PSH, self.r.randint(1, n), self.nxt() - n)

    def old_ack(self):
        self.out(ACK, self.r.choice((0, 0, 10)), ack=self.sent() - self.r.choice((1, 10, 1000, 100_000, 1 << 29)))

    def new_ack(self):
        self.out(ACK, self.r.choice((0, 0, 10)), ack=self.sent() + self.r.choice((1, 10, 1000, 1 << 29)))

    def part_ack(self):
        una = self.acked
        self.out(ACK, ack=self.r.randint(una, max(self.sent(), una)))

    def ack(self):
        self.out(ACK)

    def window(self):
        self.out(ACK, window=self.r.choice((0, 1, 5, 100, self.p.window)))

    def old_stamp(self):
        if not self.p.stamps:
            return self.in_order()
        flags = self.r.choice((ACK, ACK | PSH, RST, SYN, ACK | FIN))
        n = 0 if flags & (RST | SYN) else self.r.choice((0, 5))
        self.out(flags, n, text="old", options=self.options(self.r.choice((1, 4000, self.p.clock - 1))))

    def no_stamp(self):
        self.out(ACK | PSH, self.r.choice((0, 5)), text="no options", options=Options())

    def reset(self):
        at = self.nxt() + self.r.choice((-1, 1, 2, 100, 1 << 29, 60000, -1000))
        self.out(RST | self.r.choice((0, ACK)), seq=at)

    def reset_exact(self):
        self.out(RST | self.r.choice((0, ACK)))

    def syn(self):
        at = self.nxt() + self.r.choice((-1, 0, 1, 100, 1 << 29, -1000))
        self.out(SYN | self.r.choice((0, ACK)), seq=at, options=self.r.choice((full(9000), None)))

    def end(self):
        self.out(ACK | FIN | self.r.choice((0, PSH)), self.r.choice((0, 0, 7)))

    def end_ahead(self):
        self.out(ACK | FIN, self.r.choice((0, 7)), self.nxt() + self.r.choice((1, 5, 1000)))

    def end_late(self):
        self.out(ACK | FIN, self.r.choice((0, 3)), self.nxt() - self.r.choice((1, 3, 4)))

    def urgent(self):
        self.out(ACK | PSH | URG, self.r.choice((0, 1, 5, 20)), urgent=self.r.choice((0, 1, 2, 5, 6, 20, 30, 1000)))

    def bad_options(self):
        raw = self.r.choice(
            (b"\xfd\4\0\0", b"\x22\0\1\1", b"\x08\x0aAB", b"\2\4\1\0", b"\3\3\5\0", b"\5\2\1\1", b"\0\0\0\0", b"\4\2\1\1", b"\x13\x12" + bytes(16), b"\x1e\4\0\0")
        )
        both = self.options(more=raw) if self.r.random() < 0.6 else Options(raw)
        self.out(ACK | PSH, self.r.choice((0, 4)), text=raw[:2].hex(), options=both)

    def no_ack(self):
        self.out(self.r.choice((0, PSH, FIN, URG, PSH | URG)), self.r.choice((0, 4)))

    def any_flags(self):
        self.out(self.r.randrange(256), self.r.choice((0, 4)), self.nxt() + self.r.choice((0, 0, -1, 1)))

    def blocks(self):
        if not self.sack:
            return self.ack()
        t, una, top = self.p.theirs, self.acked, self.sent()
        inside = sorted(self.r.sample(range(una, top + 1), 2)) if top > una + 1 else (una, top)
        which = self.r.choice((inside, (top + 1000, top + 2000), (una - 100, una - 50), (top, top), (inside[1], inside[0])))
        more = sack(*((t + a, t + b) for a, b in [which]))
        self.out(ACK, self.r.choice((0, 0, 5)), ack=una, text=f"sack {which[0]}-{which[1]}", options=self.options(more=more))

    def keep_alive(self):
        self.out(ACK, self.r.choice((0, 1)), self.nxt() - 1)

    def beyond(self):
        self.out(ACK | PSH, self.size(), self.nxt() + self.r.choice((1 << 20, 1 << 24, 1 << 29, -(1 << 20))))

    def congestion(self):
        self.out(ACK | PSH | self.r.choice((ECE, CWR, ECE | CWR)), self.r.choice((0, 5)), tos=self.r.choice((0, 2, 3)))

    # Calls of the program.

    def call(self, text):
        self.w.do(text)

    def send(self):
        n = self.r.choice((1, 10, 100, MSS, 2000, 3000))
        self.call(f"send('a', {n}{self.r.choice(('', '', '', ', socket.MSG_MORE', ', socket.MSG_OOB'))})")

    def receive(self):
        flags = self.r.choice(("", "", "", ", socket.MSG_PEEK", ", socket.MSG_OOB", ", socket.MSG_WAITALL"))
        self.call(f"recv('a', {self.r.choice((1, 10, 65536))}{flags})")

    def shut(self):
        self.call(f"shutdown('a', '{self.r.choice(('SHUT_WR', 'SHUT_WR', 'SHUT_RD', 'SHUT_RDWR'))}')")

    def close(self):
        if self.r.random() < 0.3:
            self.call("linger('a', 0)")
        self.call("close('a')")

    def option(self):
        self.call(
            self.r.choice(
                (
                    "tcp('a', 'TCP_NODELAY', 1)",
                    "tcp('a', 'TCP_NODELAY', 0)",
                    "tcp('a', 'TCP_CORK', 1)",
                    "tcp('a', 'TCP_CORK', 0)",
                    "tcp('a', 'TCP_QUICKACK', 1)",
                    "sol('a', 'SO_OOBINLINE', 1)",
                    "sol('a', 'SO_RCVLOWAT', 20)",
                    "tcp('a', 'TCP_MAXSEG', 500)",
                    "error('a')",
                )
            )
        )

    PEER = {
        in_order: 20, ahead: 10, overlap: 5, twice: 4, old_ack: 4, new_ack: 3, part_ack: 5, ack: 4, window: 5, old_stamp: 4,
        no_stamp: 2, reset: 3, reset_exact: 1, syn: 3, end: 4, end_ahead: 3, end_late: 2, urgent: 4, bad_options: 3, no_ack: 2,
        any_flags: 3, blocks: 4, keep_alive: 3, beyond: 3, congestion: 2,
    }  # fmt: skip
    PROGRAM = {send: 12, receive: 12, shut: 3, close: 3, option: 5}

    # What came.

    def note(self, one):
        """What of it is to be shown."""
        p = self.p
        end = (one.seq + len(one.data) + bool(one.flags & FIN) - p.theirs) & 0xFFFFFFFF
        start = (one.seq - p.theirs) & 0xFFFFFFFF
        if one.flags & (RST | SYN):
            return True
        if end > start:
            if end <= self.top or end > 1 << 31:
                return False
            self.top = end
            return True
        return start >= self.top

    def listen(self, wait=0.014):
        p = self.p
        until = time.monotonic() + wait
        while one := p.take(until - time.monotonic()):
            if one.flags & ACK:
                self.owed = False
            if self.note(one):
                body = one.option(8)
                echo = f" ecr {struct.unpack('!II', body)[1]}" if body else ""
                self.w.say("  < " + p.show(one) + echo)
                until = time.monotonic() + wait

    def step(self):
        r = self.r
        table = self.PEER if r.random() < 0.68 else self.PROGRAM
        kind = r.choices(list(table), list(table.values()))[0]
        kind(self)
        self.listen()
        if self.owed:
            # Its ACK may be delayed.
            self.listen(0.06)
            self.owed = False
        said = self.w.do("look('a')")
        self.over += said == "None" or said.startswith("[7,")

    @property
    def acked(self):
        return self.last_ack if self.last_ack <= self.top else self.top

    last_ack = 1

    def rest(self):
        """Everything is acknowledged, the limits of rate are over."""
        self.out(ACK)
        self.last_ack = self.sent()
        self.listen()
        time.sleep(0.52)
        self.listen(0.001)

    def play(self):
        self.begin()
        for i in range(1, STEPS + 1):
            self.step()
            # Some more after the end: it is to be one.
            if self.over > 2:
                break
            if i % REST == 0:
                self.rest()
        self.w.do("recv('a')")
        self.w.do("look('a')")


def _scenario(seed):
    def play(w):
        _Game(w, seed).play()

    return play


def _seeds():
    first, _, last = os.environ.get("WIRE_SEEDS", "1-9").partition("-")
    return range(int(first), int(last) + 1)


for _seed in _seeds():
    globals()[f"seed_{_seed:05}"] = _scenario(_seed)
