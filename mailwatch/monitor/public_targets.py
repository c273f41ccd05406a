"""Whether all that the pages show is public anyway, so that anyone may see it."""

from __future__ import annotations

from collections.abc import Callable

from mailwatch.config import catalogue
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.settings import Target
from mailwatch.store import Reader, StoreError


def only_public_targets(monitor: Pipeline, reader: Reader) -> Callable[[], bool]:
    """Return a predicate: is every recorded target a public catalogue server probed without a login?

    True for config.example.yaml, whose pages anyone may see. A private target stays on record, and on the pages,
    after its end; so call the predicate before each reload. Once false, it stays false.
    """
    open_to_all: bool | None = None

    def is_public() -> bool:
        nonlocal open_to_all
        watched = [runtime.target for runtime in list(monitor.targets.values())]
        if not all(_is_public_target(target) for target in watched):
            open_to_all = False
        elif open_to_all is None:
            try:
                open_to_all = {target.name for target in watched}.issuperset(reader.targets())
            except StoreError:
                # The recorded targets cannot be read now: admit only those who may see everything.
                return False
        return open_to_all

    return is_public


def _is_public_target(target: Target) -> bool:
    provider = catalogue.by_key(target.provider) if target.provider else None
    public = provider is not None and target.host in {server.host for server in provider.servers}
    return public and target.login is None and target.task is None and "@" not in target.name
