"""Sets and gets values of many lengths over several TCP connections, then over UDP; compares all."""

import random
import socket
import struct
import sys
import threading

host, port = sys.argv[1], int(sys.argv[2])
failures = []


def values(seed, count, longest):
    source = random.Random(seed)
    for number in range(count):
        yield f"key-{seed}-{number}", source.randbytes(source.randint(1, longest))


def tcp(seed):
    with socket.create_connection((host, port), timeout=10) as connection:
        stream = connection.makefile("rwb")
        for key, value in values(seed, 300, 100_000):
            stream.write(b"set %s 0 0 %d\r\n%s\r\n" % (key.encode(), len(value), value))
            stream.flush()
            answer = stream.readline()
            assert answer == b"STORED\r\n", answer
            stream.write(b"get %s\r\n" % key.encode())
            stream.flush()
            head = stream.readline()
            assert head == b"VALUE %s 0 %d\r\n" % (key.encode(), len(value)), head
            got = stream.read(len(value))
            assert got == value, f"{key}: changed"
            end = stream.readline() + stream.readline()
            assert end == b"\r\nEND\r\n", end


def guarded(seed):
    try:
        tcp(seed)
    except BaseException as error:
        failures.append(f"connection {seed}: {error!r}")


threads = [threading.Thread(target=guarded, args=(seed,)) for seed in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()

# The UDP frame: request id, sequence number, number of datagrams, reserved.
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
    datagrams.settimeout(5)
    datagrams.connect((host, port))
    for number in range(200):
        datagrams.send(struct.pack("!HHHH", number, 0, 1, 0) + b"get none\r\n")
        answer = datagrams.recv(2000)
        assert answer == struct.pack("!HHHH", number, 0, 1, 0) + b"END\r\n", answer

if failures:
    sys.exit("\n".join(failures))
print("all values came back right")
