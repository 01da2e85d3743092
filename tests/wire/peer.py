"""A TCP peer made of raw frames: builds segments, shows what comes back in a form that can be compared.

What is shown of a segment: flags, sequence and acknowledgement numbers relative to the first ones, length, options. Of the
window only whether it is open, unless a scenario wants its size (`exact`)."""

import select
import socket
import struct
import time

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 1, 2, 4, 8, 16, 32, 64, 128
LETTERS = "FSRPAUEW"


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Options:
    """The ones of a segment, in order."""

    def __init__(self, *parts):
        self.raw = b"".join(parts)

    def bytes(self):
        return self.raw + b"\1" * (-len(self.raw) % 4)


def mss(n):
    return struct.pack("!BBH", 2, 4, n)


def scale(n):
    return struct.pack("!BBBB", 1, 3, 3, n)


def sack_ok():
    return b"\1\1\4\2"


def stamp(value, echo):
    return struct.pack("!BBBBII", 1, 1, 8, 10, value & 0xFFFFFFFF, echo & 0xFFFFFFFF)


def sack(*blocks):
    body = b"".join(struct.pack("!II", a & 0xFFFFFFFF, b & 0xFFFFFFFF) for a, b in blocks)
    return struct.pack("!BBBB", 1, 1, 5, 2 + len(body)) + body


class Segment:
    """One that came."""

    def __init__(self, frame, at):
        ip = frame[14:]
        head = (ip[0] & 15) * 4
        total = struct.unpack("!H", ip[2:4])[0]
        self.at, self.tos = at, ip[1]
        self.source = socket.inet_ntoa(ip[12:16])
        t = ip[head:total]
        self.sport, self.dport, self.seq, self.ack, off, self.flags, self.window, self.sum, self.urgent = struct.unpack(
            "!HHIIBBHHH", t[:20]
        )
        size = (off >> 4) * 4
        self.data = t[size:]
        self.options = list(self.parse(t[20:size]))
        pseudo = ip[12:20] + struct.pack("!BBH", 0, 6, len(t))
        self.good = checksum(pseudo + t) == 0

    @staticmethod
    def parse(raw):
        i = 0
        while i < len(raw):
            kind = raw[i]
            if kind == 0:
                yield kind, b""
                return
            if kind == 1:
                yield kind, b""
                i += 1
                continue
            size = raw[i + 1]
            yield kind, raw[i + 2 : i + size]
            i += max(size, 2)

    def option(self, kind):
        return next((body for k, body in self.options if k == kind), None)


class Wire:
    """The link to the host under test."""

    def __init__(self, interface, mac, peer_mac, address, peer):
        self.raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.raw.bind((interface, 0))
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.mac, self.peer_mac = (bytes.fromhex(m.replace(":", "")) for m in (mac, peer_mac))
        self.address, self.peer = address, peer
        self.waiting = []

    def send_ip(self, proto, payload, tos=0, source=None):
        source, to = (socket.inet_aton(a) for a in (source or self.address, self.peer))
        head = struct.pack("!BBHHHBBH4s4s", 0x45, tos, 20 + len(payload), 7, 0x4000, 64, proto, 0, source, to)
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        self.raw.send(self.peer_mac + self.mac + b"\x08\0" + head + payload)

    def segment(self, sport, dport, seq, ack, flags, window, options=b"", data=b"", urgent=0, offset=None, spoil=0, tos=0):
        offset = (20 + len(options)) // 4 if offset is None else offset
        head = struct.pack(
            "!HHIIBBHHH",
            sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, offset << 4, flags, window, 0, urgent,
        )  # fmt: skip
        t = head + options + data
        pseudo = socket.inet_aton(self.address) + socket.inet_aton(self.peer) + struct.pack("!BBH", 0, 6, len(t))
        total = checksum(pseudo + t) ^ spoil
        self.send_ip(6, t[:16] + struct.pack("!H", total) + t[18:], tos)

    def next(self, port, remote, until):
        """The next segment from `remote` to `port`, or None. Other scenarios run at the same time."""
        while True:
            for i, one in enumerate(self.waiting):
                if (one.dport, one.sport) == (port, remote):
                    return self.waiting.pop(i)
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.raw], [], [], left)[0]:
                return None
            frame, where = self.raw.recvfrom(70000)
            mine = where[2] != socket.PACKET_OUTGOING and frame[12:14] == b"\x08\0" and frame[23] == 6
            if mine and frame[30:34] == socket.inet_aton(self.address):
                self.waiting.append(Segment(frame, time.monotonic()))


def span(seconds):
    """A time as a word: what is compared is which timer it was, not how exact."""
    for limit, word in ((0.02, "at once"), (0.1, "40 ms"), (0.32, "200 ms"), (0.62, "400 ms"), (1.4, "1 s"), (2.6, "2 s")):
        if seconds < limit:
            return word
    return "later"


class Peer:
    """One end of a connection, ours."""

    def __init__(self, wire, say, port, remote, isn=1000):
        self.wire, self.say, self.port, self.remote = wire, say, port, remote
        self.isn = self.seq = isn
        self.theirs = self.ack = None
        self.una = self.edge = isn
        self.shift = 0
        self.window, self.stamps, self.echo, self.clock = 65535, False, 0, 5000
        # Whether the size of the window is shown, and of the scale factor.
        self.exact = False

    def out(self, flags, data=b"", seq=None, ack=None, options=None, window=None, **more):
        """Sends a segment; `seq` and `ack` relative to the connection's first ones."""
        at = self.seq if seq is None else self.isn + seq
        to = (self.ack or 0) if ack is None else (self.theirs or 0) + ack
        if options is None and self.stamps and not flags & SYN:
            self.clock += 1
            options = Options(stamp(self.clock, self.echo))
        raw = options.bytes() if options else b""
        to = to if flags & ACK else 0
        self.wire.segment(
            self.port, self.remote, at, to, flags, self.window if window is None else window, raw, data, **more
        )
        if seq is None:
            self.seq += len(data) + bool(flags & SYN) + bool(flags & FIN)

    def show(self, one):
        flags = "".join(letter for i, letter in enumerate(LETTERS) if one.flags >> i & 1)
        seq = 0 if self.theirs is None else (one.seq - self.theirs + (1 << 31) & 0xFFFFFFFF) - (1 << 31)
        ack = (one.ack - self.isn) & 0xFFFFFFFF if one.flags & ACK else "-"
        if one.flags & RST and (self.theirs is None or abs(seq) > 1 << 24):
            # A reset of what never was has the number that was asked for, or none.
            seq = f"itself {one.seq}" if one.seq < 100_000 else "elsewhere"
        if one.flags & SYN and seq:
            seq = "new"
        words = [flags, f"seq {seq}", f"ack {ack}", f"len {len(one.data)}"]
        if one.flags & URG:
            words.append(f"urg {one.urgent}")
        if not one.flags & RST and self.exact:
            words.append(f"win {one.window if one.flags & SYN else one.window << self.shift}")
        elif not one.flags & RST:
            words.append("open" if one.window else "shut")
        if one.tos:
            words.append(f"tos {one.tos}")
        words += [w for w in (self.show_option(k, b, bool(one.flags & SYN)) for k, b in one.options) if w]
        if not one.good:
            words.append("bad checksum")
        return " ".join(words)

    def show_option(self, kind, body, syn):
        if kind == 2:
            return f"mss {struct.unpack('!H', body)[0]}"
        if kind == 3:
            return f"scale {body[0]}" if self.exact else "scale"
        if kind == 4:
            return "sackok"
        if kind == 5:
            edges = struct.unpack(f"!{len(body) // 4}I", body)
            pairs = zip(edges[::2], edges[1::2])
            return "sack " + ",".join(f"{(a - self.isn) & 0xFFFFFFFF}-{(b - self.isn) & 0xFFFFFFFF}" for a, b in pairs)
        if kind == 8:
            return f"ts ecr {struct.unpack('!II', body)[1]}" if syn else "ts"
        return {0: "eol" if syn else "", 1: "nop" if syn else ""}.get(kind, f"option {kind}")

    def note(self, one):
        if one.flags & SYN and self.theirs is None:
            self.theirs = one.seq
        if self.theirs is None:
            return
        if one.flags & ACK and not one.flags & RST:
            self.una = one.ack
            self.edge = (one.ack + (one.window << (0 if one.flags & SYN else self.shift))) & 0xFFFFFFFF
        if one.flags & SYN and one.option(3):
            self.shift = one.option(3)[0]
        end = one.seq + len(one.data) + bool(one.flags & SYN) + bool(one.flags & FIN)
        if not one.flags & RST and (self.ack is None or (end - self.ack) & 0xFFFFFFFF < 1 << 31):
            if self.ack is None or one.seq & 0xFFFFFFFF == self.ack & 0xFFFFFFFF:
                self.ack = end & 0xFFFFFFFF
        body = one.option(8)
        if body:
            self.echo = struct.unpack("!II", body)[0]

    def take(self, seconds):
        """The next segment, or None; noted, not shown."""
        one = self.wire.next(self.port, self.remote, time.monotonic() + seconds)
        if one:
            self.note(one)
        return one

    def see(self, seconds=0.3, timed=False, most=40, quiet=None):
        """Shows what comes within that time; `quiet`: ends when nothing has come for so long."""
        begun = time.monotonic()
        count = 0
        while count < most:
            left = begun + seconds - time.monotonic()
            one = self.take(min(left, quiet) if quiet and count else left)
            if not one:
                break
            count += 1
            text = self.show(one)
            self.say("  < " + text + (f" after {span(one.at - begun)}" if timed else ""))
            if timed:
                begun = begun if timed == "all" else one.at
        if count == 0:
            self.say("  < nothing")

    def acked(self):
        """How much of ours they have acknowledged, relative."""
        return (self.una - self.isn) & 0xFFFFFFFF

    def fill(self, data, most):
        """Sends as long as the window allows, at most so many segments; returns the last answer."""
        last = None
        for _ in range(most):
            while (self.edge - self.seq) & 0xFFFFFFFF < len(data) or (self.edge - self.seq) & 0x80000000:
                one = self.take(0.5)
                if not one or not one.window:
                    return one or last
                last = one
            self.out(ACK, data)
            if one := self.take(0.0005):
                last = one
        return last

    def shake(self, options=None, quiet=False):
        """The handshake, as the one who opens."""
        self.out(SYN, options=options)
        one = self.take(2)
        if not one:
            self.say("  < no answer to SYN")
            return
        if not quiet:
            self.say("  < " + self.show(one))
        self.stamps = one.option(8) is not None
        self.out(ACK)
