from __future__ import annotations

import asyncio
import socket
import threading
import time
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
import websockets.sync.client
from numpy.testing import assert_array_equal
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from websockets.exceptions import ConnectionClosed, ConnectionClosedError

from appliance.errors import PolicyServerError
from appliance.serving.client import RemotePolicy
from appliance.serving.messages import read_description, write_picture
from appliance.serving.server import PolicyServer
from appliance.serving.service import PolicyService
from appliance.serving.wire import decode, encode
from appliance.streams import stream
from tests.serving.fakes import (
    DESCRIPTION,
    DIMS,
    HORIZON,
    LinearPolicy,
    act,
    make_noise,
    make_observation,
    running_server,
)


def openpi_client(url: str) -> WebsocketClientPolicy:
    host, _, port = url.rpartition(":")
    return WebsocketClientPolicy(host, int(port))


def openpi_observation(seed: int = 0) -> dict[str, object]:
    ours = make_observation(seed)
    images = {name: write_picture(image) for name, image in ours["images"].items()}
    return {**ours, "images": images}


# openpi-client opens its connection in a way that newer websockets only warn of.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:connect\(\) must be used as a context manager:DeprecationWarning"
)


def connect(url: str) -> websockets.sync.client.ClientConnection:
    return websockets.sync.client.connect(url, compression=None, proxy=None, legacy=True)


def test_openpis_unmodified_client_gets_metadata_and_actions() -> None:
    with running_server(seed=3) as url:
        client = openpi_client(url)
        assert read_description(client.get_server_metadata()) == DESCRIPTION
        assert client.get_server_metadata()["action_horizon"] == HORIZON
        for query in range(2):
            answer = client.infer(openpi_observation(query))
            noise = stream(3, "served_noise", query).standard_normal(
                (1, HORIZON, DIMS), dtype=np.float32
            )
            assert_array_equal(answer["actions"], act(make_observation(query), noise[0]))
            assert answer["actions"].dtype == np.float32
            assert answer["policy_timing"]["infer_ms"] >= 0
            assert answer["server_timing"]["infer_ms"] > 0
            assert ("prev_total_ms" in answer["server_timing"]) == (query > 0)


def test_openpis_action_chunks_are_played_step_by_step() -> None:
    with running_server() as url:
        chunks = ActionChunkBroker(openpi_client(url), action_horizon=HORIZON)
        steps = [chunks.infer(openpi_observation())["actions"] for _ in range(HORIZON)]
        whole = openpi_client(url).infer(openpi_observation())["actions"]
    assert_array_equal(np.stack(steps), whole)


def test_a_client_that_asks_the_same_on_a_new_connection_is_answered_the_same() -> None:
    with running_server() as url:
        answers = [openpi_client(url).infer(openpi_observation())["actions"] for _ in range(2)]
        client = openpi_client(url)
        for answer in (*answers, client.infer(openpi_observation())["actions"]):
            assert_array_equal(answer, answers[0])
        assert np.abs(client.infer(openpi_observation())["actions"] - answers[0]).max() > 0


def test_health_is_answered_while_the_policy_computes() -> None:
    policy = LinearPolicy()
    computing, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        computing.set()
        assert go_on.wait(60)

    policy.before_call = wait
    with running_server(policy) as url, RemotePolicy(url, action_horizon=1) as remote:
        asking = threading.Thread(target=remote.infer, args=([make_observation()], make_noise(1)))
        asking.start()
        try:
            assert computing.wait(60)
            address = url.replace("ws://", "http://") + "/healthz"
            with urllib.request.urlopen(address, timeout=60) as response:
                assert (response.status, response.read()) == (200, b"OK\n")
        finally:
            go_on.set()
            asking.join(60)


def test_an_observation_that_cannot_be_used_is_answered_with_text_and_a_closed_connection() -> None:
    with running_server() as url:
        client = openpi_client(url)
        with pytest.raises(RuntimeError, match="state: 14 numbers"):
            client.infer({**openpi_observation(), "state": np.zeros(3)})
        with pytest.raises(ConnectionClosedError) as closed:
            client.infer(openpi_observation())
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
        assert openpi_client(url).infer(openpi_observation())["actions"].shape == (HORIZON, 14)


def test_a_failing_policy_sends_its_traceback_and_serves_others() -> None:
    policy = LinearPolicy()

    def fail() -> None:
        raise ZeroDivisionError("in the policy")

    with running_server(policy) as url:
        bystander = openpi_client(url)
        policy.before_call = fail
        with pytest.raises(RuntimeError, match=r"(?s)Traceback .*fakes\.py.*in the policy"):
            openpi_client(url).infer(openpi_observation())
        policy.before_call = lambda: None
        assert bystander.infer(openpi_observation())["actions"].shape == (HORIZON, 14)


@pytest.mark.parametrize(
    "message",
    [
        b"\xc1",
        "text",
        encode([1, 2]),
        encode({"observations": []}),
        encode({"observations": [openpi_observation()] * 4}),
        encode({"observations": [openpi_observation(), {}]}),
        encode({**openpi_observation(), "noise": make_noise(1)}),
        encode({**openpi_observation(), "noise": 3}),
    ],
)
def test_no_message_brings_the_server_down(message: bytes | str) -> None:
    with running_server() as url:
        with connect(url) as connection:
            connection.recv(60)
            connection.send(message)
            answer = connection.recv(60)
            assert isinstance(answer, str)
            assert "Traceback" not in answer
            with pytest.raises(ConnectionClosed):
                connection.recv(60)
        assert openpi_client(url).infer(openpi_observation())["actions"].shape == (HORIZON, 14)


def test_a_bad_observation_in_a_batch_is_named_by_its_place() -> None:
    with running_server() as url, connect(url) as connection:
        connection.recv(60)
        connection.send(encode({"observations": [openpi_observation(), {"images": {}}]}))
        assert "observations[1].images: no picture of a camera" in str(connection.recv(60))


def test_a_policy_that_does_not_read_the_head_camera_is_served() -> None:
    description = replace(DESCRIPTION, cameras=("cam_left_wrist",))
    asked, noise = make_observation(cameras=description.cameras), make_noise(1)
    with running_server(description=description) as url:
        with RemotePolicy(url, action_horizon=HORIZON) as remote:
            assert_array_equal(remote.infer([asked], noise)[0], act(asked, noise[0]))
        with pytest.raises(RuntimeError, match=r"no picture of a camera .*: cam_left_wrist"):
            openpi_client(url).infer(openpi_observation())


def test_a_message_over_the_bound_is_refused_by_the_protocols_own_code() -> None:
    with running_server(max_message_bytes=1000) as url, connect(url) as connection:
        connection.recv(60)
        connection.send(bytes(1001))
        with pytest.raises(ConnectionClosedError) as closed:
            connection.recv(60)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


def test_whoever_speaks_no_websocket_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with running_server() as url:
        host, _, port = url.removeprefix("ws://").rpartition(":")
        with socket.create_connection((host, int(port))) as knock:
            knock.sendall(b"\x00\xff\r\n\r\n")
            knock.recv(100)
        assert openpi_client(url).infer(openpi_observation())["actions"].shape == (HORIZON, 14)
    assert "Traceback" not in caplog.text


def test_several_clients_at_once_get_their_own_answers() -> None:
    noise = make_noise(8)
    answers: dict[int, np.ndarray] = {}

    def ask(number: int, url: str) -> None:
        with RemotePolicy(url, action_horizon=1) as remote:
            for _ in range(5):
                (answers[number],) = remote.infer(
                    [make_observation(number)], noise[number : number + 1]
                )

    with running_server() as url:
        threads = [threading.Thread(target=ask, args=(number, url)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(answers) == 8
    for number, answer in answers.items():
        assert_array_equal(answer, act(make_observation(number), noise[number]))


def test_a_query_that_is_being_computed_is_answered_before_the_server_stops() -> None:
    policy = LinearPolicy()
    computing = threading.Event()

    def take_time() -> None:
        computing.set()
        time.sleep(0.5)

    policy.before_call = take_time
    answers = []
    with running_server(policy) as url:
        remote = RemotePolicy(url, action_horizon=1)
        asking = threading.Thread(
            target=lambda: answers.append(remote.infer([make_observation()], make_noise(1)))
        )
        asking.start()
        assert computing.wait(60)
    asking.join(60)
    assert_array_equal(answers[0][0], act(make_observation(), make_noise(1)[0]))
    remote.close()


def test_a_stopped_server_tells_idle_clients_that_it_goes_away() -> None:
    with running_server() as url:
        connection = connect(url)
        decode(connection.recv(60))
    with pytest.raises(ConnectionClosed) as closed:
        connection.recv(60)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001


def test_a_port_that_is_taken_is_a_clear_error() -> None:
    service = PolicyService(policy=LinearPolicy(), description=DESCRIPTION)
    with running_server() as url:
        port = int(url.rpartition(":")[2])

        async def serve_there() -> None:
            await PolicyServer(service).run("127.0.0.1", port, lambda host, port: None)

        with pytest.raises(PolicyServerError, match="no server can listen there"):
            asyncio.run(serve_there())
