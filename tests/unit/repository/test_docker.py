"""What Dockerfile and compose.yaml promise; `make image-test` builds the image and runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from mailwatch.cli import demo
from mailwatch.config import ConfigNotFoundError, WebAccess, default_path, load, web_access
from mailwatch.config.load import _DEFAULT_PATHS, VARIABLES
from mailwatch.config.types import split_endpoint
from mailwatch.setup.places import CONTAINER_VARIABLE
from mailwatch.store.data_dir import DataDirLock
from mailwatch.web.hosts import is_metrics_host
from tests.helpers.paths import ROOT
from tests.helpers.patience import PATIENCE
from tests.helpers.requirements import need_root

DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
LINES = [line for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
OWNER: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
"""The file for owners, which is fetched alone."""
SERVICES: dict[str, dict[str, Any]] = {**COMPOSE["services"], "alone": OWNER["services"]["mailwatch"]}


def instructions(word: str) -> list[str]:
    return [line.partition(" ")[2] for line in LINES if line.startswith(f"{word} ")]


def last_stage() -> list[str]:
    return LINES[max(number for number, line in enumerate(LINES) if line.startswith("FROM ")) :]


def test_every_base_image_has_a_version_and_downloads_are_pinned() -> None:
    (base,) = instructions("ARG")
    assert re.fullmatch(r"PYTHON=python:3\.\d+-slim-[a-z]+", base)
    assert [line.split()[0] for line in instructions("FROM")] == ["${PYTHON}", "${PYTHON}"]
    assert not instructions("ADD")
    assert not re.search(r"curl|wget|git clone", DOCKERFILE)
    (pins,) = [line for line in instructions("RUN") if "requirements.txt" in line]
    assert "--require-hashes" in pins
    assert "--only-binary :all:" in pins


def test_it_runs_as_an_unprivileged_user_on_the_port_and_volume_that_it_names() -> None:
    stage = last_stage()
    assert [line for line in stage if line.startswith("USER ")] == ["USER 10001:10001"]
    assert "VOLUME /data" in stage
    assert "EXPOSE 8080" in stage
    assert 'ENTRYPOINT ["mailwatch"]' in stage
    assert 'CMD ["run"]' in stage
    # After USER nothing may be written, so nothing may be run or copied.
    after = stage[stage.index("USER 10001:10001") :]
    assert not [line for line in after if line.split()[0] in ("RUN", "COPY")]
    (health,) = [line for line in stage if line.startswith("HEALTHCHECK ")]
    # It finds out the port by itself, from what also `run` takes it.
    assert health.endswith('CMD ["mailwatch", "health"]')


def test_without_a_config_the_container_uses_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "config.example.yaml /etc/mailwatch/config.yaml" in instructions("COPY")
    # That is where mailwatch searches when there is none in the working directory.
    assert Path("/etc/mailwatch/config.yaml") in _DEFAULT_PATHS
    (words,) = [line for line in instructions("ENV") if "MAILWATCH" in line]
    set_here = dict(re.findall(r"(MAILWATCH_\w+)=(\S+)", words))
    # By this the last words of `mailwatch init` are those for a container.
    assert set_here.pop(CONTAINER_VARIABLE) == "true"
    # Those who publish the port must say what to trust.
    assert set(set_here) == set(VARIABLES.values()) - {"MAILWATCH_TRUST_NETWORK", "MAILWATCH_METRICS_LISTEN"}
    for name, value in set_here.items():
        monkeypatch.setenv(name, value)
    config = load(ROOT / "config.example.yaml")
    assert (str(config.data_dir), config.web.listen) == ("/data", "0.0.0.0:8080")


def test_the_builder_is_given_what_it_needs_and_no_secret() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = ["requirements.txt", "requirements-build.txt", "supply", "pyproject.toml", "mailwatch",
                  "config.example.yaml", project["readme"],
              *project["license-files"]]  # fmt: skip
    assert sorted(kept) == sorted(needed)
    for private in ("config.yaml", "data", "secrets", ".git", ".env"):
        assert not any(fnmatch(private, rule) for rule in kept)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "mem_limit" in service
    assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service)
    # Only this machine reaches a page until its owner writes another address into .env.
    assert service["ports"]
    assert all(with_defaults(port).startswith("127.0.0.1:") for port in service["ports"])
    if "build" not in service and name != "alone":
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", service["image"])


def with_defaults(text: str) -> str:
    """What compose makes of a text where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def settings_of(service: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **env: str) -> WebAccess:
    """The access of the example config in a service of compose, where `env` lies in .env."""
    for name, value in {"MAILWATCH_LISTEN": "0.0.0.0:8080", **service["environment"]}.items():
        variable = re.match(r"\$\{(\w+)", value)
        monkeypatch.setenv(name, env.get(variable[1] if variable else "") or with_defaults(value))
    return web_access(load(ROOT / "config.example.yaml"))


@pytest.mark.parametrize("bind", ["0.0.0.0", "[::]", "192.0.2.7"])
def test_pages_that_other_machines_reach_trust_no_network(bind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of(SERVICES["mailwatch"], monkeypatch).trust_network
    assert not settings_of(SERVICES["mailwatch"], monkeypatch, MAILWATCH_BIND=bind).trust_network
    assert settings_of(SERVICES["mailwatch"], monkeypatch, MAILWATCH_BIND="[::1]").trust_network
    assert "MAILWATCH_TRUST_NETWORK" not in SERVICES["alone"]["environment"]


def test_the_file_for_owners_needs_no_other() -> None:
    assert set(OWNER["services"]) == {"mailwatch"}
    (service,) = OWNER["services"].values()
    assert "build" not in service
    assert service["volumes"] == ["data:/data"]
    assert with_defaults(service["image"]) == SERVICES["mailwatch"]["image"]
    release = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert f's|{with_defaults(service["image"])}|$IMAGE|" deploy/compose.yaml' in release


def test_prometheus_may_read_the_metrics_by_an_allowed_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    service = SERVICES["mailwatch"]
    access = settings_of(service, monkeypatch)
    assert access.trust_network
    assert not access.requires_login
    metrics = load(ROOT / "config.example.yaml").web.metrics_listen
    assert metrics
    assert not any(port.endswith(f":{split_endpoint(metrics)[1]}") for port in service["ports"])
    scraped = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    (job,) = [job for job in scraped if job["job_name"] == "mailwatch"]
    assert job["static_configs"] == [{"targets": [f"{service['hostname']}:{split_endpoint(metrics)[1]}"]}]
    assert not is_metrics_host(access, "mailwatch:9108")
    monkeypatch.setattr("socket.gethostname", lambda: service["hostname"])
    assert is_metrics_host(access, "mailwatch:9108")


def test_the_compose_file_contains_no_password() -> None:
    for service in SERVICES.values():
        for key in service.get("environment", {}):
            assert not re.search(r"PASSWORD|SECRET|TOKEN", key) or key.endswith("__FILE")


def test_a_bind_mount_comes_from_this_repository_and_is_read_only() -> None:
    named = set(COMPOSE["volumes"])
    for service in SERVICES.values():
        for mount in service.get("volumes", ()):
            source, _, rest = with_defaults(mount).partition(":")
            assert source in named or (source.startswith("./") and rest.endswith(":ro")), mount


def test_the_demo_profile_runs_an_existing_command() -> None:
    assert SERVICES["demo"]["profiles"] == ["demo"]
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["demo"]
    verb, *words = SERVICES["demo"]["command"]
    assert verb == "demo"
    assert demo._listen_address(words[words.index("--serve") + 1]) == "0.0.0.0:8080"
    assert SERVICES["demo"]["image"] == SERVICES["mailwatch"]["image"]


def test_prometheus_finds_the_demo_when_it_runs() -> None:
    (job,) = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert found["names"] == SERVICES["demo"]["networks"]["default"]["aliases"]
    assert SERVICES["demo"]["command"][-1].endswith(f":{found['port']}")


NOBODY = 65534


def test_data_of_another_owner_is_reported_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_root("unshare")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAILWATCH_CONFIG", raising=False)
    tmp_path.chmod(0o700)
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(PermissionError, match=r"MailWatch may not write to .*; chown -R 65534:65534 it"):
            DataDirLock(tmp_path)
        # The working directory of the image is that volume: it hides no config elsewhere.
        with pytest.raises(ConfigNotFoundError, match=r"nor does /etc/mailwatch/config\.yaml"):
            default_path()
    finally:
        os.seteuid(0)
        os.setegid(0)


def catches_sigterm(pid: int) -> bool:
    (mask,) = re.findall(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


def test_the_first_process_of_a_container_ends_on_sigterm_whatever_it_does() -> None:
    """Without an init, and before there is a loop that listens to signals: here it waits for a password."""
    need_root("unshare")
    words = ("unshare", "--pid", "--fork", sys.executable, "-m", "mailwatch", "config", "hash-password")
    with subprocess.Popen(words, stdin=subprocess.PIPE) as unshare:
        children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
        until = time.monotonic() + 20
        while not (first := children.read_text().split()) or not catches_sigterm(int(first[0])):
            assert time.monotonic() < until
            time.sleep(0.02)
        os.kill(int(first[0]), signal.SIGTERM)
        assert unshare.wait(PATIENCE) == 128 + signal.SIGTERM
    # It must ask for the signal before it loads the package: that takes longer than people wait.
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"] == {
        "mailwatch": "mailwatch.__main__:main"
    }
    loaded = "import mailwatch.__main__, sys; print(*(m for m in sys.modules if m.startswith('mailwatch.')))"
    done = subprocess.run((sys.executable, "-c", loaded), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["mailwatch.__main__"]
