"""`serve` and `evaluate` as a user runs them: processes, a real policy, the real simulator."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from openpi_client.websocket_client_policy import WebsocketClientPolicy

from appliance.policy.inference import load_policy
from appliance.serving.client import RemotePolicy
from appliance.streams import stream
from tests.conftest import ROOT, Appliance
from tests.serving.conftest import CONFIG, ServerProcess, make_norm_stats, serving

WriteManifest = Callable[..., Path]
TIMEOUT_S = 300
NOISE_SHAPE = (CONFIG.model.action_horizon, CONFIG.model.action_dim)


def make_aloha_observation(seed: int = 0) -> dict[str, Any]:
    """As openpi's own examples make one: every camera, 224 pixels, channels first."""
    generator = np.random.default_rng(seed)
    cameras = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
    return {
        "state": generator.normal(size=14),
        "images": {name: generator.integers(0, 256, (3, 224, 224), np.uint8) for name in cameras},
        "prompt": "touch the block",
    }


@pytest.mark.filterwarnings(r"ignore:connect\(\) must be used:DeprecationWarning")
def test_openpis_unmodified_client_gets_actions_of_a_checkpoint(
    server: ServerProcess, checkpoint: Path
) -> None:
    host, _, port = server.url.rpartition(":")
    sent = make_aloha_observation()
    client = WebsocketClientPolicy(host, int(port))
    answer = client.infer(sent)
    client._ws.close()  # it has no close of its own, and its pings would go on
    policy = load_policy(checkpoint / "params", CONFIG, make_norm_stats())
    item = {
        "images": {"cam_high": np.moveaxis(sent["images"]["cam_high"], 0, -1)},
        "state": sent["state"].astype(np.float32),
        "prompt": sent["prompt"],
    }
    noise = stream(0, "served_noise", 0).standard_normal((1, *NOISE_SHAPE), dtype=np.float32)
    expected = policy.infer([item], noise)[0]
    assert answer["actions"].shape == (16, 14)
    assert answer["actions"].dtype == np.float32
    assert_allclose(answer["actions"], expected, atol=1e-3)
    assert np.abs(expected - item["state"]).max() > 0.01


def test_a_served_policy_says_what_it_is(server: ServerProcess) -> None:
    assert server.policy["config"] == CONFIG.name
    assert server.policy["checkpoint"] == 7
    assert server.policy["params"].startswith("sha256-tree-v1:")
    assert server.policy["norm_stats"].startswith("sha256:")
    with RemotePolicy(server.url, action_horizon=16) as remote:
        assert remote.identity() == {**server.policy, "served": True, "noise": "controlled"}
        assert remote.noise_shape == NOISE_SHAPE


def test_a_query_has_the_same_bits_however_often_it_is_asked(server: ServerProcess) -> None:
    image = make_aloha_observation()["images"]["cam_high"]
    observation = {
        "images": {"cam_high": np.moveaxis(image, 0, -1)},
        "state": np.zeros(14, np.float32),
        "prompt": "x",
    }
    noise = np.ones((1, *NOISE_SHAPE), dtype=np.float32)
    answers = []
    for _ in range(2):
        with RemotePolicy(server.url, action_horizon=16) as remote:
            answers.append(remote.infer([observation], noise))
    assert_array_equal(answers[0], answers[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_stops_cleanly_when_told_to(checkpoint: Path, number: signal.Signals) -> None:
    with serving(checkpoint) as running:
        running.process.send_signal(number)
        _, err = running.process.communicate(timeout=120)
        assert running.process.returncode == 0
        assert err.strip() == "Stopped."


def test_a_taken_port_is_a_clear_error(appliance: Appliance, checkpoint: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = appliance(
            *("serve", "--port", str(port), "--checkpoint", checkpoint, "--config", CONFIG.name)
        )
    assert outcome.code == 19
    assert "no server can listen there" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["serve"], 2, "name one source of the policy"),
        (["serve", "--run-dir", "a", "--checkpoint", "b"], 2, "name one source"),
        (["serve", "--run-dir", "a", "--norm-stats", "b"], 2, "--norm-stats goes with"),
        (["serve", "--run-dir", "nowhere"], 30, "not a run folder"),
        (["serve", "--run-dir", "nowhere", "--config", "x"], 2, "names its own"),
        (["serve", "--checkpoint", "nowhere"], 2, "needs --config"),
        (["serve", "--checkpoint", "nowhere", "--config", "x"], 10, "'x' is no configuration"),
        (
            ["serve", "--checkpoint", "nowhere", "--config", CONFIG.name],
            14,
            "No numeric checkpoint",
        ),
        (["evaluate", "-o", "out"], 2, "name one source of the policy"),
        (["evaluate", "-o", "out", "--server", "ws://x"], 2, "name the MANIFEST"),
        (["evaluate", "--server", "ws://x"], 2, "--output"),
        (["evaluate", "-o", "out", "--server", "ws://x", "--step", "5"], 2, "--step goes with"),
        (["evaluate", "none.yaml", "-o", "out", "--server", "ws://x"], 10, "none.yaml"),
        *(
            (
                ["evaluate", "none.yaml", "-o", "out", "--connect-timeout", value],
                2,
                "Use 0 to 21474",
            )
            for value in ("inf", "nan", "-1", "1e10")
        ),
        *(
            (["evaluate", "none.yaml", "-o", "out", "--answer-timeout", value], 2, "more than 0")
            for value in ("inf", "nan", "-1", "1e10", "0")
        ),
    ],
)
def test_a_wrong_command_line_is_a_clear_error(
    appliance: Appliance, arguments: list[str], code: int, text: str
) -> None:
    outcome = appliance(*arguments)
    assert outcome.code == code, outcome.err
    assert text in outcome.err
    assert "Traceback" not in outcome.err


def test_a_checkpoint_without_statistics_of_its_own_asks_for_them(
    appliance: Appliance, tmp_path: Path
) -> None:
    (tmp_path / "3" / "params").mkdir(parents=True)
    outcome = appliance("serve", "--checkpoint", tmp_path / "3", "--config", CONFIG.name)
    assert outcome.code == 13
    assert "--norm-stats" in outcome.err


def write_short_manifest(write_manifest: WriteManifest, episodes: int) -> Path:
    seeds = [100000, 100001, 100003][:episodes]
    return write_manifest(
        ("  episodes: 2\n", f"  episodes: {episodes}\n  trials: {seeds}\n  video: false\n"),
    )


def evaluate_command(manifest: Path, output: Path, *source: str) -> list[str]:
    command = [sys.executable, "-m", "appliance", "evaluate", str(manifest), "--json"]
    return [*command, "--output", str(output), *source]


def run_command(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def read_episodes(output: Path) -> list[dict[str, Any]]:
    lines = (output / "content" / "episodes.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def local_evaluation(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], Path]:
    """The same evaluation in one process, made once."""
    output = tmp_path_factory.mktemp("local") / "out"

    def evaluate(manifest: Path) -> Path:
        if not output.exists():
            done = run_command(evaluate_command(manifest, output, "--checkpoint", str(checkpoint)))
            assert done.returncode == 0, done.stderr
        return output

    return evaluate


@pytest.mark.slow
def test_the_driver_scores_a_policy_of_another_process_as_it_scores_its_own(
    server: ServerProcess,
    write_manifest: WriteManifest,
    local_evaluation: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    manifest = write_short_manifest(write_manifest, 2)
    done = run_command(evaluate_command(manifest, tmp_path / "out", "--server", server.url))
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    local = local_evaluation(manifest)
    episodes = (tmp_path / "out" / "content" / "episodes.jsonl").read_bytes()
    assert episodes == (local / "content" / "episodes.jsonl").read_bytes()
    assert [row["seed"] for row in read_episodes(local)] == [100000, 100001]
    assert all(row["steps"] > 0 and row["actions_sha256"] for row in read_episodes(local))
    assert metrics["policy"] == {**server.policy, "served": True, "noise": "controlled"}
    ours = json.loads((local / "content" / "metrics.json").read_text())
    assert ours["policy"] == server.policy
    assert {**metrics, "policy": None} == {**ours, "policy": None}


@pytest.mark.slow
def test_an_evaluation_whose_server_is_killed_goes_on_when_it_is_back(
    checkpoint: Path,
    write_manifest: WriteManifest,
    local_evaluation: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    manifest = write_short_manifest(write_manifest, 2)
    output = tmp_path / "out"
    journal = output / "observed" / "journal.jsonl"
    with serving(checkpoint) as running:
        command = evaluate_command(manifest, output, "--server", running.url)
        evaluating = subprocess.Popen(
            [*command, "--workers", "1", "--connect-timeout", "1"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline_s = time.monotonic() + TIMEOUT_S
        while not (journal.is_file() and '"kind": "episode"' in journal.read_text()):
            assert evaluating.poll() is None, evaluating.communicate()
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        os.kill(running.process.pid, signal.SIGKILL)
        _, err = evaluating.communicate(timeout=TIMEOUT_S)
    assert evaluating.returncode == 19, err
    assert "no policy server answered" in err
    assert "Traceback" not in err
    assert not (output / "content" / "metrics.json").exists()
    with serving(checkpoint, "--port", running.url.rpartition(":")[2]):
        done = run_command(command)
    assert done.returncode == 0, done.stderr
    connections = json.loads((output / "observed" / "connections.json").read_text())
    assert connections == [{"url": running.url, "reconnects": 0}] * 2
    local = local_evaluation(manifest) / "content" / "episodes.jsonl"
    assert (output / "content" / "episodes.jsonl").read_bytes() == local.read_bytes()
