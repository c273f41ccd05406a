"""deploy/nodes and deploy/kubernetes: their configs load, and fit the image and the nodes of a ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mailwatch.config import Config, load
from mailwatch.config.load import VARIABLES
from mailwatch.store.keys import SIGNING
from tests.helpers.paths import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "nodes" / "compose.yaml").read_text())
NODES = {name: one for name, one in COMPOSE["services"].items() if name.startswith("node")}
MANIFEST = ROOT / "deploy" / "kubernetes" / "mailwatch.yaml"
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all(MANIFEST.read_text()))
DOCKERFILE = (ROOT / "Dockerfile").read_text()
USER = 10001


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [one for one in OBJECTS if one["kind"] == kind]


def loaded(path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The config as the image loads it."""
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MAILWATCH_DATA_DIR", "/data")
    monkeypatch.setenv("MAILWATCH_LISTEN", "0.0.0.0:8080")
    monkeypatch.setenv("MAILWATCH_DATABASE_PASSWORD", "a password")
    monkeypatch.setenv("MAILWATCH_WEB_PASSWORD", "another password")
    return load(path)


def test_all_nodes_have_one_config_one_set_of_keys_and_a_data_dir_each() -> None:
    assert len(NODES) == 3
    apart = [[each.split(":")[0] for each in one["volumes"]] for one in NODES.values()]
    data, keys, config = zip(*apart, strict=True)
    assert len(set(data)) == 3
    assert set(keys) == {"keys"}
    assert len(set(config)) == 1
    for one in NODES.values():
        assert one["volumes"][1] == "keys:/data/keys"
    # One start makes the keys, before another one may.
    assert all("node1" in one["depends_on"] for name, one in NODES.items() if name != "node1")
    assert "keys" in NODES["node1"]["depends_on"]
    assert f"{USER}:{USER}" in COMPOSE["services"]["keys"]["entrypoint"]


@pytest.mark.parametrize("name", sorted(COMPOSE["services"].keys() - {"database"}))
def test_every_node_is_confined(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == (["CHOWN"] if name == "keys" else [])
    assert all(port.startswith("${MAILWATCH_BIND:-127.0.0.1}:") for port in service.get("ports", []))


def test_the_config_of_the_compose_file_is_that_of_its_database(monkeypatch: pytest.MonkeyPatch) -> None:
    config = loaded(ROOT / "deploy" / "nodes" / "config.yaml", monkeypatch)
    assert config.database is not None
    made = COMPOSE["services"]["database"]["environment"]
    assert config.database.url == f"postgresql://{made['POSTGRES_USER']}@database/{made['POSTGRES_DB']}"
    given = NODES["node1"]["environment"]["MAILWATCH_DATABASE_PASSWORD"]
    assert given == made["POSTGRES_PASSWORD"]


def test_the_config_of_the_manifest_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (config_map,) = of_kind("ConfigMap")
    path = tmp_path / "config.yaml"
    path.write_text(config_map["data"]["config.yaml"])
    config = loaded(path, monkeypatch)
    (nodes,) = of_kind("StatefulSet")
    (container,) = nodes["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert config.web.metrics_listen == f"0.0.0.0:{ports['metrics']}"
    assert f"EXPOSE {ports['web']}" in DOCKERFILE
    assert config.database is not None
    assert config.database.password_env in {one["name"] for one in container["env"]}
    assert config.web.password_env in {one["name"] for one in container["env"]}


def test_the_manifest_fits_the_image_and_the_backup_of_keys() -> None:
    (nodes,) = of_kind("StatefulSet")
    pod = nodes["spec"]["template"]["spec"]
    assert f"USER {USER}:{USER}" in DOCKERFILE
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == USER
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    # One set of keys: only the first node may make some.
    (keys,) = pod["initContainers"]
    assert f"/data/keys/{SIGNING}" in keys["command"][-1]
    names = {nodes["metadata"]["name"], *(one["metadata"]["name"] for one in of_kind("Service"))}
    assert nodes["spec"]["serviceName"] in names
    chosen = nodes["spec"]["template"]["metadata"]["labels"]
    for one in of_kind("Service"):
        assert one["spec"]["selector"].items() <= chosen.items()
    assert not any(one["kind"] == "Secret" for one in OBJECTS)
