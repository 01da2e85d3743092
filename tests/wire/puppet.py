"""Makes the socket calls that a script names: puppet.py SOCKET

Each line from SOCKET is a number and a Python expression; the answer is the number and what came of it: the value, or the
name of the error. Every expression runs in a thread of its own, so that a call that blocks holds up nobody."""

import errno
import fcntl
import select
import socket
import struct
import sys
import threading
import time

control = socket.socket(socket.AF_UNIX)
for _ in range(200):
    try:
        control.connect(sys.argv[1])
        break
    except OSError:
        time.sleep(0.1)
# So many descriptors are kept by name: s["l"] is a listener, s["a"] an accepted connection, and so on.
s = {}
lock = threading.Lock()


def listen(name, address, port, backlog=8, **options):
    one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for option, value in options.items():
        one.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    one.bind((address, port))
    one.listen(backlog)
    s[name] = one


def accept(name, listener):
    s[name], _ = s[listener].accept()


def dial(name, address, port, local, rcvbuf=0, **options):
    one = socket.socket()
    if rcvbuf:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    for option, value in options.items():
        one.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("", local))
    s[name] = one
    one.connect((address, port))


def recv(name, most=65536, flags=0):
    got = s[name].recv(most, flags)
    return len(got) if len(got) > 12 else got


def send(name, n, flags=0):
    return s[name].send(bytes(i % 251 for i in range(n)), flags)


def tcp(name, option, value):
    s[name].setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def sol(name, option, value):
    s[name].setsockopt(socket.SOL_SOCKET, getattr(socket, option), value)


def linger(name, seconds):
    s[name].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))


def close(name):
    s.pop(name).close()


def shutdown(name, how):
    s[name].shutdown(getattr(socket, how))


def error(name):
    return errno.errorcode.get(s[name].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)


def state(name):
    return s[name].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def ask(name, request):
    return struct.unpack("i", fcntl.ioctl(s[name], request, bytes(4)))[0]


def look(name):
    """State, bytes to read, bytes not acknowledged, bytes not sent, at the mark, what `poll` says."""
    if name not in s:
        return None
    poll = select.poll()
    poll.register(s[name], 0x20FF)
    events = poll.poll(0)
    asked = []
    for request in (0x541B, 0x5411, 0x894B, 0x8905):
        try:
            asked.append(ask(name, request))
        except OSError as e:
            asked.append(errno.errorcode[e.errno])
    return [state(name), *asked, hex(events[0][1] if events else 0)]


def run(number, text):
    try:
        said = repr(eval(text))  # noqa: S307: the script is ours
    except OSError as e:
        said = errno.errorcode.get(e.errno, str(e))
    with lock:
        control.sendall(f"{number} {said}\n".encode())


for line in control.makefile():
    number, text = line.rstrip("\n").split(" ", 1)
    threading.Thread(target=run, args=(number, text), daemon=True).start()
