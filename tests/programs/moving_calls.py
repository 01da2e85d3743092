"""Calls whose answers do not depend on who has the connection, again and again while it moves.

    moving_calls.py serve PORT SECONDS CALLS    (makes the calls named, by commas, or all)
    moving_calls.py peer ADDRESS PORT

Each call is made on a connection on which nothing happens: the peer has sent five bytes that stay unread, and has taken
all that was sent. Any other answer than the usual one is told, and ends the program with an error.
"""

import ctypes
import errno
import faulthandler
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import time

UNREAD = b"12345"
DATA = bytes(range(256)) * 4
SIOCINQ, SIOCOUTQNSD = 0x541B, 0x894B
libc = ctypes.CDLL(None, use_errno=True)


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("len", ctypes.c_size_t)]


class Message(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint),
        ("iov", ctypes.POINTER(Vector)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_size_t),
        ("n", ctypes.c_uint),
    ]


def answer(f, *args):
    """What a call answers: a value, or the name of its error."""
    try:
        return f(*args)
    except OSError as e:
        return errno.errorcode[e.errno]


class Calls:
    """One connection, and what is asked of it. Everything sent counts in `sent`."""

    def __init__(self, connection):
        self.c = connection
        self.fd = connection.fileno()
        self.sent = 0
        self.names = (connection.getsockname(), connection.getpeername())
        self.file = tempfile.TemporaryFile()
        self.file.write(DATA)
        self.file.flush()
        self.on = False
        self.nonblocking(True)

    def nonblocking(self, on):
        """By number: Python's own flag would make its calls wait in poll."""
        flags = fcntl.fcntl(self.fd, fcntl.F_GETFL)
        fcntl.fcntl(self.fd, fcntl.F_SETFL, flags | os.O_NONBLOCK if on else flags & ~os.O_NONBLOCK)

    def taken(self, n):
        """Some bytes were sent, from where the pattern stands."""
        if isinstance(n, int):
            self.sent += n
            return n > 0
        return n == "EAGAIN" and self.wait() or n

    def same(self, got, wanted):
        return got == wanted or (got, "instead of", wanted)

    def seen(self, got):
        """Nothing is there for the moment in which the connection moves."""
        return got in (UNREAD, "EAGAIN") or got

    def wait(self):
        """For room."""
        return bool(select.select([], [self.fd], [], 15)[1])

    def piece(self, n=100):
        at = self.sent % len(DATA)
        return DATA[at : at + n]

    def sendfile(self):
        at = self.sent % len(DATA)
        return self.taken(answer(os.sendfile, self.fd, self.file.fileno(), at, 100))

    def write(self):
        return self.taken(answer(os.write, self.fd, self.piece()))

    def send(self):
        return self.taken(answer(self.c.send, self.piece()))

    def sendmmsg(self):
        piece = self.piece()
        vector = Vector(piece, len(piece))
        message = Message(iov=ctypes.pointer(vector), iovlen=1)
        n = libc.sendmmsg(self.fd, ctypes.byref(message), 1, 0)
        return self.taken(message.n if n == 1 else errno.errorcode[ctypes.get_errno()])

    def recvmmsg(self):
        vector = Vector(bytes(10), 10)
        message = Message(iov=ctypes.pointer(vector), iovlen=1)
        n = libc.recvmmsg(self.fd, ctypes.byref(message), 1, socket.MSG_PEEK, None)
        return self.seen(UNREAD[: message.n] if n == 1 else errno.errorcode[ctypes.get_errno()])

    def peek(self):
        return self.seen(answer(self.c.recv, 10, socket.MSG_PEEK))

    def inq(self):
        return self.same(struct.unpack("i", answer(fcntl.ioctl, self.fd, SIOCINQ, bytes(4)))[0], len(UNREAD))

    def poll(self):
        p = select.poll()
        p.register(self.fd, select.POLLIN | select.POLLOUT | select.POLLRDHUP)
        return self.same(p.poll(15000)[0][1] & ~select.POLLOUT, select.POLLIN)

    def select(self):
        r, _, x = select.select([self.fd], [], [self.fd], 15)
        return self.same((r, x), ([self.fd], []))

    def info(self):
        return self.same(answer(self.c.getsockopt, socket.SOL_TCP, socket.TCP_INFO, 1), b"\x01")

    def error(self):
        return self.same(answer(self.c.getsockopt, socket.SOL_SOCKET, socket.SO_ERROR), 0)

    def name(self):
        return self.same((answer(self.c.getsockname), answer(self.c.getpeername)), self.names)

    def connect(self):
        return self.same(answer(self.c.connect, self.names[1]), "EISCONN")

    def option(self):
        """Set, it has to be honoured and read wherever the connection goes."""
        self.on = not self.on
        self.c.setsockopt(socket.SOL_TCP, socket.TCP_NODELAY, self.on)
        return bool(self.c.getsockopt(socket.SOL_TCP, socket.TCP_NODELAY)) == self.on

    def limit(self):
        """A limit is honoured: this waits for more than there is, and nothing else ends that."""
        self.nonblocking(False)
        self.c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", 0, 1000))
        got = answer(self.c.recv, 10, socket.MSG_PEEK | socket.MSG_WAITALL)
        self.nonblocking(True)
        self.c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", 0, 0))
        return self.seen(got)

    def blocking(self):
        """Without a limit it waits for the moment in which the connection moves."""
        self.nonblocking(False)
        got = answer(self.c.recv, 10, socket.MSG_PEEK)
        self.nonblocking(True)
        return self.same(got, UNREAD)

    def flags(self):
        """So is non-blocking mode, in which nothing of this waits."""
        self.nonblocking(False)
        self.nonblocking(True)
        return self.seen(answer(self.c.recv, 10, socket.MSG_PEEK | socket.MSG_WAITALL))


NAMES = [n for n in vars(Calls) if not n.startswith("_") and n not in ("nonblocking", "taken", "same", "seen", "wait", "piece")]


def serve(port, seconds, names):
    # Where it hangs, if it does.
    faulthandler.register(signal.SIGALRM, chain=True)
    # Whoever moves the connection has to get at it.
    os.nice(10)
    # A connection that is taken over breaks the pipe: nobody is to hear of that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    with socket.create_server(("", port)) as listener:
        c, _ = listener.accept()
    while len(c.recv(10, socket.MSG_PEEK)) < len(UNREAD):
        pass
    calls, asked, wrong = Calls(c), 0, {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name in names:
            signal.alarm(20)
            said = getattr(calls, name)()
            if said is not True:
                wrong[name] = wrong.get(name, 0) + 1
                print(f"{name}: {said} after {asked} calls", file=sys.stderr, flush=True)
            asked += 1
    signal.alarm(20)
    c.shutdown(socket.SHUT_WR)
    c.setblocking(True)
    # What is unread when it is closed would reset it.
    while c.recv(10):
        pass
    print(f"{asked} calls, {calls.sent} bytes; wrong: {wrong}", flush=True)
    sys.exit(bool(wrong))


def peer(address, port):
    with socket.create_connection((address, port)) as c:
        c.sendall(UNREAD)
        n = 0
        while got := c.recv(len(DATA) - n % len(DATA)):
            at = n % len(DATA)
            if got != DATA[at : at + len(got)]:
                sys.exit(f"wrong bytes after {n}")
            n += len(got)
        print(n)


if sys.argv[1] == "serve":
    names = NAMES if len(sys.argv) < 5 else sys.argv[4].split(",")
    serve(int(sys.argv[2]), float(sys.argv[3]), names)
else:
    peer(sys.argv[2], int(sys.argv[3]))
