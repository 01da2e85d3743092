"""Python's socket objects: files, timeouts, exceptions."""
import select
import socket

import diff


@diff.case
def file_object():
    sock = diff.passive_pair()
    diff.peer("text one")
    diff.peer("oob x")
    diff.peer("text two")
    diff.peer("shutdown w")
    with sock.makefile("rb") as file:
        diff.say(file.read())


@diff.case
def timeout():
    sock = diff.active_pair()
    sock.settimeout(0.05)
    diff.say_call("recv", sock.recv, 10)
    diff.say("blocking", sock.getblocking(), sock.gettimeout())
    sock.settimeout(None)
    diff.peer("send 3")
    diff.say_call("recv", sock.recv, 10)


@diff.case
def refused():
    sock = diff.tcp_socket()
    port = int(diff.peer("listen"))
    diff.peer("close")
    diff.say_call("connect", sock.connect, (diff.PEER, port))
    diff.say_call("connect_ex", sock.connect_ex, (diff.PEER, port))


@diff.case
def reset():
    sock = diff.active_pair()
    diff.peer("rst")
    diff.say(select.select([sock], [], [], 5)[0] == [sock])
    diff.say_call("recv", sock.recv, 10)
    diff.say_call("send", sock.send, b"x")
    diff.say_call("detach", lambda: socket.socket(fileno=sock.detach()).type)


diff.main()
