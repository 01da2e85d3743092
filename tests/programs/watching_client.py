"""The peer of watched_server.py: measures on the wire how soon its segments are answered.

    watching_client.py ADDRESS PORT INTERFACE

Reads orders from standard input and answers each with a line of JSON: `data N` sends N small segments, `keepalive`
waits for two probes, `window` fills the receiver's window and waits for three probes: the delays of the answers,
milliseconds. `busy SECONDS` is passed on. `retransmissions SECONDS` lets no acknowledgement reach the server while it
sends: the times between the copies of the segment that is lost, milliseconds. `total` compares the bytes of both ends.
"""

import json
import select
import socket
import struct
import subprocess
import sys
import threading
import time

address, port, interface = sys.argv[1], int(sys.argv[2]), sys.argv[3]
SO_TIMESTAMPNS = 35
SIOCOUTQ = 0x5411


class Wire(threading.Thread):
    """All segments of the connection: (time, outgoing, sequence number, bytes)."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        self.socket.bind((interface, 3))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.segments = []
        self.start()

    def run(self):
        while True:
            packet, control, _, sender = self.socket.recvmsg(256, 256, socket.MSG_TRUNC)
            if len(packet) < 40 or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
                continue
            at = (packet[0] & 15) * 4
            source, destination, sequence = struct.unpack_from("!HHI", packet, at)
            if port not in (source, destination):
                continue
            length = struct.unpack_from("!H", packet, 2)[0] - at - (packet[at + 12] >> 4) * 4
            seconds, nanoseconds = struct.unpack("qq", control[0][2])
            when = seconds + nanoseconds / 1e9
            self.segments.append((when, sender[2] == socket.PACKET_OUTGOING, sequence, length))

    def delays(self, since):
        """From each segment that asks for an answer to the next one that came, ms. Linux answers what is out of window and
        empty, as probes are, once in 500 ms (tcp_invalid_ratelimit): those that come sooner need no answer."""
        time.sleep(0.1)
        found, next_sequence, answered = [], None, 0
        for number, (when, outgoing, sequence, length) in enumerate(self.segments):
            if not outgoing:
                continue
            asks = length > 0 or next_sequence is not None and sequence != next_sequence
            if next_sequence is None or (sequence + length - next_sequence) % 2**32 < 2**31:
                next_sequence = (sequence + length) % 2**32
            if asks and number >= since:
                later = (s[0] for s in self.segments[number + 1 :] if not s[1])
                answer = next(later, None)
                if length == 0:
                    if when < answered + 0.5:
                        continue
                    answered = answer or answered
                found.append(1e9 if answer is None else (answer - when) * 1000)
        return found


def outq():
    import fcntl

    return struct.unpack("i", fcntl.ioctl(connection, SIOCOUTQ, b"\0\0\0\0"))[0]


def wait(question, limit=10):
    end = time.monotonic() + limit
    while not question() and time.monotonic() < end:
        time.sleep(0.001)


def data(count):
    for _ in range(int(count)):
        send(b"x" * 99 + b"\n")
        wait(lambda: outq() == 0)
        time.sleep(0.03)


def keepalive():
    time.sleep(2.3)


def window():
    connection.setblocking(False)
    global sent
    line = b"w" * 999 + b"\n"
    rest = b""
    end = time.monotonic() + 4
    while time.monotonic() < end:
        select.select([], [connection], [], 0.05)
        try:
            rest = rest or line
            n = connection.send(rest)
            sent += n
            rest = rest[n:]
        except BlockingIOError:
            pass
    connection.setblocking(True)
    return rest


def send(line):
    global sent
    connection.sendall(line)
    sent += len(line)


def retransmissions(seconds):
    send(b"send 1000 0.3\n")
    wait(lambda: outq() == 0)
    since = len(wire.segments)
    route = ["ip", "route", "add", "blackhole", f"{address}/32"]
    subprocess.run(route, check=True)
    wait(lambda: any(not s[1] and s[3] > 0 for s in wire.segments[since:]))
    print(json.dumps("lost"), flush=True)
    time.sleep(float(seconds))
    route[2] = "del"
    subprocess.run(route, check=True)
    copies = [s for s in wire.segments[since:] if not s[1] and s[3] > 0]
    got = 0
    while got < 1000:
        got += len(connection.recv(1000))
    return [(b[0] - a[0]) * 1000 for a, b in zip(copies, copies[1:])]


connection = socket.create_connection((address, port), timeout=30)
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
sent, pending = 0, b""
wire = Wire()
print(json.dumps("connected"), flush=True)
for order in sys.stdin:
    word, *rest = order.split()
    start = len(wire.segments)
    if word == "busy":
        send(order.encode())
        wait(lambda: outq() == 0)
        time.sleep(0.02)
        told = "busy"
    elif word == "retransmissions":
        told = retransmissions(*rest)
    elif word == "total":
        send(pending)
        send(order.encode())
        told = int(connection.makefile("rb").readline()) == sent
    else:
        pending = {"data": data, "keepalive": keepalive, "window": window}[word](*rest) or b""
        told = wire.delays(start)
    print(json.dumps(told), flush=True)
