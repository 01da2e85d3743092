"""A server of one thread that does what the lines of its only connection say, and nothing beside that.

busy SECONDS: computes, without a system call. send COUNT SECONDS: sends so many bytes after a pause. total: tells how
many bytes have come. Other lines are only counted.
"""

import socket
import sys
import time

with socket.socket() as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Small, so that its window is soon full.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    listener.bind(("0.0.0.0", int(sys.argv[1])))
    listener.listen()
    connection, _ = listener.accept()
total = 0
with connection, connection.makefile("rb") as lines:
    for line in lines:
        total += len(line)
        words = line.split()
        if words[0] == b"busy":
            end = time.monotonic() + float(words[1])
            while time.monotonic() < end:
                pass
        elif words[0] == b"send":
            time.sleep(float(words[2]))
            connection.sendall(b"y" * int(words[1]))
        elif words[0] == b"total":
            connection.sendall(b"%d\n" % total)
