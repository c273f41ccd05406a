"""The outside authorities of the config, ready to be asked."""

from __future__ import annotations

from mailwatch.certificates import read_pem
from mailwatch.config.files import CERTIFICATES, read_file
from mailwatch.config.mistakes import ConfigError, Fault, Mistake, Place
from mailwatch.config.shape import Config, TimestampSection
from mailwatch.config.targets import mistake_at, secret
from mailwatch.models import Authority, Login


def build_authorities(config: Config) -> tuple[Authority, ...]:
    """Give all authorities. Reads secrets and certificates; raises ConfigError with all that fail."""
    made: dict[str, Authority] = {}
    mistakes: list[Mistake] = []
    for number, section in enumerate(config.timestamps):
        place: Place = ("timestamps", number)
        if section.name in made:
            what = f"timestamps[{number}].url: {section.name} is asked already; keep one"
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
