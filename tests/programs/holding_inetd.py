"""An inetd that keeps each connection open itself until the program has ended that it started for it: the arguments after the
port."""

import socket
import subprocess
import sys

listener = socket.create_server(("0.0.0.0", int(sys.argv[1])))
while True:
    connection, _ = listener.accept()
    with connection:
        subprocess.run(sys.argv[2:], stdin=connection, stdout=connection, check=True)
