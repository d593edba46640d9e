"""A policy that is served somewhere else, asked over openpi's protocol; a policy like any other.

A server of this project is sent the noise and batches. A server of openpi's, or of anybody's that
speaks its protocol, is asked one observation at a time and draws its own noise, which the record
says (``identity``). No answer is ever executed twice or in place of another: a query is sent again
on a new connection only when its answer is a function of the query (a server of this project, with
the same description as before) and did not arrive; otherwise a lost connection is the end, and what
was being played is played anew when the evaluation is started again. A server that answers with an
error closes the connection, by its protocol; then the next query opens another one.

Axes: B batch, H horizon, A model action dims, D = 14 robot dims.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from appliance.errors import PolicyRaisedError, PolicyServerError
from appliance.serving.messages import (
    ServerDescription,
    read_description,
    write_picture,
)
from appliance.serving.wire import MAX_MESSAGE_BYTES, WireError, decode, encode

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 600.0
"""A query may wait for the server's compilation of a large model."""

_FOREIGN_NOISE_DIMS = 32
_RETRY_PAUSE_S = 0.25
_FAREWELL_TIMEOUT_S = 2.0
_LARGEST_JSON_INTEGER = 2**53 - 1  # RFC 8785, section 3.2.2.3


class PolicyServerLostError(PolicyServerError):
    """The connection was lost, or no answer came in time."""


class RemotePolicy:
    """A policy on a server; connects when made, and is closed by ``close`` or a ``with`` block.

    ``action_horizon`` is how many actions of an answer are used: a server of somebody else's does
    not say how many it gives. Any number of threads may ask; they are answered one after the other.
    """

    def __init__(
        self,
        url: str,
        *,
        action_horizon: int,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        """Connect, waiting up to ``connect_timeout_s`` for a server that is starting.

        A query may take ``answer_timeout_s``, more than 0. Both are finite, 24 days at most.

        Raises PolicyServerError: no server there, or none of this protocol.
        """
        self.url = _check_url(url)
        self._connect_timeout_s = connect_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._max_message_bytes = max_message_bytes
        self._lock = threading.Lock()
        self._action_horizon = action_horizon
        self._is_lost = False
        self._closed = threading.Event()
        self._connection: ClientConnection | None = None
        self._closing = contextlib.ExitStack()
        self.reconnects = 0
        self.metadata = self._open()
        self.description: ServerDescription | None = read_description(self.metadata)

    @property
    def noise_is_controlled(self) -> bool:
        """Whether the actions start from the noise given to ``infer``."""
        return self.description is not None

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(H, A) of one observation's noise; for a server that draws its own, H is what is used."""
        if self.description is not None:
            return self.description.noise_shape
        return self._action_horizon, _FOREIGN_NOISE_DIMS

    def identity(self) -> dict[str, Any]:
        """What is asked, for a record: what the server says of itself, and whose the noise is.

        The address is not part of it: the same policy may be served elsewhere tomorrow.
        """
        if self.description is not None:
            policy = _to_plain(self.description.policy)
            return {**policy, "served": True, "noise": "controlled"}
        return {
            "server_metadata": _to_plain(self.metadata),
            "served": True,
            "noise": "the server's own, not controlled",
        }

    def infer(
        self, observations: Sequence[Mapping[str, Any]], noise_BxHxA: NDArray[np.float32], /
    ) -> NDArray[Any]:
        """Absolute joint targets [B, H, 14] as the server gave them; values are not checked.

        Raises PolicyRaisedError when the server answers a query with an error, be it the first:
        whether it ever answers another one is for the caller to judge; otherwise PolicyServerError.
        """
        with self._lock:
            if self.description is not None:
                step = self.description.max_batch
                parts = [
                    self._ask_batch(observations[at : at + step], noise_BxHxA[at : at + step])
                    for at in range(0, len(observations), step)
                ]
            else:
                parts = self._ask_one_by_one(observations)
        try:
            return np.concatenate(parts)
        except ValueError as error:
            raise PolicyRaisedError(
                f"{self.url}: the server answered observations of one shape with actions of"
                f" different ones ({error})."
            ) from error

    def close(self) -> None:
        """Close the connection for good; safe to call twice, and from another thread.

        A query that another thread is waiting for fails at once with PolicyServerError.
        """
        self._closed.set()
        connection = self._connection
        if connection is not None and self._lock.locked():
            # The server may be busy, or read nothing: a farewell would wait for it.
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
        self._disconnect()

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _ask_batch(
        self, observations: Sequence[Mapping[str, Any]], noise_BxHxA: NDArray[np.float32]
    ) -> NDArray[Any]:
        if len(observations) == 1:
            query = {**_to_message(observations[0]), "noise": noise_BxHxA[0]}
            return self._ask_again_if_lost(query)[None]
        items = [_to_message(observation) for observation in observations]
        return self._ask_again_if_lost({"observations": items, "noise": noise_BxHxA})

    def _ask_again_if_lost(self, query: Mapping[str, Any]) -> NDArray[Any]:
        """Ask a server whose answer is a function of the query; once more if it was lost."""
        data = encode(query)
        try:
            return self._exchange(data)
        except PolicyServerLostError as error:
            self._refuse_if_closed()
            logger.warning("%s Connecting again.", error)
            self._is_lost = False
            return self._exchange(data)

    def _ask_one_by_one(self, observations: Sequence[Mapping[str, Any]]) -> list[NDArray[Any]]:
        """The answers [1, H, 14]; an object that is there twice is asked for once."""
        answers: dict[int, NDArray[Any]] = {}
        for observation in observations:
            if id(observation) not in answers:
                answers[id(observation)] = self._ask_one(observation)[None]
        return [answers[id(observation)] for observation in observations]

    def _ask_one(self, observation: Mapping[str, Any]) -> NDArray[Any]:
        actions = self._exchange(encode(_to_message(observation)))
        enough = actions.ndim == 2 and len(actions) >= self._action_horizon
        return actions[: self._action_horizon] if enough else actions

    def _exchange(self, data: bytes) -> NDArray[Any]:
        if len(data) > self._max_message_bytes:
            raise PolicyServerError(
                f"{self.url}: a query of {len(data)} bytes is more than a message may hold"
                f" ({self._max_message_bytes}). Ask with fewer or smaller pictures."
            )
        connection = self._connected()
        try:
            connection.send(data)
            answer = connection.recv(self._answer_timeout_s)
        except TimeoutError as error:
            self._drop(is_lost=True)
            raise PolicyServerLostError(
                f"{self.url}: no answer within {self._answer_timeout_s:g} s."
            ) from error
        except (ConnectionClosed, OSError) as error:
            self._drop(is_lost=True)
            raise PolicyServerLostError(
                f"{self.url}: the policy server is gone ({_reason(error)})."
            ) from error
        return self._read_answer(answer)

    def _connected(self) -> ClientConnection:
        """The connection; a new one if the server closed the old one after an error."""
        self._refuse_if_closed()
        if self._is_lost:
            raise PolicyServerLostError(f"{self.url}: the policy server was lost before.")
        if self._connection is None:
            metadata = self._open()
            self.reconnects += 1
            if _to_plain(metadata) != _to_plain(self.metadata):
                self._drop(is_lost=True)
                raise PolicyServerError(
                    f"{self.url}: another policy is served there now than before. Serve the first"
                    " one again, or evaluate the new one into another folder."
                )
        assert self._connection is not None
        return self._connection

    def _drop(self, *, is_lost: bool) -> None:
        self._is_lost = is_lost
        self._disconnect()

    def _disconnect(self) -> None:
        self._connection = None
        self._closing.close()

    def _refuse_if_closed(self) -> None:
        if self._closed.is_set():
            raise PolicyServerError(
                f"{self.url}: the connection was closed on this side. Open another one to go on."
            )

    def _read_answer(self, answer: str | bytes) -> NDArray[Any]:
        if isinstance(answer, str):
            self._drop(is_lost=False)
            logger.info("%s answered with an error:\n%s", self.url, answer)
            last_line = (answer.strip().splitlines() or [""])[-1][:500]
            raise PolicyRaisedError(
                f"{self.url}: the policy server answered with an error: {last_line}"
            )
        try:
            message = decode(answer)
        except WireError as error:
            self._drop(is_lost=True)
            raise PolicyServerError(f"{self.url}: {error}") from error
        actions = message.get("actions") if isinstance(message, Mapping) else None
        if not isinstance(actions, np.ndarray):
            self._drop(is_lost=True)
            raise PolicyServerError(
                f"{self.url}: an answer without an array of actions. It is no server of openpi's"
                " protocol, or serves something that is not a policy."
            )
        return actions

    def _open(self) -> Mapping[str, Any]:
        """Connect and return the metadata; keeps trying while nobody listens there."""
        deadline_s = time.monotonic() + self._connect_timeout_s
        while True:
            left_s = max(deadline_s - time.monotonic(), _RETRY_PAUSE_S)
            try:
                return self._connect(left_s)
            except (ConnectionRefusedError, ConnectionResetError) as error:
                if time.monotonic() + _RETRY_PAUSE_S >= deadline_s:
                    raise PolicyServerError(
                        f"{self.url}: no policy server answered within"
                        f" {self._connect_timeout_s:g} s ({_reason(error)}). Start one with"
                        " `appliance serve`, or check the address."
                    ) from error
                self._closed.wait(_RETRY_PAUSE_S)
                self._refuse_if_closed()

    def _connect(self, timeout_s: float) -> Mapping[str, Any]:
        with contextlib.ExitStack() as opening:
            try:
                connection = opening.enter_context(
                    connect(
                        self.url,
                        compression=None,
                        max_size=self._max_message_bytes,
                        open_timeout=timeout_s,
                        close_timeout=_FAREWELL_TIMEOUT_S,
                        ping_interval=None,  # openpi's server answers no ping while it computes
                        proxy=None,
                    )
                )
                first = connection.recv(timeout_s)
                metadata = decode(first) if isinstance(first, bytes) else first
                read_description(metadata)
            except (ConnectionRefusedError, ConnectionResetError):
                raise
            except (OSError, WebSocketException, EOFError) as error:
                raise PolicyServerError(
                    f"{self.url}: no policy server there ({_reason(error)}). Check the address and"
                    " that a server of openpi's protocol runs there."
                ) from error
            except PolicyServerError as error:
                raise PolicyServerError(f"{self.url}: {error}") from error
            self._connection, self._closing = connection, opening.pop_all()
        if self._closed.is_set():
            self._disconnect()
        self._refuse_if_closed()
        assert isinstance(metadata, Mapping), "read_description refuses anything else"
        return dict(metadata)


def _check_url(url: str) -> str:
    """``url`` with its scheme; raises PolicyServerError when it is not an address of a server."""
    whole = url if "://" in url else f"ws://{url}"
    try:
        parts = urlsplit(whole)
        if parts.scheme in ("ws", "wss") and parts.hostname and parts.port != 0:
            return whole
    except ValueError:
        pass
    raise PolicyServerError(f"{url}: not an address of a policy server. Use ws://HOST:PORT.")


def _to_message(observation: Mapping[str, Any]) -> dict[str, Any]:
    images = {camera: write_picture(image) for camera, image in observation["images"].items()}
    return {
        "images": images,
        "state": np.asarray(observation["state"], dtype=np.float32),
        "prompt": observation["prompt"],
    }


def _to_plain(value: object) -> Any:
    """Metadata as JSON-able data, for a record."""
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _to_plain(value.tolist())
    is_plain = value is None or isinstance(value, str | bool)
    if isinstance(value, int):
        is_plain = abs(value) <= _LARGEST_JSON_INTEGER
    if isinstance(value, float):
        is_plain = bool(np.isfinite(value))
    return value if is_plain else str(value)


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
