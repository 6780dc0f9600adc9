"""A server of FastMCP. Arguments: the port; `http`, `stateless`, `sse` or `stdio`."""

import sys

from fastmcp import FastMCP

server = FastMCP("fastmcp-zoo", version="3.2.1", instructions="Feed the animals.")


@server.tool
def feed(animal: str, grams: int = 100) -> str:
    """Feeds an animal."""
    return f"{animal} ate {grams} g"


@server.tool
def count() -> int:
    """Counts the animals."""
    return 7


port, mode = sys.argv[1:]
if mode == "stdio":
    server.run(transport="stdio", show_banner=False)
else:
    options = {"stateless_http": mode == "stateless"} if mode != "sse" else {}
    transport = "sse" if mode == "sse" else "http"
    server.run(transport=transport, host="127.0.0.1", port=int(port), show_banner=False, **options)
