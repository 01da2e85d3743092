"""Opens many connections and measures an echo before and after: crowd_client.py ADDRESS PORT COUNT SOURCE...

The connections come from the SOURCE addresses in turn. Prints the medians in microseconds and "ready", keeps the
connections until standard input ends, and says how many of them still echo then."""

import resource
import socket
import statistics
import sys
import time

for limit in (200_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        break
    except (ValueError, OSError):
        continue
address, port, count, sources = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]


def connected(source):
    one = socket.socket()
    one.settimeout(20)
    one.bind((source, 0))
    one.connect((address, port))
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


def echo(one, text=b"x"):
    one.send(text)
    got = one.recv(len(text))
    assert got == text, got


def median():
    one = connected(sources[0])
    for _ in range(200):
        echo(one)
    best = []
    # The best of several: where the scheduler puts the two ends changes from time to time, and with it what a wake costs.
    for _ in range(12):
        time.sleep(0.02)
        times = []
        for _ in range(400):
            begun = time.perf_counter()
            echo(one)
            times.append(time.perf_counter() - begun)
        best.append(statistics.median(times) * 1e6)
    one.close()
    return min(best)


alone = median()
crowd = [connected(sources[i % len(sources)]) for i in range(count)]
# All of them have been accepted: the listener takes them in turn.
echo(crowd[-1])
among = median()
print(f"alone {alone:.1f} among {among:.1f} ready", flush=True)
sys.stdin.read()
for one in crowd[:: max(1, count // 500)]:
    echo(one)
print("all echo", flush=True)
