"""From maintenance sections to rules: which targets each is for. Where two of them overlap, their union counts."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from mailwatch.config.maintenance import MaintenanceSection
from mailwatch.config.mistakes import Mistake, Place, written
from mailwatch.config.shape import Config
from mailwatch.config.targets import mistake_at, resolved
from mailwatch.ledger.entry import target_id
from mailwatch.maintenance import Rule


def build_maintenance(config: Config, secret: bytes) -> tuple[Rule, ...]:
    """Give the rules as they go on record: targets by their opaque ids, for whose making `secret` is needed."""
    rules = []
    for section in config.maintenance:
        names = _covered(config, section)
        everything = section.targets is None and section.providers is None
        targets = None if everything else frozenset(target_id(secret, name) for name in names)
        rules.append(
            Rule(name=section.name, when=section.when(), targets=targets, providers=section.providers or ())
        )
    return tuple(rules)


def maintenance_mistakes(config: Config) -> Iterator[Mistake]:
    """Find names of nothing."""
    targets = [section for section, _ in resolved(config)]
    known = {"targets": {t.name for t in targets}, "providers": {t.provider for t in targets if t.provider}}
    for number, section in enumerate(config.maintenance):
        for field in ("targets", "providers"):
            for item, name in enumerate(getattr(section, field) or ()):
                if name not in known[field]:
                    place: Place = ("maintenance", number, field, item)
                    near = get_close_matches(name, sorted(known[field]), n=1)
                    cure = f"did you mean '{near[0]}'?" if near else f"name one of the {field} that are watched"
                    what = f"{written(place)}: there is no '{name}' among the {field}; {cure}"
                    yield mistake_at(config, place, what)


def _covered(config: Config, section: MaintenanceSection) -> set[str]:
    found = ((target.name, target.provider) for target, _ in resolved(config))
    if section.targets is not None:
        return {name for name, _ in found if name in section.targets}
    return {name for name, provider in found if section.providers is None or provider in section.providers}
