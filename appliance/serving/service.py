"""What a policy server does with one message, without a network: read, ask the policy, answer.

Axes: B batch, H horizon, A model action dims.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from appliance.serving.messages import (
    STATE_DIMS,
    ObservationError,
    ServerDescription,
    read_noise,
    read_observation,
)
from appliance.streams import stream


class ServedPolicy(Protocol):
    """A policy as ``appliance.policy.inference.Policy`` is one; equal inputs, equal actions."""

    def infer(
        self, observations: Sequence[Mapping[str, Any]], noise_BxHxA: NDArray[np.float32], /
    ) -> NDArray[np.float32]:
        """Absolute joint targets BxHx14 for ``{"images", "state", "prompt"}`` items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyService:
    """A policy, what is said of it, and what it does where a client leaves something open.

    Without noise of the client's, query n of a connection starts from the stream
    (``seed``, "served_noise", n), so that a client that asks the same on a new connection is
    answered the same. ``default_prompt`` stands in for a prompt that is not sent.
    """

    policy: ServedPolicy
    description: ServerDescription
    seed: int = 0
    default_prompt: str | None = None

    def answer(self, message: object, query: int) -> dict[str, Any]:
        """The answer to query number ``query`` of a connection.

        One observation is answered with ``actions`` [H, 14], ``observations`` with [B, H, 14];
        ``policy_timing`` holds the milliseconds, as openpi's server has it. Raises
        ObservationError.
        """
        if not isinstance(message, Mapping):
            raise ObservationError(f"A query is a map, not a {type(message).__name__}.")
        began_s = time.monotonic()
        noise = message.get("noise")
        if "observations" in message:
            observations = self._read_batch(message["observations"])
            noise_BxHxA = self._noise(noise, len(observations), query)
            actions = self.policy.infer(observations, noise_BxHxA)
        else:
            observation = self._read(message)
            if isinstance(noise, np.ndarray):
                noise = noise[None]
            actions = self.policy.infer([observation], self._noise(noise, 1, query))[0]
        return {
            "actions": actions,
            "policy_timing": {"infer_ms": 1000 * (time.monotonic() - began_s)},
        }

    def warm_up(self) -> None:
        """Ask the policy once, so that the first client does not wait for compilation."""
        rows, columns = self.description.image_size
        black = np.zeros((rows, columns, 3), dtype=np.uint8)
        observation = {
            "images": dict.fromkeys(self.description.cameras, black),
            "state": np.zeros(STATE_DIMS, dtype=np.float32),
            "prompt": "warm up",
        }
        self.policy.infer(
            [observation], np.zeros((1, *self.description.noise_shape), dtype=np.float32)
        )

    def _read(self, item: object) -> dict[str, Any]:
        return read_observation(
            item, cameras=self.description.cameras, default_prompt=self.default_prompt
        )

    def _read_batch(self, items: object) -> list[dict[str, Any]]:
        most = self.description.max_batch
        if not isinstance(items, list) or not 1 <= len(items) <= most:
            raise ObservationError(f"observations: a list of 1 to {most} observations.")
        observations = []
        for number, item in enumerate(items):
            try:
                observations.append(self._read(item))
            except ObservationError as error:
                raise ObservationError(f"observations[{number}].{error}") from error
        return observations

    def _noise(self, value: object, count: int, query: int) -> NDArray[np.float32]:
        shape = (count, *self.description.noise_shape)
        if value is not None:
            return read_noise(value, shape)
        generator = stream(self.seed, "served_noise", query)
        return generator.standard_normal(shape, dtype=np.float32)
