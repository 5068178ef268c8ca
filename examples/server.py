"""HTTP service that explains images: one model, concurrent requests, asyncio.

    python examples/server.py            # starts the service, sends four requests, stops
    python examples/server.py 8000       # serves the embedded model until Ctrl-C
    curl --data-binary @photo.jpg localhost:8000

The response is JSON: the class, its probability, and the map over patches. Explanations run in
threads. Concurrent calls are isolated from each other, so that they share one model without a lock.
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
MAX_BYTES = 20 * 2**20  # of a request
NUM_THREADS = 2  # concurrent explanations; further requests wait
CLIENT_ERRORS = (SemattnError, ValueError, IndexError, EOFError, asyncio.LimitOverrunError)


def explain(model: nn.Module, content: bytes) -> dict[str, Any]:
    """Return the response to an image file."""
    explanation = SIFTPatchInterrelation(model).explain(content)
    target = int(explanation.target[0])
    return {
        "class": explanation.label(target) if explanation.classes else target,
        "probability": round(float(explanation.logits.softmax(dim=-1)[0, target]), 4),
        "map": explanation.patch_map[0].tolist(),
    }


async def handle_request(
    model: nn.Module,
    pool: ThreadPoolExecutor,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Handle one request: an image as the body of a POST."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].split()[0])
        if length > MAX_BYTES:
            raise ValueError(f"expected a picture of {MAX_BYTES} bytes at most, got {length}")
        content = await reader.readexactly(length)
        result = await asyncio.get_running_loop().run_in_executor(pool, explain, model, content)
        status, body = "200 OK", json.dumps(result)
    except CLIENT_ERRORS as error:
        status, body = "400 Bad Request", json.dumps({"error": str(error)})
    writer.write(
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
    )
    await writer.drain()
    writer.close()


async def request(port: int, content: bytes) -> dict[str, Any]:
    """Send an image as a client, and return the response."""
    reader, writer = await asyncio.open_connection("localhost", port)
    writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
    response = await reader.read()
    writer.close()
    result: dict[str, Any] = json.loads(response.partition(b"\r\n\r\n")[2])
    return result


async def main(port: int | None) -> None:
    """Serve on a port until interrupted, or handle four requests of our own."""
    torch.manual_seed(0)
    model = load() if port else timm.create_model("test_vit", img_size=64).eval()
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        server = await asyncio.start_server(
            partial(handle_request, model, pool), "localhost", port or 0
        )
        async with server:
            bound_port = server.sockets[0].getsockname()[1]
            if port:
                print(f"curl --data-binary @photo.jpg localhost:{bound_port}")
                await server.serve_forever()
            photo = PHOTO.read_bytes()
            for result in await asyncio.gather(*(request(bound_port, photo) for _ in range(4))):
                print(f"class {result['class']}, {len(result['map'])} rows of patches")
            print((await request(bound_port, b"no picture"))["error"])


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else None))
