"""What processes cost an ordinary program without a connection: `process_cost.py MS` prints the least time, in ns, of one fork (with
the end of the child), and of one start of a Python program with its end; each is tried for MS milliseconds. As
`process_cost.c`, of a program of ordinary size."""

import os
import sys
import time

SPAN = int(sys.argv[1]) * 1_000_000


def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return pid


def start():
    return os.posix_spawn(sys.executable, [sys.executable, "-c", "pass"], os.environ)


def least(begin):
    best = None
    end = time.monotonic_ns() + SPAN
    while best is None or time.monotonic_ns() < end:
        begun = time.monotonic_ns()
        _, status = os.waitpid(begin(), 0)
        took = time.monotonic_ns() - begun
        if status:
            sys.exit("a child failed")
        best = took if best is None else min(best, took)
    return best


for name, begin in (("fork", fork), ("start", start)):
    print(name, least(begin))
