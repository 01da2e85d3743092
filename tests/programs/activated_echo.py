"""An echo server on the listener that it was started with, as descriptor 3 (sd_listen_fds(3))."""

import os
import signal
import socket
import sys
import threading


def echo(connection):
    with connection:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except ConnectionError:
            pass


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
if os.environ.get("LISTEN_FDS") != "1":
    sys.exit("no listener")
listener = socket.socket(fileno=3)
listener.setblocking(True)
while True:
    connection, _ = listener.accept()
    threading.Thread(target=echo, args=(connection,), daemon=True).start()
