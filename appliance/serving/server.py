"""The policy server: openpi's protocol over websockets, for any number of clients at once.

A client is sent the metadata on connecting, then every binary message is a query and is answered
in order. What goes wrong is sent as a text frame, and the connection is closed with code 1011, as
openpi's server does; other clients are not disturbed. Queries are computed one after the other, in
a thread, so that a long one does not stop pings and health checks. ``GET /healthz`` is answered
with 200. There is no encryption and nobody is asked who they are: bind it to a network you trust.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import websockets.asyncio.server as websocket_server
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from appliance.errors import PolicyServerError
from appliance.serving.service import PolicyService
from appliance.serving.wire import MAX_MESSAGE_BYTES, WireError, decode, encode

logger = logging.getLogger(__name__)

DEFAULT_PORT = 8000
HEALTH_PATH = "/healthz"
FINISH_TIMEOUT_S = 60.0
"""So long a query that is being computed may still take when the server is told to stop."""

ReadyCallback = Callable[[str, int], None]
"""Called with the host and the port, once connections are accepted."""


class PolicyServer:
    """Serves one policy until it is told to stop."""

    def __init__(
        self, service: PolicyService, *, max_message_bytes: int = MAX_MESSAGE_BYTES
    ) -> None:
        self._service = service
        self._metadata = encode(service.description.to_metadata())
        self._max_message_bytes = max_message_bytes
        self._stopping = asyncio.Event()
        self._computing = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def stop(self) -> None:
        """Let ``run`` end: queries being computed are answered, then connections are closed."""
        self._stopping.set()

    async def run(self, host: str, port: int, on_ready: ReadyCallback) -> None:
        """Serve until ``stop``; port 0 takes a free one. Raises PolicyServerError: port taken."""
        with ThreadPoolExecutor(1, thread_name_prefix="policy") as self._executor:
            try:
                server = await websocket_server.serve(
                    self._handle,
                    host,
                    port,
                    compression=None,
                    max_size=self._max_message_bytes,
                    max_queue=2,
                    logger=_quiet_logger(),
                    process_request=_answer_health_check,
                )
            except OSError as error:
                raise _cannot_listen(host, port, error) from error
            async with server:
                on_ready(*next(iter(server.sockets)).getsockname()[:2])
                await self._stopping.wait()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._idle.wait(), FINISH_TIMEOUT_S)

    async def _handle(self, connection: websocket_server.ServerConnection) -> None:
        client = connection.remote_address
        logger.info("client %s connected", client)
        try:
            await connection.send(self._metadata)
            await self._answer_queries(connection)
        except ConnectionClosed:
            pass
        finally:
            logger.info("client %s is gone", client)

    async def _answer_queries(self, connection: websocket_server.ServerConnection) -> None:
        last_total_s: float | None = None
        query = 0
        while not self._stopping.is_set():
            data = await connection.recv()
            began_s = time.monotonic()
            with self._counted():
                try:
                    answer = await self._compute(data, query)
                except Exception as error:  # noqa: BLE001  (whatever it is, the client is told)
                    await _refuse(connection, error)
                    return
                if last_total_s is not None:
                    answer["server_timing"]["prev_total_ms"] = 1000 * last_total_s
                await connection.send(encode(answer))
            last_total_s = time.monotonic() - began_s
            query += 1

    async def _compute(self, data: str | bytes, query: int) -> dict[str, Any]:
        if isinstance(data, str):
            raise WireError("A query is a binary message, not a text.")
        message = decode(data)
        began_s = time.monotonic()
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._executor, self._service.answer, message, query)
        answer["server_timing"] = {"infer_ms": 1000 * (time.monotonic() - began_s)}
        return answer

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._computing += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._computing -= 1
            if self._computing == 0:
                self._idle.set()


async def _refuse(connection: websocket_server.ServerConnection, error: Exception) -> None:
    """Tell the client what went wrong, as openpi's server does, and close."""
    if isinstance(error, PolicyServerError):
        text = f"{type(error).__name__}: {error}"
        logger.warning("client %s: %s", connection.remote_address, text)
    else:
        text = "".join(traceback.format_exception(error))
        logger.error("client %s: the policy failed:\n%s", connection.remote_address, text)
    await connection.send(text)
    reason = "Internal server error. Traceback included in previous frame."
    await connection.close(CloseCode.INTERNAL_ERROR, reason)


def check_address(host: str, port: int) -> None:
    """See that a server could listen there, before anything long; raises PolicyServerError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise _cannot_listen(host, port, error) from error


def _cannot_listen(host: str, port: int, error: OSError) -> PolicyServerError:
    return PolicyServerError(
        f"{host}:{port}: no server can listen there ({error}). Choose another --port (0 takes a"
        " free one) or --host."
    )


def _quiet_logger() -> logging.Logger:
    """A logger for websockets: whatever knocks and speaks no websocket is not worth a traceback."""
    quiet = logger.getChild("websockets")
    quiet.setLevel(logging.CRITICAL)
    return quiet


def _answer_health_check(
    connection: websocket_server.ServerConnection, request: Request
) -> Response | None:
    if request.path == HEALTH_PATH:
        return connection.respond(http.HTTPStatus.OK, "OK\n")
    return None


def serve_policy(
    service: PolicyService,
    *,
    host: str,
    port: int,
    on_ready: ReadyCallback,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> None:
    """Serve until SIGINT or SIGTERM, then return; call it in the main thread.

    Raises PolicyServerError when nothing can listen at ``host`` and ``port``.
    """

    async def main() -> None:
        server = PolicyServer(service, max_message_bytes=max_message_bytes)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, server.stop)
        try:
            await server.run(host, port, on_ready)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    asyncio.run(main())
