"""What the config names besides secrets: certificates, the owner's key, the folder of the data, the address.

It is opened before the start: what is missing is a mistake with a line, not a failure of every probe.

The outside authorities of the config, ready to be asked.

From maintenance sections to rules: which targets each is for. Where two of them overlap, their union counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from mailwatch.analysis.maintenance import Rule
from mailwatch.certificates import read_pem
from mailwatch.config.errors import ConfigError, Fault, Mistake, Place, written
from mailwatch.config.files import CERTIFICATES, read_file
from mailwatch.config.schema import Config, MaintenanceSection, TimestampSection
from mailwatch.config.targets import mistake_at, resolved, secret
from mailwatch.ledger.entry import target_id
from mailwatch.settings import Authority, Login


def build_authorities(config: Config) -> tuple[Authority, ...]:
    """Give all authorities. Reads secrets and certificates; raises ConfigError with all that fail."""
    made: dict[str, Authority] = {}
    mistakes: list[Mistake] = []
    for number, section in enumerate(config.timestamps):
        place: Place = ("timestamps", number)
        if section.name in made:
            what = f"timestamps[{number}].url: {section.name} is already listed; keep one"
            mistakes.append(mistake_at(config, (*place, "url"), what))
        if fault := _fault_of_ca(section):
            mistakes.append(mistake_at(config, (*place, "ca_file"), f"timestamps[{number}].ca_file: {fault}"))
        login = None
        if section.login:
            word = secret(config, section.login, place)
            if isinstance(word, Mistake):
                mistakes.append(word)
                continue
            login = Login(username=section.login.username, password=word)
        made[section.name] = Authority(
            name=section.name, url=section.url, every=section.every, ca_file=section.ca_file, login=login
        )
    if mistakes:
        raise ConfigError(mistakes)
    return tuple(made.values())


def _fault_of_ca(section: TimestampSection) -> str:
    if section.ca_file is None:
        return ""
    try:
        read_pem(read_file(section.ca_file, CERTIFICATES, "save the authority's certificates there"))
    except Fault as fault:
        return str(fault)
    except ValueError:
        return f"{section.ca_file} holds no PEM certificates; save the authority's certificates there"
    return ""


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
                    cure = f"did you mean '{near[0]}'?" if near else f"name one of the {field} in the config"
                    what = f"{written(place)}: there is no '{name}' among the {field}; {cure}"
                    yield mistake_at(config, place, what)


def _covered(config: Config, section: MaintenanceSection) -> set[str]:
    found = ((target.name, target.provider) for target, _ in resolved(config))
    if section.targets is not None:
        return {name for name, _ in found if name in section.targets}
    return {name for name, provider in found if section.providers is None or provider in section.providers}
