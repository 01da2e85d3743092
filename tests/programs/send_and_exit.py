"""Accepts one connection, queues 200 kB without waiting for the peer, and exits; or, when a memory control group is named,
joins that and takes memory until it is killed."""

import os
import socket
import sys

with socket.socket() as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", int(sys.argv[1])))
    listener.listen()
    connection, _ = listener.accept()
connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
connection.sendall(b"x" * 200_000)
if len(sys.argv) > 2:
    with open(os.path.join(sys.argv[2], "cgroup.procs"), "w") as processes:
        processes.write(str(os.getpid()))
    taken = []
    while True:
        taken.append(bytearray(b"x" * (1 << 20)))
