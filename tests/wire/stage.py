"""What a scenario stands on: the puppet at the other end of a control socket, peers on the wire, and the list of what
happened."""

import re
import select
import socket
import struct
import time

from peer import Options, Peer, checksum, mss, sack_ok, scale, stamp

def full(value=5000):
    """The options of a SYN of today."""
    return Options(mss(1460), sack_ok(), stamp(value, 0), scale(7))


def old():
    """Those of a SYN without any extension."""
    return Options(mss(1460))


class Stage:
    def __init__(self, wire, control, number):
        self.wire, self.control = wire, control
        # Four ports of the host for each scenario, a hundred of ours (the same ones for other ports of the host).
        self.port = 20000 + number * 4
        self.next_peer = 40000 + number * 100 % 25000
        self.lines, self.answers, self.tickets = [], {}, number * 1000
        self.rest = b""
        self.names = []

    def say(self, text):
        self.lines.append(text)

    def later(self, text):
        """Begins a call; its result is asked for with `result`."""
        self.tickets += 1
        self.control.sendall(f"{self.tickets} {text}\n".encode())
        return self.tickets, text

    def result(self, ticket, wait=2.0, show=True):
        number, text = ticket
        until = time.monotonic() + wait
        while number not in self.answers:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.control], [], [], left)[0]:
                break
            self.rest += self.control.recv(65536)
            *whole, self.rest = self.rest.split(b"\n")
            for line in whole:
                n, _, said = line.decode().partition(" ")
                self.answers[int(n)] = said
        said = self.answers.get(number, "still waiting")
        if show:
            self.say(f"  > {re.sub('[2-7][0-9]{4}', 'PORT', text)} = {said}")
        return said

    def do(self, text, wait=2.0, show=True):
        return self.result(self.later(text), wait, show)

    def listen(self, **more):
        words = "".join(f", {k}={v}" for k, v in more.items())
        self.do(f"listen('l', '{self.wire.peer}', {self.port}{words})", 20, show=False)

    def peer(self, isn=1000):
        self.next_peer += 1
        return Peer(self.wire, self.say, self.next_peer, self.port, isn)

    def established(self, options=None, isn=1000, window=65535, **more):
        """A connection from the wire that the program has accepted as `a`."""
        self.listen(**more)
        p = self.peer(isn)
        p.window = window
        p.shake(options or full(), quiet=True)
        self.do("accept('a', 'l')", 20, show=False)
        return p

    def dialled(self, options=None, isn=9000):
        """A connection that the program has opened as `a`."""
        p = self.peer(isn)
        p.remote = self.port
        ticket = self.later(f"dial('a', '{self.wire.address}', {p.port}, {self.port})")
        p.take(2)
        return p, ticket

    def icmp(self, kind, code, mtu, p, syn=False):
        """An ICMP error that quotes the last segment that `p` could have seen."""
        seq = (p.theirs or 0) + (0 if syn else 1)
        quoted = struct.pack("!HHI", p.remote, p.port, seq & 0xFFFFFFFF)
        addresses = socket.inet_aton(self.wire.peer) + socket.inet_aton(self.wire.address)
        head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0x4000, 64, 6, 0) + addresses
        body = struct.pack("!BBHHH", kind, code, 0, 0, mtu) + head + quoted
        body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
        self.wire.send_ip(1, body)

    def end(self):
        """Everything away, with resets, so that nothing disturbs the next one."""
        self.do("[linger(n, 0) for n in list(s) if n != 'l']", show=False)
        self.do("[close(n) for n in list(s)]", show=False)
        time.sleep(0.03)
        self.wire.waiting.clear()
        while select.select([self.wire.raw], [], [], 0)[0]:
            self.wire.raw.recv(70000)


def open_control(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    listener.settimeout(60)
    control, _ = listener.accept()
    return control
