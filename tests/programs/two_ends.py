"""Two ends of one connection on this host. `server PORT` echoes ROUNDS times, then sends BYTES and waits to be killed;
`client PORT` waits for a line before it reads them to the end, and says how many they were and how it ended. `giver PORT`
first makes the connection its standard input, which moves it to the kernel, with what waits."""

import os
import socket
import sys

ROUNDS = 20
BYTES = 50_000


def exactly(sock, n):
    data = b""
    while len(data) < n:
        piece = sock.recv(n - len(data))
        assert piece, "it ended early"
        data += piece
    return data


def server(port):
    with socket.create_server(("127.0.0.1", port)) as listener:
        print("listening", flush=True)
        sock, _ = listener.accept()
    for _ in range(ROUNDS):
        sock.sendall(exactly(sock, 100))
    sock.sendall(b"x" * BYTES)
    print("sent", flush=True)
    sys.stdin.read()


def giver(port):
    client(port, give=True)


def client(port, give=False):
    orders = os.fdopen(os.dup(0))
    sock = socket.create_connection(("127.0.0.1", port))
    for round in range(ROUNDS):
        message = bytes([round]) * 100
        sock.sendall(message)
        assert exactly(sock, 100) == message
    print("talked", flush=True)
    orders.readline()
    if give:
        os.dup2(sock.fileno(), 0)
        sock = socket.socket(fileno=0)
        print("given", flush=True)
        orders.readline()
    total, how = 0, "end"
    try:
        while piece := sock.recv(65536):
            assert piece == b"x" * len(piece)
            total += len(piece)
    except ConnectionResetError:
        how = "reset"
    print(total, how, flush=True)


{"server": server, "client": client, "giver": giver}[sys.argv[1]](int(sys.argv[2]))
