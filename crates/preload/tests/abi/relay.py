"""Joins connections in pairs, for say.h: bytes, ends and resets of one go to the other. One byte tells that a
connection was taken."""
import select
import socket
import struct
import threading


def join(a, b):
    other = {a: b, b: a}
    while other:
        for s in select.select(list(other), [], [])[0]:
            to = a if s is b else b
            try:
                data = s.recv(65536)
                if data:
                    to.sendall(data)
                else:
                    to.shutdown(socket.SHUT_WR)
                    del other[s]
            except ConnectionResetError:
                to.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                other.clear()
                break
            except OSError:
                other.clear()
                break
    a.close()
    b.close()


lis = socket.socket()
lis.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
lis.bind(("0.0.0.0", 9000))
lis.listen(64)
while True:
    pair = []
    for _ in range(2):
        c, _ = lis.accept()
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        c.sendall(b"g")
        pair.append(c)
    threading.Thread(target=join, args=pair, daemon=True).start()
