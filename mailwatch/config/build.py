"""Builds timestamp authorities and maintenance rules from their config sections.

If two rules overlap, their union counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from mailwatch.analysis.maintenance import MaintenanceRule
from mailwatch.certificates import parse_pem
from mailwatch.config.errors import ConfigProblem, FieldError, KeyPath, Problems, format_key_path
from mailwatch.config.files import MAX_CERTIFICATE_BYTES, read_file
from mailwatch.config.schema import Config, MaintenanceSection, TimestampSection
from mailwatch.config.targets import read_login_password, resolved_targets
from mailwatch.ledger.entry import target_id
from mailwatch.settings import Hub, Login, TimestampAuthority, Witness


def build_authorities(config: Config) -> tuple[TimestampAuthority, ...]:
    """Return all authorities, reading secrets and certificates. Raises ConfigError with all failures."""
    made: dict[str, TimestampAuthority] = {}
    problems = Problems(config.problem)
    for number, section in enumerate(config.timestamps):
        place: KeyPath = ("timestamps", number)
        if section.name in made:
            problems.add((*place, "url"), f"{section.name} is already listed; keep one")
        with problems.at(*place, "ca_file"):
            _check_ca_file(section)
        login = None
        if section.login:
            password = read_login_password(config, section.login, place, problems)
            if password is None:
                continue
            login = Login(username=section.login.username, password=password)
        made[section.name] = TimestampAuthority(
            name=section.name, url=section.url, every=section.every, ca_file=section.ca_file, login=login
        )
    problems.check()
    return tuple(made.values())


def build_witnesses(config: Config) -> tuple[Witness, ...]:
    """Return all witnesses. Raises ConfigError if one is listed twice."""
    made: dict[str, Witness] = {}
    problems = Problems(config.problem)
    for number, section in enumerate(config.witnesses):
        if section.key in made:
            problems.add(("witnesses", number, "key"), "is already listed; keep one")
        made[section.key] = Witness(url=section.url, key=section.key)
    problems.check()
    return tuple(made.values())


def build_hub(config: Config) -> Hub | None:
    """Return the hub to push to, None without one. Raises ConfigError if it is to get an unknown target."""
    section = config.hub
    if section is None:
        return None
    if isinstance(section.send, str):
        only = section.send == "checkpoints"
        return Hub(url=section.url, key=section.key, checkpoints_only=only, every=section.every)
    names, problems = {target.name for target, _ in resolved_targets(config)}, Problems(config.problem)
    for number, name in enumerate(section.send):
        if name not in names:
            near = get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            problems.add(("hub", "send", number), f"no target is named {name}{hint}")
    problems.check()
    return Hub(url=section.url, key=section.key, send=frozenset(section.send), every=section.every)


def _check_ca_file(section: TimestampSection) -> None:
    advice = "save the authority's certificates there"
    if section.ca_file is not None:
        content = read_file(section.ca_file, MAX_CERTIFICATE_BYTES, advice)
        try:
            parse_pem(content)
        except ValueError:
            raise FieldError(f"{section.ca_file} holds no PEM certificates; {advice}") from None


def build_maintenance(config: Config, secret: bytes) -> tuple[MaintenanceRule, ...]:
    """Return the rules as recorded: targets by opaque ids, which are computed with the ledger's `secret`."""
    rules = []
    for section in config.maintenance:
        names = _covered_targets(config, section)
        everything = section.targets is None and section.providers is None
        targets = None if everything else frozenset(target_id(secret, name) for name in names)
        rules.append(
            MaintenanceRule(
                name=section.name,
                recurrence=section.recurrence_rule(),
                targets=targets,
                providers=section.providers or (),
            )
        )
    return tuple(rules)


def maintenance_problems(config: Config) -> Iterator[ConfigProblem]:
    """Yield a problem for each name in a maintenance rule that does not exist."""
    targets = [section for section, _ in resolved_targets(config)]
    known = {"targets": {t.name for t in targets}, "providers": {t.provider for t in targets if t.provider}}
    for number, section in enumerate(config.maintenance):
        for field in ("targets", "providers"):
            for item, name in enumerate(getattr(section, field) or ()):
                if name not in known[field]:
                    place: KeyPath = ("maintenance", number, field, item)
                    near = get_close_matches(name, sorted(known[field]), n=1)
                    advice = f"did you mean '{near[0]}'?" if near else f"name one of the {field} in the config"
                    what = f"{format_key_path(place)}: there is no '{name}' among the {field}; {advice}"
                    yield config.problem(place, what)


def _covered_targets(config: Config, section: MaintenanceSection) -> set[str]:
    found = ((target.name, target.provider) for target, _ in resolved_targets(config))
    if section.targets is not None:
        return {name for name, _ in found if name in section.targets}
    return {name for name, provider in found if section.providers is None or provider in section.providers}
