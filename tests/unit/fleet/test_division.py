"""Which node probes what: by account, each its part, and as few moves as can be."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from mailwatch.fleet.division import SHARES, UNDIVIDED, divide, share_of, shares_of
from mailwatch.model import Kind
from mailwatch.settings import Login, RoundtripTask, Target

NODES = st.sampled_from([f"node-{number}" for number in range(12)])
WEIGHTS = st.dictionaries(NODES, st.floats(0.01, 4), max_size=12)
FORMER = st.lists(st.one_of(st.just(""), NODES), min_size=SHARES, max_size=SHARES)


@given(WEIGHTS, FORMER)
def test_each_node_has_its_part_and_no_share_moves_without_need(
    weights: dict[str, float], former: list[str]
) -> None:
    division = divide(weights, former)
    if not weights:
        assert division == UNDIVIDED
        return
    counts, total = Counter(division), sum(weights.values())
    assert set(counts) <= set(weights)
    for node, weight in weights.items():
        assert abs(counts[node] - SHARES * weight / total) < 1 + 1e-6
    moved = sum(before != after for before, after in zip(former, division, strict=True))
    before = Counter(former)
    # A node that has too many gives away just these, and what no living node has is given out.
    assert moved == sum(max(0, count - counts[node]) for node, count in before.items())
    assert divide(weights, division) == division


@given(st.sets(NODES, min_size=2, max_size=8), FORMER)
def test_of_equal_nodes_one_that_is_lost_moves_only_its_own_shares(nodes: set[str], former: list[str]) -> None:
    division = divide(dict.fromkeys(nodes, 1.0), former)
    lost, *others = sorted(nodes)
    after = divide(dict.fromkeys(others, 1.0), division)
    assert all(now == then for now, then in zip(after, division, strict=True) if then != lost)


def target(name: str, user: str = "", provider: str = "P") -> Target:
    login = Login(username=user, password=SecretStr("x")) if user else None
    return Target(name=name, kind=Kind.IMAP, host="h", port=993, provider=provider, login=login)


def test_targets_of_one_account_and_accounts_of_one_round_trip_are_in_one_share() -> None:
    imap, smtp, other = target("a", "ann"), target("b", "ann"), target("c", "bob")
    task = RoundtripTask(via=smtp, to=other, sender="a@x", recipient="b@x")
    trip = Target(name="trip", kind=Kind.ROUNDTRIP, host="h", port=1, task=task)
    apart = shares_of([imap, smtp, other])
    assert apart["a"] == apart["b"] == share_of("P\0ann")
    assert apart["c"] == share_of("P\0bob") != apart["a"]
    joined = shares_of([imap, smtp, other, trip])
    assert set(joined.values()) == {share_of("P\0ann")}
    assert joined == shares_of([trip, other, smtp, imap])


def test_a_target_without_a_login_goes_by_its_name() -> None:
    assert shares_of([target("a"), target("b")]) == {"a": share_of("a"), "b": share_of("b")}
