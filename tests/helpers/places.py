"""A ledger's place, on SQLite and on PostgreSQL: a test that asks for `place` runs on both."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailwatch.progress import StartupProgress
from mailwatch.store.first_start import migrate_database
from mailwatch.store.place import Place
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.sqlite import SqlitePlace
from tests.helpers.requirements import need
from tests.servers.postgresql import POSTGRES, PostgreSql
from tests.servers.program import server_folder


def in_postgresql() -> bool:
    """Return whether the tests of this run keep their ledgers in PostgreSQL."""
    return os.environ.get("MAILWATCH_TEST_DATABASE") == "postgresql"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSql]:
    """A cluster that all tests of a worker share, where nothing waits for the disk: leave it as it was."""
    need(POSTGRES)
    with server_folder() as folder, PostgreSql(folder / "postgresql").running() as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_template(postgresql: PostgreSql) -> str:
    """A database with the tables, to copy: the migrations take longer than a copy."""
    name = postgresql.make_database()
    place = PostgresPlace(Path("/nonexistent"), postgresql.url(name))
    made = place.engine()
    migrate_database(place, made, StartupProgress())
    made.dispose()
    return name


@pytest.fixture
def sqlite_place(tmp_path: Path) -> SqlitePlace:
    """A ledger to be made in an SQLite file."""
    return SqlitePlace(tmp_path / "data")


@pytest.fixture
def postgresql_place(postgresql: PostgreSql, postgresql_template: str, tmp_path: Path) -> Iterator[PostgresPlace]:
    """A ledger to be made in a database of the test's own."""
    with postgresql.database(postgresql_template) as name:
        yield PostgresPlace(tmp_path / "data", postgresql.url(name))


@pytest.fixture(params=["sqlite_place", "postgresql_place"], ids=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> Place:
    """A ledger to be made on either engine."""
    found: Place = request.getfixturevalue(request.param)
    return found


class PlacesInPostgresql:
    """Every data_dir that a test names stands for a database of its own."""

    def __init__(self, server: PostgreSql, template: str) -> None:
        self._server, self._template = server, template
        self._made: dict[Path, PostgresPlace] = {}

    def __call__(self, data_dir: Path) -> PostgresPlace:
        known = data_dir.absolute()
        if known not in self._made:
            name = self._server.make_database(self._template)
            self._made[known] = PostgresPlace(data_dir, self._server.url(name))
        return self._made[known]

    def drop(self, folder: Path) -> None:
        """Remove the databases of the ledgers in a folder."""
        for data_dir in [each for each in self._made if each.is_relative_to(folder)]:
            self._server.drop_database(self._made.pop(data_dir).url.rpartition("/")[2])


@pytest.fixture(scope="session")
def places_in_postgresql(request: pytest.FixtureRequest) -> Iterator[PlacesInPostgresql | None]:
    """With MAILWATCH_TEST_DATABASE=postgresql, what the tests of a whole run keep their ledgers in."""
    if not in_postgresql():
        yield None
        return
    server, template = (request.getfixturevalue(name) for name in ("postgresql", "postgresql_template"))
    places = PlacesInPostgresql(server, template)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mailwatch.store.place.SqlitePlace", places)
        yield places


@pytest.fixture(autouse=True)
def _ledgers_where_asked(
    request: pytest.FixtureRequest, places_in_postgresql: PlacesInPostgresql | None
) -> Iterator[None]:
    if places_in_postgresql is None:
        yield
        return
    folder = request.getfixturevalue("tmp_path")
    yield
    places_in_postgresql.drop(folder)
