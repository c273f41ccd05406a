"""Messages between two nodes through a real PostgreSQL, directly and through a pooler in transaction mode."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from mailwatch.fleet.exchange import Exchange, Item, Received
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.probe_messages import Address
from tests.helpers.patience import PATIENCE
from tests.helpers.requirements import need
from tests.servers.postgresql import PGBOUNCER, PgBouncer, PostgreSql
from tests.servers.program import server_folder

A, B, GONE = Address("a", 1), Address("b", 7), Address("b", 6)


@pytest.fixture
def _nodes(postgresql_place: PostgresPlace) -> None:
    """Two nodes that live; "a" is active."""
    made = postgresql_place.unfenced_engine()
    with made.begin() as connection:
        for node in (A, B):
            connection.execute(
                sa.text(
                    "INSERT INTO nodes (id, name, epoch, until, seen, version) VALUES (:node, '', :epoch, "
                    "clock_timestamp() + interval '1 hour', clock_timestamp(), '')"
                ),
                {"node": node.node, "epoch": node.epoch},
            )
        connection.execute(sa.text("UPDATE shares SET node = 'a'"))
    made.dispose()


@pytest.fixture(params=["directly", "pooler"])
def way(request: pytest.FixtureRequest, postgresql: PostgreSql, postgresql_place: PostgresPlace) -> Iterator[str]:
    """How the nodes reach the database."""
    if request.param == "directly":
        yield postgresql_place.url
        return
    need(PGBOUNCER)
    with server_folder() as folder, PgBouncer(folder / "pgbouncer", postgresql, size=4).running() as pooler:
        yield pooler.url(postgresql_place.url.rpartition("/")[2])


class End:
    """One node's end: what came, and what could not be delivered."""

    def __init__(self, url: str, own: Address) -> None:
        self.came: asyncio.Queue[Received] = asyncio.Queue()
        self.returned: asyncio.Queue[tuple[Address, Sequence[Item]]] = asyncio.Queue()
        self.exchange = Exchange(
            PostgresPlace(Path("/nonexistent"), url),
            own,
            on_message=self.came.put_nowait,
            on_undelivered=lambda to, items: self.returned.put_nowait((to, items)),
        )


@contextlib.asynccontextmanager
async def ends(url: str) -> AsyncIterator[tuple[End, End]]:
    a, b = End(url, A), End(url, B)
    async with asyncio.timeout(PATIENCE), a.exchange.running(), b.exchange.running():
        yield a, b


@pytest.mark.usefixtures("_nodes")
async def test_messages_come_in_their_order_and_say_whether_the_active_node_sent_them(way: str) -> None:
    async with ends(way) as (a, b):
        for number in range(5):
            a.exchange.send(B, "s", {"number": number})
        items: list[Item] = []
        while len(items) < 5:
            received = await b.came.get()
            assert (received.sender, received.from_active, received.message.series) == (A, True, "s")
            items += received.message.items
        assert [item["number"] for item in items] == list(range(5))
        b.exchange.send(A, "s", {"back": True})
        answer = await a.came.get()
        assert not answer.from_active
        # It says when our latest message was taken there: both clocks are this machine's.
        assert answer.message.received is not None
        assert answer.message.received[0] <= answer.message.received[1] <= answer.message.sent <= answer.taken


@pytest.mark.usefixtures("_nodes")
async def test_what_goes_to_an_epoch_that_is_over_comes_back(way: str) -> None:
    async with ends(way) as (a, b):
        a.exchange.send(GONE, "s", {"job": 1})
        assert await a.returned.get() == (GONE, [{"job": 1}])
        assert b.came.empty()
