"""What is said of an engine that fails or refuses; tests/golden/docker runs a real one."""

from __future__ import annotations

import io
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from appliance.digest import sha256_bytes
from appliance.engine import container, daemon
from appliance.engine.container import (
    PYTHON,
    StageContainer,
    read_from_image,
    run_stage_container,
)
from appliance.engine.daemon import connected, find_image
from appliance.engine.image_files import read_image_files
from appliance.engine.isolation import GIB, READER_LABEL, Exposure, Limits
from appliance.engine.probe import probe_engine
from appliance.errors import (
    ImageError,
    OutOfMemoryError,
    RuntimeMissingError,
    StageFailedError,
)
from appliance.files import write_json
from tests.engine.stand_in_engine import NAME, SAID, Answer, Asked, refusal, stand_in_engine

IMAGE = "some-image"
NO_PROGRAM = (
    f'failed to create task for container: unable to start container process: exec: "{PYTHON}":'
    f" stat {PYTHON}: no such file or directory: unknown"
)
StartEngine = Callable[..., Asked]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartEngine]:
    """Start a stand-in engine with changed answers; what it was asked."""
    with ExitStack() as ended:

        def start(**changes: Answer) -> Asked:
            (tmp_path / "engine.sock").unlink(missing_ok=True)
            monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine.sock")
            return ended.enter_context(stand_in_engine(tmp_path / "engine.sock", **changes))

        yield start


@pytest.fixture
def request_(tmp_path: Path) -> StageContainer:
    (tmp_path / "run").mkdir()
    return StageContainer(
        image_id=IMAGE,
        exposure=Exposure(run_dir=tmp_path / "run", inputs=(), hidden=()),
        limits=Limits(memory_bytes=1 << 30, cpus=1.0, pids=64, gpus=0),
        environment={},
        claim=tmp_path / "run" / ".busy",
    )


def ended(code: int, *, oom: bool) -> dict[str, Answer]:
    """The answers on a container that ended so."""
    state = {"OOMKilled": oom, "ExitCode": code}
    return {
        "wait": (200, {"StatusCode": code}),
        "json": (200, {"Config": {"Tty": False}, "State": state}),
    }


def test_what_a_stage_says_is_passed_on_and_its_container_removed(
    engine: StartEngine, request_: StageContainer
) -> None:
    asked = engine(**ended(11, oom=False))
    said = io.BytesIO()
    assert run_stage_container("plan", request_, output=said) == 11
    assert said.getvalue() == SAID
    assert asked[-1] == f"DELETE /containers/{NAME}"


def test_in_a_rootless_engine_the_caller_is_root_and_remapped_ids_are_refused(
    engine: StartEngine, request_: StageContainer, tmp_path: Path
) -> None:
    asked = engine(info=(200, {"SecurityOptions": ["name=seccomp", "name=rootless"]}))
    assert run_stage_container("plan", request_, output=io.BytesIO()) == 0
    assert [each["User"] for each in asked.created] == ["0:0"]
    asked = engine(info=(200, {"SecurityOptions": ["name=userns"]}))
    with pytest.raises(RuntimeMissingError, match="userns-remap"):
        run_stage_container("plan", request_, output=io.BytesIO())
    assert asked.created == []


def test_a_context_of_the_docker_command_line_is_not_followed(
    engine: StartEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Building, too, asks the daemon that runs will use."""
    engine()
    monkeypatch.setattr(daemon, "DEFAULT_HOST", os.environ["DOCKER_HOST"])
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
    context = tmp_path / "contexts" / "meta" / sha256_bytes(b"elsewhere") / "meta.json"
    endpoints = {"docker": {"Host": f"unix://{tmp_path}/none.sock"}}
    write_json(context, {"Name": "elsewhere", "Metadata": {}, "Endpoints": endpoints})
    (tmp_path / "config.json").write_text('{"currentContext": "elsewhere"}')
    assert probe_engine().num_cpus == 2


def test_a_stage_that_succeeded_is_no_failure_though_a_process_of_it_ran_out_of_memory(
    engine: StartEngine, request_: StageContainer, caplog: pytest.LogCaptureFixture
) -> None:
    engine(**ended(0, oom=True))
    with caplog.at_level(logging.WARNING):
        assert run_stage_container("evaluate", request_, output=io.BytesIO()) == 0
    assert "stage evaluate" in caplog.text
    assert "1.00 GiB" in caplog.text


def test_a_stage_that_failed_for_want_of_memory_is_told_so(
    engine: StartEngine, request_: StageContainer, caplog: pytest.LogCaptureFixture
) -> None:
    engine(**ended(137, oom=True))
    with pytest.raises(OutOfMemoryError, match=r"runtime\.memory_gib"):
        run_stage_container("train", request_, output=io.BytesIO())
    assert caplog.text == ""


@pytest.mark.parametrize("call", ["create", "start"])
def test_an_engine_that_refuses_is_not_said_to_be_stopped(
    engine: StartEngine, request_: StageContainer, call: str
) -> None:
    engine(**{call: refusal("range of CPUs is from 0.01 to 2.00")})
    with pytest.raises(StageFailedError, match=r"refused .*range of CPUs .*runtime part") as caught:
        run_stage_container("train", request_, output=io.BytesIO())
    assert "start it" not in str(caught.value)
    assert "http" not in str(caught.value)


@pytest.mark.parametrize("answer", [refusal("a plugin is gone", 500), None])
@pytest.mark.parametrize("call", ["create", "start", "wait"])
def test_an_engine_that_fails_or_hangs_up_may_have_been_stopped(
    engine: StartEngine, request_: StageContainer, call: str, answer: Answer
) -> None:
    engine(**{call: answer})
    with pytest.raises(StageFailedError, match=r"container engine failed .*start it"):
        run_stage_container("train", request_, output=io.BytesIO())


def test_an_image_without_the_entry_program_is_another_image(
    engine: StartEngine, request_: StageContainer
) -> None:
    engine(start=refusal(NO_PROGRAM))
    for run in (
        lambda: run_stage_container("plan", request_, output=io.BytesIO()),
        lambda: read_from_image(IMAGE, ["-m", "appliance.stages.inventory"]),
    ):
        with pytest.raises(ImageError, match=f"{IMAGE} cannot run {PYTHON} .*runtime.image"):
            run()


def test_what_reads_an_image_is_limited_and_labelled(engine: StartEngine) -> None:
    """The image may be anything a manifest names."""
    asked = engine(image=(200, {"Id": "sha256:1"}))
    read_from_image(IMAGE, ["-m", "appliance.stages.inventory"])
    with suppress(StageFailedError):  # the stand-in exports nothing
        read_image_files("image")
    assert [each["Labels"] for each in asked.created] == [{READER_LABEL: ""}] * 2
    host = asked.created[0]["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 2 * GIB
    assert host["NanoCpus"] == 1_000_000_000
    assert 0 < host["PidsLimit"] <= 1024
    assert host["Init"] is True
    assert host["LogConfig"]["Config"] == {"max-size": str(32 << 20), "max-file": "1"}
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["CapDrop"]) == ("none", True, ["ALL"])
    assert not host.get("Mounts")
    assert not host.get("Binds")
    assert asked[-1] == f"DELETE /containers/{NAME}"


def test_an_image_that_never_answers_is_not_waited_for(
    engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = engine(json=(200, {"State": {"Running": True, "ExitCode": 0}}))
    monkeypatch.setattr(container, "_READER_LIMIT_S", 0.3)
    with pytest.raises(ImageError, match=rf"{IMAGE} has not said within 0\.3 s .*runtime\.image"):
        read_from_image(IMAGE, ["-m", "appliance.stages.inventory"])
    assert asked[-1] == f"DELETE /containers/{NAME}"


def test_what_a_killed_call_left_of_reading_an_image_is_removed_later(
    engine: StartEngine,
) -> None:
    now = time.time()
    there = [{"Id": "old", "Created": int(now - 1e5)}, {"Id": "another's", "Created": int(now)}]
    asked = engine(**{"containers/json": (200, there)})
    read_from_image(IMAGE, ["-m", "appliance.stages.inventory"])
    removed = [line for line in asked if line.startswith("DELETE")]
    assert removed == ["DELETE /containers/old", f"DELETE /containers/{NAME}"]


class Closed(io.BytesIO):
    """An output whose reader is gone."""

    def write(self, data: Any) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_closed_output_is_not_the_engines_failure(
    engine: StartEngine, request_: StageContainer
) -> None:
    asked = engine()
    with pytest.raises(BrokenPipeError):
        run_stage_container("train", request_, output=Closed())
    assert asked[-1] == f"DELETE /containers/{NAME}"


@pytest.mark.parametrize("answer", [refusal("the store is damaged", 500), None])
def test_an_engine_that_fails_before_any_stage_ends_in_its_own_error(
    engine: StartEngine, answer: Answer
) -> None:
    engine(image=answer, info=answer)
    with connected() as client, pytest.raises(StageFailedError, match="looking for the image"):
        find_image(client, "image", None)
    with pytest.raises(StageFailedError, match="telling what it is"):
        probe_engine()


def test_an_image_name_the_engine_refuses_is_named(engine: StartEngine) -> None:
    engine(image=refusal("invalid reference format"))
    expected = r"runtime\.image: image: invalid reference format\."
    with connected() as client, pytest.raises(ImageError, match=expected):
        find_image(client, "image", None)


ID, PIN, OTHER = (f"sha256:{digit * 64}" for digit in "123")


@pytest.mark.parametrize("pin", [PIN, ID])
def test_an_image_that_was_pulled_by_its_pin_is_found_again_without_a_registry(
    engine: StartEngine, pin: str
) -> None:
    """An engine keeps no tag of it."""
    name = "repo.org:5000/a/policy"
    found = {"Id": ID, "RepoDigests": [f"elsewhere/policy@{OTHER}", f"{name}@{PIN}"]}
    asked = engine(**dict.fromkeys((f"{name}@{PIN}", ID), (200, found)))
    with connected() as client:
        image = find_image(client, f"{name}:v1", pin)
    assert (image.id, image.digest) == (ID, PIN)
    assert not any("/images/create" in line for line in asked)


@pytest.mark.parametrize(
    ("name", "digests", "expected"),
    [
        ("a/policy:v1", [f"b/policy@{OTHER}", f"a/policy@{PIN}"], PIN),
        ("docker.io/library/policy", [f"b/policy@{OTHER}", f"policy@{PIN}"], PIN),
        ("h.org:5000/policy", [f"policy@{OTHER}", f"h.org:5000/policy@{PIN}"], PIN),
        ("a/policy:v1", [f"b/policy@{OTHER}"], None),
        ("a/policy:v1", [f"a/policy@{ID}"], ID),
        ("plan-star-appliance:cpu", [f"plan-star-appliance@{ID}"], None),  # containerd's store
        ("plan-star-appliance:cpu", [f"plan-star-appliance@{PIN}"], PIN),
        ("a/policy:v1", [], None),
    ],
)
def test_the_registry_digest_is_that_of_the_name_and_no_id_of_an_image_built_here(
    engine: StartEngine, name: str, digests: list[str], expected: str | None
) -> None:
    engine(**{name: (200, {"Id": ID, "RepoDigests": digests})})
    with connected() as client:
        assert find_image(client, name, None).digest == expected


def test_the_engine_says_what_its_machine_has(engine: StartEngine) -> None:
    engine()
    facts = probe_engine()
    assert (facts.num_cpus, facts.memory_bytes, facts.has_gpu_runtime) == (2, 8 << 30, False)
