"""Echoes on one epoll set, whatever number of connections come: crowd_server.py ADDRESS PORT."""

import resource
import select
import socket
import sys

for limit in (200_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        break
    except (ValueError, OSError):
        continue
listener = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=4096)
listener.setblocking(False)
members = select.epoll()
members.register(listener, select.EPOLLIN)
connections = {}
while True:
    for fd, _events in members.poll():
        if fd == listener.fileno():
            try:
                while True:
                    one, _peer = listener.accept()
                    one.setblocking(False)
                    connections[one.fileno()] = one
                    members.register(one, select.EPOLLIN)
            except BlockingIOError:
                continue
        one = connections[fd]
        data = one.recv(4096)
        if data:
            one.send(data)
        else:
            del connections[fd]
            one.close()
