"""A container engine of this test session's own: installed, started, killed, stopped by its pid.

Nothing of the machine's own engine, if it has one, is used or touched.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = {"dockerd": "docker.io", "mmdebstrap": "mmdebstrap"}
NEEDED_BYTES = 25 << 30
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30


class CannotRunError(Exception):
    """This machine cannot run a container engine; the text says why."""


@dataclass(slots=True)
class Daemon:
    """One dockerd with data and socket below ``folder``, whose path must be short."""

    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def host(self) -> str:
        """What DOCKER_HOST has to be."""
        return f"unix://{self.folder}/docker.sock"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        """Start it and wait until it answers. Raises CannotRunError with its last words."""
        (self.folder / "pid").unlink(missing_ok=True)
        options = {
            "data-root": self.folder / "data",
            "exec-root": self.folder / "exec",
            "pidfile": self.folder / "pid",
            "host": self.host,
            "storage-driver": "overlay2",
            "exec-opt": "native.cgroupdriver=cgroupfs",
        }
        off = ("iptables", "ip6tables", "ip-forward", "ip-masq")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    # It ends with these tests, however they end.
                    *("setpriv", "--pdeathsig", "TERM"),
                    shutil.which("dockerd") or "/usr/sbin/dockerd",
                    *(f"--{name}={value}" for name, value in options.items()),
                    *(f"--{name}=false" for name in off),
                    "--bridge=none",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.answers():
                return
            time.sleep(0.2)
        words = self.log.read_text("utf-8", errors="replace").strip().splitlines()[-3:]
        self.stop()
        raise CannotRunError(f"dockerd does not start: {' | '.join(words)}")

    def answers(self) -> bool:
        import docker
        from docker.errors import DockerException

        try:
            with socket.socket(socket.AF_UNIX) as probe:  # the SDK leaves one open that fails
                probe.connect(self.host.removeprefix("unix://"))
            client = docker.DockerClient(base_url=self.host, timeout=5)
        except (DockerException, OSError):
            return False
        try:
            return bool(client.ping())
        except (DockerException, OSError):
            return False
        finally:
            client.close()

    def kill(self) -> None:
        """kill -9, as a crash or a power cut would; its containers are left as they are."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it, its helpers and its containers; unmount what it mounted."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pid in self.helpers():
            os.kill(pid, signal.SIGKILL)
        for mount in self.mounts():
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)

    def helpers(self) -> list[int]:
        """Processes that name this folder on their command line: containerd and its shims."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) == os.getpid():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0].rpartition(b"/")[2].startswith(b"containerd") and any(
                str(self.folder).encode() in word for word in words
            ):
                found.append(int(entry.name))
        return found

    def mounts(self) -> list[str]:
        """Mount points below the folder, deepest first."""
        lines = Path("/proc/self/mounts").read_text("utf-8").splitlines()
        places = [line.split(" ")[1] for line in lines]
        return sorted((place for place in places if place.startswith(f"{self.folder}/")), key=len)[
            ::-1
        ]


def install_engine() -> None:
    """Install the packages that are missing. Raises CannotRunError where that is not for a test."""
    if os.geteuid() != 0:
        raise CannotRunError("a container engine is started as root, and this is not root")
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian" or int(release.get("VERSION_ID", "0")) < 12:
        raise CannotRunError(f"a base image is made from Debian's packages; this is {release}")
    missing = [package for command, package in PACKAGES.items() if shutil.which(command) is None]
    if not missing:
        return
    if Path("/run/systemd/system").exists():
        raise CannotRunError(
            f"{' and '.join(missing)} would be installed and its service started on this system;"
            f" do it yourself: apt-get install {' '.join(missing)}"
        )
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
        done = subprocess.run(
            [*apt, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise CannotRunError(f"apt-get {arguments[0]} fails: {done.stderr.strip()[-300:]}")


def make_folder() -> Path:
    """A folder with a short path on a disk with room. Raises CannotRunError."""
    parent = Path("/var/tmp")
    free_bytes = shutil.disk_usage(parent).free
    if free_bytes < NEEDED_BYTES:
        raise CannotRunError(
            f"{parent} has {free_bytes >> 30} GiB left, and an image needs {NEEDED_BYTES >> 30}"
        )
    return Path(tempfile.mkdtemp(prefix="eng.", dir=parent))
