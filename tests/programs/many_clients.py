"""many_clients ADDRESS PORT N: the client of many_processes.py: a connection that all workers write to, and one for each
of them; every worker must be heard of on both. Prints "all", and ends when its input does."""
import socket
import sys

address, port, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def line_of(connection):
    got = b""
    while len(got) < 7:
        got += connection.recv(7 - len(got)) or sys.exit("end of stream")
    return int(got)


shared = socket.create_connection((address, port), timeout=30)
own = [socket.create_connection((address, port), timeout=30) for _ in range(workers)]
everybody = list(range(workers))
if sorted(line_of(c) for c in own) != everybody:
    sys.exit("not every worker accepted one connection")
if sorted(line_of(shared) for _ in everybody) != everybody:
    sys.exit("not every worker wrote on the shared connection")
print("all", flush=True)
sys.stdin.read()
