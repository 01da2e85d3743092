"""Twenty asyncio connections that echo messages of random length and compare them."""

import asyncio
import os
import random
import sys


async def connection(number):
    source = random.Random(number)
    reader, writer = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
    for _ in range(50):
        message = source.randbytes(source.randint(1, 60_000))
        writer.write(message)
        await writer.drain()
        answer = await reader.readexactly(len(message))
        assert answer == message, f"connection {number}: changed"
    writer.write_eof()
    assert await reader.read() == b"", "data after the end"
    writer.close()
    await writer.wait_closed()


async def main():
    await asyncio.wait_for(asyncio.gather(*(connection(n) for n in range(20))), 25)


if os.environ.get("UVLOOP"):
    import uvloop

    uvloop.install()
asyncio.run(main())
