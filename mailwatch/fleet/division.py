"""Which node probes which targets: 256 shares, by account, divided among the nodes that may probe. Pure."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mailwatch.settings import Target

SHARES = 256
Division = tuple[str, ...]
"""The node of each share, by its id; "" for none."""
UNDIVIDED: Division = ("",) * SHARES


def account_name(target: Target) -> str:
    """Return the name of a target's account, of its service without a login."""
    if target.login is None:
        return target.name
    return f"{target.provider or target.host}\0{target.login.username}"


def share_of(name: str) -> int:
    """Return the share that an account's name falls in: the first byte of its SHA-256."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[0]


def shares_of(targets: Iterable[Target]) -> dict[str, int]:
    """Return the share of each target, by its name.

    Accounts that a round trip joins go by the least name of theirs: they are in one share.
    """
    known = list(targets)
    first: dict[str, str] = {}

    def least(name: str) -> str:
        while (next_name := first.get(name, name)) != name:
            name = next_name
        return name

    for target in known:
        names = {least(account_name(end)) for end in target.endpoints}
        for name in names:
            first[name] = min(names)
    return {target.name: share_of(least(account_name(target.endpoints[0]))) for target in known}


def divide(weights: Mapping[str, float], former: Sequence[str]) -> Division:
    """Return the division among nodes by weight, with as few shares moved as possible from the former division.

    A node has its part of the shares, rounded up or down. Without a node of a weight, no node has a share.
    """
    counts = Counter(node for node in former if weights.get(node, 0.0) > 0)
    quotas = _quotas({node: weight for node, weight in weights.items() if weight > 0}, counts)
    if not quotas:
        return UNDIVIDED
    left, kept = dict(quotas), list[str]()
    for node in former:
        # Who has too many keeps the first ones.
        keeps = left.get(node, 0) > 0
        kept.append(node if keeps else "")
        if keeps:
            left[node] -= 1
    takers = (node for node in sorted(left) for _ in range(left[node]))
    return tuple(node or next(takers) for node in kept)


def _quotas(weights: Mapping[str, float], counts: Mapping[str, int]) -> dict[str, int]:
    """Return the number of shares of each node. Who has one more already keeps it, where nothing else decides."""
    total = math.fsum(weights.values())
    if not total:
        return {}
    exact = {node: SHARES * (weight / total) for node, weight in weights.items()}
    quotas = {node: math.floor(part) for node, part in exact.items()}

    def order(node: str) -> tuple[float, bool, str]:
        return -round(exact[node] - quotas[node], 9), counts.get(node, 0) <= quotas[node], node

    for node in sorted(quotas, key=order)[: SHARES - sum(quotas.values())]:
        quotas[node] += 1
    return quotas
