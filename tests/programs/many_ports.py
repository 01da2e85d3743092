"""Connections to an echo server, as the lines of standard input say: `open N` and `port` (one more, from a port of its own)
answer with the local ports, `echo` asks each connection for an echo, `close` closes them all."""

import socket
import sys

server = sys.argv[1], int(sys.argv[2])
conns = []


def echo(conn):
    conn.sendall(b"abc")
    data = b""
    while len(data) < 3:
        piece = conn.recv(3 - len(data))
        assert piece, "it ended early"
        data += piece
    assert data == b"abc", data


def add(conn):
    conn.settimeout(5)
    echo(conn)
    conns.append(conn)
    return conn.getsockname()[1]


for line in sys.stdin:
    words = line.split()
    if words[0] == "open":
        ports = [add(socket.create_connection(server, timeout=5)) for _ in range(int(words[1]))]
        print("opened", *ports, flush=True)
    elif words[0] == "port":
        conn = socket.socket()
        conn.settimeout(5)
        conn.bind((sys.argv[3], 0))
        conn.connect(server)
        print("opened", add(conn), flush=True)
    elif words[0] == "echo":
        for conn in conns:
            echo(conn)
        print("echoed", len(conns), flush=True)
    elif words[0] == "close":
        for conn in conns:
            conn.close()
        conns.clear()
        print("closed", flush=True)
