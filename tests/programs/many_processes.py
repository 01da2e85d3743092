"""Many processes on one stack.

serve PORT N: forks N workers that inherit a listener and one connection; each writes a line on the shared connection,
accepts a connection of its own, answers on it, and stays until the client has closed.
dial ADDRESS PORT N: forks N workers that each open a connection and have one line echoed; all live at the same time.
"""
import os
import socket
import sys


def serve(port, workers):
    listener = socket.create_server(("", port), backlog=1024)
    shared, _ = listener.accept()
    children = []
    for number in range(workers):
        pid = os.fork()
        if pid == 0:
            shared.sendall(b"%06d\n" % number)
            connection, _ = listener.accept()
            connection.sendall(b"%06d\n" % number)
            # Until the client has heard of all.
            ended = connection.recv(1) == b""
            os._exit(0 if ended else 1)
        children.append(pid)
    failed = sum(os.waitpid(pid, 0)[1] != 0 for pid in children)
    print("failed", failed, flush=True)


def dial(address, port, workers):
    ready_out, ready_in = os.pipe()
    go_out, go_in = os.pipe()
    children = []
    for number in range(workers):
        pid = os.fork()
        if pid == 0:
            os.close(go_in)
            connection = socket.create_connection((address, port))
            line = b"line %d\n" % number
            connection.sendall(line)
            got = b""
            while len(got) < len(line):
                got += connection.recv(100) or sys.exit("end of stream")
            os.write(ready_in, b"r")
            os.read(go_out, 1)
            os._exit(0 if got == line else 1)
        children.append(pid)
    os.close(ready_in)
    ready = 0
    while ready < workers and (data := os.read(ready_out, 4096)):
        ready += len(data)
    print("ready", ready, flush=True)
    sys.stdin.read()
    os.close(go_in)
    failed = sum(os.waitpid(pid, 0)[1] != 0 for pid in children)
    print("failed", failed, flush=True)


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]), int(sys.argv[3]))
else:
    dial(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
