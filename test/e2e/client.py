"""A client of hosted servers, for inside the cluster: prints what the official SDK for Python finds at a URL."""

import asyncio
import json
import sys

from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client


async def main(url: str) -> None:
    async with streamablehttp_client(url) as (read, write, _), ClientSession(read, write) as session:
        about = await session.initialize()
        found = await session.list_tools()
        print(
            json.dumps(
                {
                    "version": str(about.protocolVersion),
                    "server": about.serverInfo.name,
                    "tools": [tool.name for tool in found.tools],
                }
            )
        )


asyncio.run(main(sys.argv[1]))
