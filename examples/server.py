"""A service that explains pictures: one model, many requests at once, asyncio in front.

    python examples/server.py            # starts it, asks it four times at once, stops
    python examples/server.py 8000       # serves with the embedded model until Ctrl-C
    curl --data-binary @photo.jpg localhost:8000

The answer is JSON: the class, its probability, and the map over patches. Explanations run in
threads; the engine keeps them apart, so they share one model and need no lock.
"""

from __future__ import annotations

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from semattn import SIFTPatchInterrelation
from semattn.errors import SemattnError
from semattn.zoo import load

PHOTO = Path(__file__).parent / "flower.jpg"
LARGEST = 20 * 2**20  # bytes of a picture
AT_ONCE = 2  # explanations; more wait
REFUSED = (SemattnError, ValueError, IndexError, EOFError, asyncio.LimitOverrunError)


def explained(model: nn.Module, content: bytes) -> dict[str, Any]:
    """What is answered for the bytes of a picture."""
    made = SIFTPatchInterrelation(model).explain(content)
    chosen = int(made.target[0])
    return {
        "class": made.label(0) if made.classes else chosen,
        "probability": round(float(made.logits.softmax(dim=-1)[0, chosen]), 4),
        "map": made.patch_map[0].tolist(),
    }


async def answer(
    model: nn.Module,
    pool: ThreadPoolExecutor,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """One request: a picture as the body of a POST."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].split()[0])
        if length > LARGEST:
            raise ValueError(f"expected a picture of {LARGEST} bytes at most, got {length}")
        content = await reader.readexactly(length)
        made = await asyncio.get_running_loop().run_in_executor(pool, explained, model, content)
        status, body = "200 OK", json.dumps(made)
    except REFUSED as error:
        status, body = "400 Bad Request", json.dumps({"error": str(error)})
    writer.write(
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
    )
    await writer.drain()
    writer.close()


async def ask(port: int, content: bytes) -> dict[str, Any]:
    """What a client does."""
    reader, writer = await asyncio.open_connection("localhost", port)
    writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
    told = await reader.read()
    writer.close()
    found: dict[str, Any] = json.loads(told.partition(b"\r\n\r\n")[2])
    return found


async def main(port: int | None) -> None:
    """Serve for ever, or for four requests of our own."""
    torch.manual_seed(0)
    model = load() if port else timm.create_model("test_vit", img_size=64).eval()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        server = await asyncio.start_server(partial(answer, model, pool), "localhost", port or 0)
        async with server:
            at = server.sockets[0].getsockname()[1]
            if port:
                print(f"curl --data-binary @photo.jpg localhost:{at}")
                await server.serve_forever()
            photo = PHOTO.read_bytes()
            for told in await asyncio.gather(*(ask(at, photo) for _ in range(4))):
                print(f"class {told['class']}, {len(told['map'])} rows of patches")
            print((await ask(at, b"no picture"))["error"])


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else None))
