"""Building and comparing images, as far as no engine is needed."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.engine import build
from appliance.engine.build import BuildRequest, build_command, build_image, find_builder
from appliance.engine.daemon import DEFAULT_HOST
from appliance.engine.image_files import ImageFiles, digest_archive, list_differences
from appliance.engine.watch import run_is_alive
from appliance.errors import ImageError, RuntimeMissingError
from appliance.stages.run_folder import RunFolder
from tests.conftest import ROOT, Appliance


def archive(*entries: tuple[str, str, int]) -> dict[str, str]:
    """What is said of a tar of (path, content, time); a "-> x" content is a link."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for path, content, moment in entries:
            entry = tarfile.TarInfo(path)
            entry.mtime = moment
            if content.startswith("-> "):
                entry.type, entry.linkname = tarfile.SYMTYPE, content[3:]
                tar.addfile(entry)
            else:
                data = content.encode()
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return dict(digest_archive(io.BytesIO(stream.getvalue())))


def image(*entries: tuple[str, str, int]) -> ImageFiles:
    return ImageFiles(name="a", id="sha256:0", files=archive(*entries))


def test_times_and_order_and_the_engines_own_files_do_not_count() -> None:
    first = image(("a", "1", 5), ("b", "2", 5), ("etc/hosts", "x", 5))
    second = image(("b", "2", 9), ("a", "1", 9), (".dockerenv", "", 9))
    assert first.digest == second.digest
    assert list_differences(first, second) == []


@pytest.mark.parametrize("other", ["2", "-> 1", "-> elsewhere"])
def test_a_changed_file_or_link_is_named(other: str) -> None:
    differences = list_differences(image(("a", "1", 0)), image(("a", other, 0)))
    assert [line.partition(":")[0] for line in differences] == ["a"]


def test_a_file_only_one_image_has_is_named() -> None:
    differences = list_differences(image(("a", "1", 0)), image(("a", "1", 0), ("b", "", 0)))
    assert len(differences) == 1
    assert differences[0].startswith("b: absent | file ")


def test_the_build_command_holds_the_arguments_and_the_certificates_as_a_secret(
    tmp_path: Path,
) -> None:
    request = BuildRequest(
        variant="cpu",
        source_dir=ROOT,
        arguments={"PACKAGE_INDEX": "x", "BASE_IMAGE": "base:1"},
        certificates=tmp_path / "ca.pem",
        network="host",
    )
    words = build_command(Path("docker"), request)
    assert words[-4:-1] == ["BASE_IMAGE=base:1", "--build-arg", "PACKAGE_INDEX=x"]
    assert f"id=ca,src={tmp_path / 'ca.pem'}" in words
    assert words[words.index("--target") + 1] == "cpu"
    assert words[words.index("--tag") + 1] == "plan-star-appliance:cpu"
    assert "--no-cache" in build_command(Path("docker"), replace(request, use_cache=False))


def test_certificates_are_looked_for_in_the_callers_folder_and_not_in_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    request = BuildRequest(variant="cpu", source_dir=ROOT, certificates=Path("ca.pem"))
    assert f"id=ca,src={tmp_path / 'ca.pem'}" in build_command(Path("docker"), request)


def test_what_a_build_needs_is_asked_for_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ImageError, match="--source"):
        build_image(BuildRequest(variant="cpu", source_dir=tmp_path))
    absent = BuildRequest(variant="cpu", source_dir=ROOT, certificates=tmp_path / "none")
    with pytest.raises(ImageError, match="--certificates"):
        build_image(absent)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeMissingError, match=r"none is here.*apt-get install docker\.io"):
        find_builder()
    write_docker(tmp_path, "#!/bin/sh\necho no such option\n")
    with pytest.raises(RuntimeMissingError, match="buildx"):
        find_builder()


def write_docker(folder: Path, script: str) -> Path:
    """Put a program called docker into ``folder``."""
    folder.mkdir(exist_ok=True)
    path = folder / "docker"
    path.write_text(script)
    path.chmod(0o755)
    return path


def test_an_image_is_built_by_the_daemon_that_runs_will_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    script = f'#!/bin/sh\necho --secret "$DOCKER_HOST $DOCKER_CONTEXT" | tee -a {told}\n'
    folder = write_docker(tmp_path / "bin", script).parent
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
    for host in ("", "unix:///mine.sock"):
        monkeypatch.setenv("DOCKER_HOST", host)
        build_image(BuildRequest(variant="cpu", source_dir=ROOT))
        expected = f"--secret {host or DEFAULT_HOST} "
        assert told.read_text().splitlines() == [expected] * 2
        told.unlink()


def test_a_docker_command_that_hangs_or_cannot_be_run_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_HELP_TIMEOUT_S", 0.5)
    scripts = ("no program", "#!/bin/sh\nwhile :; do :; done\n", "#!/bin/sh\necho --secret\n")
    placed = [write_docker(tmp_path / str(n), script) for n, script in enumerate(scripts)]
    monkeypatch.setenv("PATH", os.pathsep.join(str(path.parent) for path in placed[:2]))
    with pytest.raises(RuntimeMissingError, match=f"{placed[0]}, {placed[1]} cannot: .*buildx"):
        find_builder()
    monkeypatch.setenv("PATH", os.pathsep.join(str(path.parent) for path in placed))
    assert find_builder() == placed[2]


def test_a_run_is_alive_as_long_as_it_holds_its_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    assert not run_is_alive(folder.claim_path)
    with folder.claimed():
        assert run_is_alive(folder.claim_path)
    assert not run_is_alive(folder.claim_path)


def test_without_an_engine_the_error_says_how_to_get_one(
    appliance: Appliance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    outcome = appliance("image", "inspect", "plan-star-appliance:cpu")
    assert outcome.code == 31
    assert "DOCKER_HOST" in outcome.err
    manifest = ROOT / "manifests" / "golden" / "smoke.yaml"
    outcome = appliance("run", manifest, "--engine", "docker", "--run-dir", tmp_path / "run")
    assert outcome.code == 31
    assert "--engine host" in outcome.err
