"""The image, really built and run: `make image-test`. Not part of `make test`, since it needs a Docker daemon.

Nothing here has a network but loopback: what an image does without one is what it must do.
"""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

IMAGE = "mailwatch:image-test"
CONFINED = ("--network", "none", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL",
            "--security-opt", "no-new-privileges")  # fmt: skip
OURS = 250_000_000
"""Bytes that MailWatch may add to its base image."""
pytestmark = pytest.mark.timeout(900)


def docker(*words: str, data: bytes | None = None) -> bytes:
    done = subprocess.run(["docker", *words], input=data, capture_output=True, check=False)
    assert done.returncode == 0, (words, done.stderr.decode()[-2000:])
    return done.stdout


def until(holds: Callable[[], bool], what: str, patience: float) -> float:
    """Wait until something holds; return how many seconds it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < patience, f"not {what} within {patience:g} s"
        time.sleep(0.5)
    return time.monotonic() - began


@pytest.fixture(scope="session")
def image() -> str:
    docker("build", "-t", IMAGE, str(ROOT))
    return IMAGE


@pytest.fixture
def volume() -> Iterator[Callable[[], str]]:
    made: list[str] = []

    def make() -> str:
        made.append(docker("volume", "create").decode().strip())
        return made[-1]

    yield make
    for name in made:
        docker("volume", "rm", "-f", name)


@pytest.fixture
def container(image: str) -> Iterator[Callable[..., str]]:
    made: list[str] = []

    def start(*options: str, command: tuple[str, ...] = ()) -> str:
        made.append(f"mailwatch-test-{uuid.uuid4().hex[:8]}")
        docker("run", "-d", "--name", made[-1], *CONFINED, *options, image, *command)
        return made[-1]

    yield start
    for name in made:
        subprocess.run(["docker", "rm", "-fv", name], capture_output=True, check=False)


def healthy(name: str) -> bool:
    status = docker("inspect", "-f", "{{.State.Status}} {{.State.Health.Status}}", name).decode().split()
    assert status[0] == "running", docker("logs", name)
    return status[1] == "healthy"


def test_it_adds_less_than_250_mb_to_its_base(image: str) -> None:
    base = (ROOT / "Dockerfile").read_text().partition("ARG PYTHON=")[2].split()[0]
    whole, below = (int(docker("image", "inspect", "-f", "{{.Size}}", name)) for name in (image, base))
    print(f"image {whole / 1e6:.0f} MB, of which base {below / 1e6:.0f} MB")  # noqa: T201
    assert whole - below < OURS


def test_without_a_config_it_starts_with_the_example_and_ends_on_sigterm(container: Callable[..., str]) -> None:
    name = container()
    print(f"healthy after {until(lambda: healthy(name), 'healthy', 90):.1f} s")  # noqa: T201
    docker("stop", "-t", "20", name)
    assert docker("inspect", "-f", "{{.State.ExitCode}}", name).strip() == b"0"
    logs = subprocess.run(["docker", "logs", name], capture_output=True, check=True).stderr
    assert b"monitoring 4 targets; web on http://0.0.0.0:8080/" in logs
    assert b"Traceback" not in logs


def test_the_demo_shows_an_outage_within_two_minutes(container: Callable[..., str]) -> None:
    name = container("-e", "TMPDIR=/data", command=("demo", "--serve", "0.0.0.0:8080"))
    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/api/v1/outages').read().decode())"

    def outage() -> bool:
        done = subprocess.run(["docker", "exec", name, "python", "-c", ask], capture_output=True, check=False)
        return done.returncode == 0 and bool(json.loads(done.stdout))

    print(f"an outage after {until(outage, 'broken', 120):.1f} s")  # noqa: T201
    docker("stop", "-t", "20", name)
    assert docker("inspect", "-f", "{{.State.ExitCode}}", name).strip() == b"0"


def test_a_backup_of_a_running_container_is_restored_into_a_new_volume(
    image: str, volume: Callable[[], str], container: Callable[..., str], tmp_path: Path
) -> None:
    name = container("-v", f"{volume()}:/data")
    until(lambda: healthy(name), "healthy", 90)
    made = json.loads(docker("exec", name, "mailwatch", "backup", "/data/backup.tar.gz", "--json"))
    docker("cp", f"{name}:/data/backup.tar.gz", str(tmp_path / "backup.tar.gz"))
    docker("kill", name)
    new = volume()
    run = ("run", "--rm", "-i", *CONFINED, "-v", f"{new}:/data")
    backup = (tmp_path / "backup.tar.gz").read_bytes()
    docker(*run, "--entrypoint", "tar", image, "-xzpf", "-", "-C", "/data", data=backup)
    audit = json.loads(docker(*run, image, "ledger", "audit", "--json"))
    assert audit["valid"]
    assert (audit["origin"], audit["entries"]) == (made["origin"], made["entries"])
    again = container("-v", f"{new}:/data")
    until(lambda: healthy(again), "healthy", 90)
    grown = json.loads(docker("exec", again, "mailwatch", "ledger", "audit", "--json"))
    assert grown["valid"]
    assert grown["origin"] == made["origin"]
    assert grown["entries"] > made["entries"]
