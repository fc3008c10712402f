"""A TCP proxy to put between any two parts: slow, late, silent, or cut."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from tests.ports import free_port

CHUNK = 16 * 1024


class TcpProxy:
    """Passes connections on to a target, until told otherwise. Its faults strike at once, also connections that exist.

    Args:
        host: of the target.
        port: of the target.

    Attributes:
        port: where it listens, on 127.0.0.1.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.port = free_port()
        self._latency_s = 0.0
        self._bytes_per_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._speaking = asyncio.Event()
        self._connections: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp proxy", daemon=True)
        self._thread.start()
        self._call(self._open())

    # -- faults --------------------------------------------------------------------------------------------------------

    def delay(self, seconds: float) -> None:
        """Pass everything on late."""
        self._latency_s = seconds

    def slow_down(self, bytes_per_s: float) -> None:
        """Pass on no more than this."""
        self._bytes_per_s = bytes_per_s

    def fall_silent(self) -> None:
        """Keep connections, and take new ones, but pass nothing on: what a network does that loses all packets."""
        self._loop.call_soon_threadsafe(self._speaking.clear)

    def cut(self) -> None:
        """Drop all connections, and refuse new ones."""
        self._call(self._close())

    def drop(self) -> None:
        """Drop all connections that there are."""
        self._call(self._drop())

    def heal(self) -> None:
        """No more faults."""
        self._latency_s = self._bytes_per_s = 0.0
        self._loop.call_soon_threadsafe(self._speaking.set)
        self._call(self._open())

    def close(self) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- connections ---------------------------------------------------------------------------------------------------

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _open(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._connect, "127.0.0.1", self.port)
        self._speaking.set()

    async def _close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await self._drop()

    async def _drop(self) -> None:
        for connection in self._connections.copy():
            connection.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        far_writer: asyncio.StreamWriter | None = None
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            self._connections.add(far_writer)
            await self._first_of(self._pump(reader, far_writer), self._pump(far_reader, writer))
        except OSError:
            pass
        finally:
            for each in (writer, far_writer):
                if each is not None:
                    self._connections.discard(each)
                    each.transport.abort()

    async def _first_of(self, *work: Coroutine[Any, Any, None]) -> None:
        tasks = [asyncio.ensure_future(each) for each in work]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                if self._latency_s:
                    await asyncio.sleep(self._latency_s)
                if self._bytes_per_s:
                    await asyncio.sleep(len(data) / self._bytes_per_s)
                await self._speaking.wait()
                writer.write(data)
                await writer.drain()
