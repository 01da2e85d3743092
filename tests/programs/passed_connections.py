"""An echo server whose parent accepts connections and gives each to another process, in the way that is asked for:

fork, spawn, forkserver: a new process gets the connection as an argument; pipe: processes that run already get
it over a multiprocessing pipe, that is in a message on a Unix socket.
"""

import multiprocessing
import signal
import socket
import sys


def echo(connection):
    with connection:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except ConnectionError:
            pass


def work(pipe):
    while True:
        echo(pipe.recv())


def in_new_processes(context, listener):
    while True:
        connection, _ = listener.accept()
        context.Process(target=echo, args=(connection,), daemon=True).start()
        connection.close()
        multiprocessing.active_children()


def in_running_processes(context, listener, count=4):
    pipes = []
    for _ in range(count):
        here, there = context.Pipe()
        context.Process(target=work, args=(there,), daemon=True).start()
        pipes.append(here)
    number = 0
    while True:
        connection, _ = listener.accept()
        pipes[number % count].send(connection)
        connection.close()
        number += 1


def main():
    way, port = sys.argv[1], int(sys.argv[2])
    # Daemonic children end with the parent, if that ends in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with socket.create_server(("", port), backlog=64) as listener:
        if way == "pipe":
            in_running_processes(multiprocessing.get_context("fork"), listener)
        else:
            in_new_processes(multiprocessing.get_context(way), listener)


if __name__ == "__main__":
    main()
