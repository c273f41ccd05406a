"""The house stands: a module imports only from floors below its own, and each verb and module is documented."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent / "mailwatch"

FLOORS = (
    {"certificates", "ending", "endings", "models", "progress", "signals", "standstill", "systemd"},
    {"lasting", "monotonic", "resources", "windows"},
    {"elapsed", "ledger", "time_evidence"},
    {"catalogue", "incidents", "logins", "maintenance", "outages", "service_level", "sntp"},
    {"oauth", "watched"},
    {"config"},
    {"building", "clock", "guard", "port25", "probes", "store", "authorities"},
    {"diagnosis", "discovery", "expiry"},
    {"course", "metrics", "notify", "replay"},
    {"alarm", "auditing", "records", "schedule", "watch", "web"},
    {"evidence"},
    {"judging", "looking"},
    {"monitor"},
    {"enrolment"},
    {"answers", "housekeeping", "outlook", "selfwatch", "takeup", "timestamping"},
    {"service"},
    {"startup"},
    {"daemon", "demo"},
    {"cli"},
    {"__main__"},
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(path for path in HOUSE.rglob("*.py") if "migrations" not in path.parts)


def room_of(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mailwatch":
            parts = node.module.split(".")[1:]
            yield from [parts[0]] if parts else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mailwatch."))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_a_module_imports_only_from_floors_below(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    for other in imported_rooms(path):
        if other.startswith("__") or other == room:
            continue
        assert FLOOR_OF[other] < FLOOR_OF[room], f"{room} may not import {other}"


def test_every_room_stands_on_a_floor() -> None:
    rooms = {room_of(path) for path in MODULES} - {"__init__"}
    assert rooms == FLOOR_OF.keys()


def test_only_the_store_speaks_sql_and_only_probes_speak_mail() -> None:
    for path in MODULES:
        imported = {
            (node.module or "").split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
        } | {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        if room_of(path) != "store":
            assert not imported & {"sqlalchemy", "alembic", "sqlite3"}, path
        if room_of(path) != "probes":
            assert not imported & {"aioimaplib", "aiosmtplib"}, path


def test_the_map_in_the_package_names_every_room() -> None:
    text = (HOUSE / "__init__.py").read_text()
    assert [room for rooms in FLOORS for room in sorted(rooms) if room not in text] == []
