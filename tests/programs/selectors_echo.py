"""An echo server on one of Python's selectors: select, poll or epoll. Non-blocking throughout."""

import selectors
import signal
import socket
import sys

KINDS = {
    "select": selectors.SelectSelector,
    "poll": selectors.PollSelector,
    "epoll": selectors.EpollSelector,
}

waiting = {}
selector = KINDS[sys.argv[1]]()


def accept(listener):
    connection, _ = listener.accept()
    connection.setblocking(False)
    waiting[connection] = bytearray()
    selector.register(connection, selectors.EVENT_READ, serve)


def serve(connection):
    queue = waiting[connection]
    try:
        data = connection.recv(65536)
        if not data and not queue:
            raise ConnectionError
        queue += data
    except BlockingIOError:
        pass
    except ConnectionError:
        selector.unregister(connection)
        del waiting[connection]
        connection.close()
        return
    try:
        while queue:
            del queue[: connection.send(queue[:65536])]
    except BlockingIOError:
        pass
    except ConnectionError:
        queue.clear()
    events = selectors.EVENT_READ | (selectors.EVENT_WRITE if queue else 0)
    selector.modify(connection, events, serve)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with socket.create_server(("0.0.0.0", int(sys.argv[2])), backlog=100) as listener:
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ, accept)
    while True:
        for key, _ in selector.select():
            key.data(key.fileobj)
