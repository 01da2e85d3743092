"""Vocabulary of the differential suite for Python programs; see docs/testing.md and diff.h.

    import diff

    @diff.case
    def recv_after_fin():
        sock = diff.active_pair()
        diff.peer("shutdown w")
        diff.say("recv", sock.recv(10))

    diff.main()

`case(kernel=True)` marks a case about the kernel's path, `case(known="why")` one that is known to differ.
"""
import errno
import os
import socket
import sys

FAMILY = socket.AF_INET6 if os.environ.get("DIFF_FAMILY") == "6" else socket.AF_INET
PEER = os.environ.get("DIFF_PEER_ADDR", "127.0.0.1")
MINE = os.environ.get("DIFF_MY_ADDR", "127.0.0.1")

_cases = []
_control = None


def case(function=None, *, kernel=False, known=""):
    """Registers a case, whose name is that of the function."""

    def register(function):
        _cases.append((function, (1 if kernel else 0) | (2 if known else 0), known))
        return function

    return register(function) if function else register


def say(*words):
    """One line of result."""
    print(*words, flush=True)


def say_call(what, call, *args):
    """The result of a call, or the name of its errno."""
    try:
        result = call(*args)
    except OSError as error:
        say(what, "raises", type(error).__name__, errno.errorcode.get(error.errno, error.errno))
        return None
    say(what, "=", result)
    return result


def peer(order):
    """Orders the peer about; its reply."""
    global _control
    if _control is None:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(os.environ.get("DIFF_PEER", "/tmp/diff-peer"))
        _control = sock.makefile("rw", encoding="latin-1", newline="\n")
        peer(f"hello {6 if FAMILY == socket.AF_INET6 else 4} {PEER} {MINE}")
    _control.write(order + "\n")
    _control.flush()
    return _control.readline().rstrip("\n")


def tcp_socket():
    return socket.socket(FAMILY, socket.SOCK_STREAM)


def udp_socket():
    return socket.socket(FAMILY, socket.SOCK_DGRAM)


def listening():
    """A listening TCP socket on this host's address."""
    sock = tcp_socket()
    sock.bind((MINE, 0))
    sock.listen(16)
    return sock


def active_pair():
    """A TCP connection that this program opened; the peer's end is the peer's current handle."""
    sock = tcp_socket()
    sock.connect((PEER, int(peer("listen"))))
    peer("accept")
    return sock


def passive_pair():
    """A TCP connection that this program accepted."""
    with listening() as listener:
        peer(f"connect {listener.getsockname()[1]}")
        return listener.accept()[0]


def main():
    wanted = sys.argv[1] if len(sys.argv) > 1 else "list"
    for function, flags, why in _cases:
        if wanted == "list":
            print(function.__name__, flags, why, sep="\t")
        elif wanted == function.__name__:
            function()
