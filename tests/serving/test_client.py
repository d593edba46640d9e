from __future__ import annotations

import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from appliance.cli.options import LONGEST_TIMEOUT_S
from appliance.digest import canonical_json
from appliance.errors import PolicyRaisedError, PolicyServerError
from appliance.serving.client import PolicyServerLostError, RemotePolicy
from appliance.serving.service import PolicyService
from tests.serving.fakes import (
    DESCRIPTION,
    DIMS,
    HORIZON,
    LinearPolicy,
    act,
    foreign_server,
    make_noise,
    make_observation,
    running_server,
)

CAMERAS = ("cam_high", "cam_left_wrist")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def open_policy(url: str, **changes: Any) -> RemotePolicy:
    options = {"action_horizon": HORIZON, "connect_timeout_s": 30, "answer_timeout_s": 30}
    return RemotePolicy(url, **{**options, **changes})


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_remote_policy_answers_as_the_policy_behind_it(count: int) -> None:
    observations = [make_observation(number, cameras=CAMERAS) for number in range(count)]
    noise = make_noise(count)
    policy = LinearPolicy()
    with running_server(policy) as url, open_policy(url) as remote:
        answer = remote.infer(observations, noise)
    assert_array_equal(answer, LinearPolicy().infer(observations, noise))
    assert [len(call) for call in policy.calls] == [3] * (count // 3) + [count % 3] * (
        count % 3 > 0
    )


def test_a_remote_policy_says_what_it_is_and_whose_the_noise_is() -> None:
    with running_server() as url, open_policy(url) as remote:
        assert remote.noise_shape == (HORIZON, DIMS)
        assert remote.noise_is_controlled
        assert remote.identity() == {
            **DESCRIPTION.policy,
            "served": True,
            "noise": "controlled",
        }
        assert "127.0.0.1" not in str(remote.identity())


def test_a_foreign_server_is_asked_one_by_one_without_our_keys() -> None:
    asked: list[Any] = []

    def answer(message: Any) -> Any:
        asked.append(message)
        return {"actions": np.full((HORIZON + 2, 14), len(asked)), "server_timing": {}}

    metadata = {"reset_pose": [0.0, -1.5], "note": np.float32(2)}
    with foreign_server(answer, metadata=metadata) as url, open_policy(url) as remote:
        first, second = make_observation(1), make_observation(2)
        answers = remote.infer([first, second, first], make_noise(3))
        identity = remote.identity()
        assert not remote.noise_is_controlled
    assert answers.shape == (3, HORIZON, 14)
    assert [each[0, 0] for each in answers] == [1, 2, 1]
    assert [set(message) for message in asked] == [{"images", "state", "prompt"}] * 2
    assert_array_equal(
        asked[0]["images"]["cam_high"].transpose(1, 2, 0), first["images"]["cam_high"]
    )
    assert identity["noise"] == "the server's own, not controlled"
    assert identity["server_metadata"] == {"reset_pose": [0.0, -1.5], "note": 2.0}


def test_whatever_a_server_says_of_itself_can_be_recorded() -> None:
    said = {
        "nan": float("nan"),
        "large": 2**63,
        "bytes": b"\x00",
        "array": np.arange(3),
        "deep": [{"x": (1, None, True)}],
    }
    described = dataclasses.replace(DESCRIPTION, policy=said).to_metadata()
    for metadata in (said, described):
        with foreign_server(lambda message: {}, metadata=metadata) as url:
            remote = open_policy(url)
            identity = json.loads(canonical_json(remote.identity()))
            remote.close()
        plain = identity.get("server_metadata", identity)
        assert plain["array"] == [0, 1, 2]
        assert plain["large"] == str(2**63)


def test_a_client_waits_for_a_server_that_is_starting() -> None:
    port = free_port()
    answers = []

    def ask() -> None:
        with open_policy(f"127.0.0.1:{port}", connect_timeout_s=20) as remote:
            answers.append(remote.infer([make_observation()], make_noise(1)))

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.6)
    with running_server(port=port):
        asking.join(20)
    assert_array_equal(answers[0][0], act(make_observation(), make_noise(1)[0]))


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("ws://127.0.0.1:{port}", "no policy server answered within 1 s"),
        ("http://127.0.0.1:{port}", "not an address"),
        ("ws://", "not an address"),
        ("ws://127.0.0.1:99999", "not an address"),
        ("ws://[::1", "not an address"),
        ("", "not an address"),
        ("ws://no-such-host.invalid:1", "no policy server there"),
    ],
)
def test_no_server_is_a_clear_error(url: str, text: str) -> None:
    with pytest.raises(PolicyServerError, match=text):
        open_policy(url.format(port=free_port()), connect_timeout_s=1)


def test_a_listener_that_says_nothing_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"ws://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(PolicyServerError, match="no policy server there"):
            open_policy(url, connect_timeout_s=0.5)


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ("hello", "is a str, not a map"),
        (b"\xc1", "not msgpack"),
        ([1, 2], "is a list, not a map"),
        ({"appliance": {"protocol": 99}}, "speaks version 99"),
    ],
)
def test_a_server_of_another_protocol_is_a_clear_error(metadata: Any, text: str) -> None:
    with (
        foreign_server(lambda message: {}, metadata=metadata) as url,
        pytest.raises(PolicyServerError, match=text),
    ):
        open_policy(url)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"actions": [1.0]}, "without an array of actions"),
        ({"action": np.zeros((HORIZON, 14))}, "without an array of actions"),
        ([1], "without an array of actions"),
        (b"\xc1", "not msgpack"),
    ],
)
def test_an_answer_without_actions_is_the_end_with_a_clear_error(answer: Any, text: str) -> None:
    with (
        foreign_server(lambda message: answer) as url,
        open_policy(url) as remote,
        pytest.raises(PolicyServerError, match=text) as raised,
    ):
        remote.infer([make_observation()], make_noise(1))
    assert not isinstance(raised.value, PolicyRaisedError)


def in_turn(*answers: Any) -> Callable[[Any], Any]:
    left = list(answers)

    def answer(message: Any) -> Any:
        value = left.pop(0)
        if isinstance(value, Exception):
            raise value
        return value

    return answer


GOOD = {"actions": np.ones((HORIZON, 14))}


@pytest.mark.parametrize("shape", [(2, 14), (HORIZON, 7), (14,)])
@pytest.mark.parametrize("before", [(), (GOOD,)], ids=["first", "later"])
def test_an_answer_of_another_shape_is_the_episodes_affair(
    before: tuple[Any, ...], shape: tuple[int, ...]
) -> None:
    answers = in_turn(*before, {"actions": np.zeros(shape)})
    with foreign_server(answers) as url, open_policy(url) as remote:
        for _ in before:
            remote.infer([make_observation()], make_noise(1))
        assert remote.infer([make_observation()], make_noise(1)).shape == (1, *shape)


@pytest.mark.parametrize("before", [(), (GOOD,)], ids=["first", "later"])
def test_an_error_of_the_server_is_the_episodes_affair_and_the_next_query_is_answered(
    before: tuple[Any, ...],
) -> None:
    answers = in_turn(*before, "Traceback ...\nValueError: prompt too long", GOOD)
    with foreign_server(answers) as url, open_policy(url) as remote:
        for _ in before:
            remote.infer([make_observation()], make_noise(1))
        with pytest.raises(PolicyRaisedError, match="with an error: ValueError: prompt too long"):
            remote.infer([make_observation()], make_noise(1))
        assert remote.infer([make_observation()], make_noise(1)).shape == (1, HORIZON, 14)
        assert remote.reconnects == 1


def test_a_lost_foreign_server_is_never_asked_again() -> None:
    answers = in_turn(GOOD, ConnectionAbortedError(), GOOD)
    with foreign_server(answers) as url, open_policy(url) as remote:
        remote.infer([make_observation()], make_noise(1))
        for _ in range(2):
            with pytest.raises(PolicyServerLostError):
                remote.infer([make_observation()], make_noise(1))
        assert remote.reconnects == 0


def test_a_lost_server_of_ours_is_asked_the_same_again_when_it_is_back() -> None:
    port, noise = free_port(), make_noise(1)
    observation = make_observation(4)
    with running_server(port=port) as url:
        remote = open_policy(url, connect_timeout_s=20)
        first = remote.infer([observation], noise)
    with running_server(port=port):
        second = remote.infer([observation], noise)
        assert remote.reconnects == 1
    remote.close()
    assert_array_equal(second, first)


def test_another_policy_in_the_place_of_the_lost_one_is_refused() -> None:
    port = free_port()
    with running_server(port=port) as url:
        remote = open_policy(url, connect_timeout_s=20)
        remote.infer([make_observation()], make_noise(1))
    other = dataclasses.replace(DESCRIPTION, policy={"config": "fake", "checkpoint": 8})
    with (
        running_server(port=port, description=other),
        pytest.raises(PolicyServerError, match="another policy is served there now"),
    ):
        remote.infer([make_observation()], make_noise(1))
    remote.close()


def test_a_server_of_ours_that_does_not_come_back_is_a_clear_error() -> None:
    with running_server() as url:
        remote = open_policy(url, connect_timeout_s=0.5)
        remote.infer([make_observation()], make_noise(1))
    with pytest.raises(PolicyServerError, match=r"no policy server answered within 0.5 s"):
        remote.infer([make_observation()], make_noise(1))
    remote.close()


def test_a_server_that_hangs_is_given_up_in_time() -> None:
    go_on = threading.Event()

    def hang(message: Any) -> Any:
        go_on.wait(60)
        return GOOD

    with foreign_server(hang) as url:
        remote = open_policy(url, answer_timeout_s=0.3)
        began_s = time.monotonic()
        try:
            with pytest.raises(PolicyServerLostError, match=r"no answer within 0\.3 s"):
                remote.infer([make_observation()], make_noise(1))
        finally:
            go_on.set()
        assert time.monotonic() - began_s < 45
        remote.close()


def test_closing_wakes_who_waits_for_an_answer_and_the_query_is_not_sent_again() -> None:
    policy, asked, go_on = LinearPolicy(), threading.Event(), threading.Event()

    def hang() -> None:
        asked.set()
        go_on.wait(60)

    policy.before_call = hang
    raised: list[Exception] = []

    def ask() -> None:
        try:
            remote.infer([make_observation()], make_noise(1))
        except PolicyServerError as error:
            raised.append(error)

    with running_server(policy) as url:
        remote = open_policy(url, answer_timeout_s=60)
        asking = threading.Thread(target=ask)
        asking.start()
        try:
            assert asked.wait(30)
            remote.close()
            asking.join(30)
            assert not asking.is_alive()
        finally:
            go_on.set()
    assert "closed on this side" in str(raised[0])
    assert (remote.reconnects, len(policy.calls)) == (0, 1)


def test_closing_ends_the_search_for_a_server_that_is_gone() -> None:
    with running_server() as url:
        remote = open_policy(url, connect_timeout_s=60)
    closing = threading.Timer(1, remote.close)
    closing.start()
    began_s = time.monotonic()
    with pytest.raises(PolicyServerError, match="closed on this side"):
        remote.infer([make_observation()], make_noise(1))
    assert time.monotonic() - began_s < 45
    closing.join()


def test_a_closed_remote_policy_stays_closed() -> None:
    with running_server() as url:
        remote = open_policy(url)
        remote.close()
        remote.close()
        with pytest.raises(PolicyServerError, match=r"closed on this side.*Open another"):
            remote.infer([make_observation()], make_noise(1))


def test_the_longest_time_that_can_be_asked_for_is_one_that_can_be_waited() -> None:
    longest_s = float(LONGEST_TIMEOUT_S)
    with (
        running_server() as url,
        open_policy(url, connect_timeout_s=longest_s, answer_timeout_s=longest_s) as remote,
    ):
        assert remote.infer([make_observation()], make_noise(1)).shape == (1, HORIZON, 14)


def test_a_query_over_the_bound_is_refused_before_it_is_sent() -> None:
    with (
        running_server() as url,
        open_policy(url, max_message_bytes=500) as remote,
        pytest.raises(PolicyServerError, match="more than a message may hold"),
    ):
        remote.infer([make_observation(cameras=CAMERAS)], make_noise(1))


def test_a_policy_of_ours_that_raises_ends_the_query_and_no_other() -> None:
    policy = LinearPolicy()
    with running_server(policy) as url, open_policy(url) as remote:
        first = remote.infer([make_observation()], make_noise(1))

        def fail() -> None:
            raise ZeroDivisionError("by nothing")

        policy.before_call = fail
        with pytest.raises(PolicyRaisedError, match="ZeroDivisionError: by nothing"):
            remote.infer([make_observation()], make_noise(1))
        policy.before_call = lambda: None
        assert_array_equal(remote.infer([make_observation()], make_noise(1)), first)


def test_warming_up_asks_the_policy_with_what_it_reads() -> None:
    policy = LinearPolicy()
    PolicyService(policy=policy, description=DESCRIPTION).warm_up()
    ((observation,),) = policy.calls
    assert {name: image.shape for name, image in observation["images"].items()} == {
        "cam_high": (6, 8, 3),
        "cam_left_wrist": (6, 8, 3),
    }
