"""Policies and servers of the protocol, in this process, on a free port of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import websockets.sync.server
from openpi_client import msgpack_numpy

from appliance.serving.messages import ServerDescription
from appliance.serving.server import PolicyServer
from appliance.serving.service import PolicyService

HORIZON, DIMS = 5, 32
DESCRIPTION = ServerDescription(
    noise_shape=(HORIZON, DIMS),
    cameras=("cam_high", "cam_left_wrist"),
    image_size=(6, 8),
    max_batch=3,
    policy={"config": "fake", "checkpoint": 7, "params": "sha256:" + "ab" * 32},
)


class LinearPolicy:
    """Its actions are a plain function of what it is given, so that a test can compute them."""

    def __init__(self) -> None:
        self.calls: list[list[Mapping[str, Any]]] = []
        self.before_call: Callable[[], None] = lambda: None

    def infer(self, observations: Sequence[Mapping[str, Any]], noise: np.ndarray) -> np.ndarray:
        self.calls.append(list(observations))
        self.before_call()
        return np.stack([act(each, z) for each, z in zip(observations, noise, strict=True)])


def act(observation: Mapping[str, Any], noise_HxA: np.ndarray) -> np.ndarray:
    """What LinearPolicy does with one observation of ours."""
    pixels = sum(float(image[0, 0, 0]) for image in observation["images"].values())
    offset = np.float32(pixels + len(observation["prompt"]))
    return noise_HxA[:, :14] + observation["state"] + offset


def make_observation(seed: int = 0, *, cameras: Sequence[str] = ("cam_high",)) -> dict[str, Any]:
    """An observation as the evaluation's driver makes it: pictures [Y, X, 3]."""
    generator = np.random.default_rng(seed)
    return {
        "images": {name: generator.integers(0, 256, (6, 8, 3), np.uint8) for name in cameras},
        "state": generator.normal(size=14).astype(np.float32),
        "prompt": f"touch block {seed}",
    }


def make_noise(count: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((count, HORIZON, DIMS), dtype=np.float32)


@contextlib.contextmanager
def running_server(
    policy: Any = None,
    *,
    port: int = 0,
    description: ServerDescription = DESCRIPTION,
    max_message_bytes: int = 2**20,
    **options: Any,
) -> Iterator[str]:
    """Serve ``policy`` with the real server in a thread; yields its address."""
    service = PolicyService(policy=policy or LinearPolicy(), description=description, **options)
    ready = threading.Event()
    place: dict[str, Any] = {}

    async def main() -> None:
        server = PolicyServer(service, max_message_bytes=max_message_bytes)
        place["stop"] = (asyncio.get_running_loop(), server.stop)

        def on_ready(host: str, port: int) -> None:
            place["url"] = f"ws://{host}:{port}"
            ready.set()

        await server.run("127.0.0.1", port, on_ready)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert ready.wait(60)
        yield place["url"]
    finally:
        loop, stop = place["stop"]
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(stop)
        thread.join(60)
        assert not thread.is_alive()


@contextlib.contextmanager
def foreign_server(
    answer: Callable[[Any], Any], *, metadata: Any = None, port: int = 0
) -> Iterator[str]:
    """A server of somebody else's: metadata, then ``answer(message)`` to each message.

    Its messages are packed by openpi's own coder. An answer that is text or bytes is sent as it is,
    an exception closes the connection without an answer.
    """

    def handle(connection: websockets.sync.server.ServerConnection) -> None:
        first = {} if metadata is None else metadata
        connection.send(first if isinstance(first, str | bytes) else msgpack_numpy.packb(first))
        for data in connection:
            try:
                value = answer(msgpack_numpy.unpackb(data))
            except ConnectionAbortedError:
                connection.socket.shutdown(2)
                return
            whole = isinstance(value, str | bytes)
            connection.send(value if whole else msgpack_numpy.packb(value))
            if isinstance(value, str):
                connection.close(1011)

    with websockets.sync.server.serve(
        handle, "127.0.0.1", port, compression=None, max_size=None
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join(60)
