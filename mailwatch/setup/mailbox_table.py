"""Reads a table of mailboxes (CSV), and lists all of its mistakes at once, each with its row and column."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from pydantic import SecretStr, ValidationError

from mailwatch.config import catalogue
from mailwatch.config.edit import ConfigFile
from mailwatch.config.errors import ConfigProblem, FieldError
from mailwatch.config.files import read_file
from mailwatch.config.load import section_problems
from mailwatch.config.schema import Config
from mailwatch.config.schema_targets import AccountSection, TargetSection
from mailwatch.config.secrets import read_password, read_secret
from mailwatch.config.targets import resolved_targets
from mailwatch.config.yaml_edit import NewItem
from mailwatch.config.yaml_file import YamlValue
from mailwatch.kinds import MAILBOX_KINDS
from mailwatch.settings import Login, Target
from mailwatch.setup.checks import ADDRESS
from mailwatch.setup.entries import target_entries
from mailwatch.setup.servers import ServerCandidate, is_host_name, parse_server

MAX_BYTES = 4_000_000
MAX_ROWS = 10_000
PASSWORDS = ("password", "password_file", "password_env")
"""Columns of which each row fills exactly one."""
SERVERS = tuple(str(kind) for kind in MAILBOX_KINDS)
"""Columns with HOST or HOST:PORT, for servers outside the catalogue."""
COLUMNS = ("address", *PASSWORDS, "channels", "provider", "username", *SERVERS, "interval", "timeout", "name")
_UNWRITTEN = "secrets/unwritten"
"""Stands for the password file that add_rows() names."""
_OPTIONAL = frozenset({"channels", "interval", "timeout", "provider"})
TEMPLATE = "address,password,channels,provider,name\nmario.rossi@libero.it,secret,imap smtp,,Mario\n"
"""A table to fill in."""


@dataclass(frozen=True, slots=True)
class MailboxRow:
    """One mailbox of the table. `password`: to be written to a file, None if the row names where it is."""

    line: int
    address: str
    section: str
    entries: tuple[dict[str, YamlValue], ...]
    password: SecretStr | None
    name: str = ""


@dataclass(slots=True)
class MailboxTable:
    """The mailboxes of a table that can be used, and all mistakes of the others. `known`: line and
    address of those that the config already has."""

    rows: list[MailboxRow] = field(default_factory=list)
    problems: list[ConfigProblem] = field(default_factory=list)
    known: list[tuple[int, str]] = field(default_factory=list)

    @property
    def holds_passwords(self) -> bool:
        """Whether the table itself holds passwords."""
        return any(row.password is not None for row in self.rows)


def read_table(path: Path, file: ConfigFile) -> MailboxTable:
    """Read a table for a config. Mistakes are in the result; none repeats a cell that may be a password."""
    table = MailboxTable()
    try:
        text = _text(path)
        reader = csv.DictReader(io.StringIO(text, newline=""), dialect=_dialect(text), strict=True)
        table.problems += [ConfigProblem(path, 1, what) for what in _header_problems(reader.fieldnames)]
        if not table.problems:
            _read_rows(path, reader, file, table)
    except FieldError as error:
        table.problems.append(ConfigProblem(path, 1, str(error)))
    except csv.Error as error:
        table.problems.append(ConfigProblem(path, reader.line_num, f"is not CSV: {error}; check the quotes"))
    if not table.problems and not table.rows and not table.known:
        table.problems.append(ConfigProblem(path, 1, "has no mailbox below its header; add a row for each"))
    return table


def add_rows(file: ConfigFile, rows: Sequence[MailboxRow]) -> None:
    """Add mailboxes to a config, with their passwords. Raises ConfigError."""
    found: dict[str, list[NewItem]] = {"accounts": [], "targets": []}
    for row in rows:
        secret = file.stage_password(row.address, row.password) if row.password is not None else ""
        for number, entry in enumerate(row.entries):
            title = row.name if number == 0 else ""
            found[row.section].append(NewItem(_with_secret(entry, secret), title=title))
    for section, entries in found.items():
        if entries:
            file.add_entries(section, entries)


def row_targets(file: ConfigFile, row: MailboxRow) -> list[Target]:
    """Return the servers of a mailbox to log in to, with its password. Raises FieldError."""
    folder = file.path.absolute().parent
    config = Config.model_validate({row.section: row.entries}, context={"folder": folder})
    made = []
    for section, _ in resolved_targets(config):
        if section.login is None or section.host is None or section.port is None or section.tls is None:
            continue
        password = row.password or read_password(section.login, folder)
        login = Login(username=section.login.username, password=password)
        target = Target(
            name=section.name,
            kind=section.kind,
            host=section.host,
            port=section.port,
            provider=section.provider or "",
            tls=section.tls,
            ca_file=section.ca_file,
            login=login,
        )
        made.append(target)
    return made


def _text(path: Path) -> str:
    raw = read_file(path, MAX_BYTES + 1, "name a CSV file")
    if len(raw) > MAX_BYTES:
        raise FieldError(f"is larger than {MAX_BYTES} bytes; is it the right file?")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FieldError("is not UTF-8; save it as CSV UTF-8") from None


def _dialect(text: str) -> type[csv.Dialect]:
    """Return the dialect by what separates the columns of the header: a comma, a semicolon or a tab."""
    header = text.lstrip().partition("\n")[0]

    class Found(csv.excel):
        delimiter = max((",", ";", "\t"), key=header.count)

    return Found


def _header_problems(header: Sequence[str] | None) -> Iterator[str]:
    names = [name.strip().casefold() for name in header or ()]
    if "address" not in names:
        yield f"the first row must name the columns, with address among them: {', '.join(COLUMNS)}"
        return
    for number, name in enumerate(names):
        if name in COLUMNS:
            if name in names[:number]:
                yield f"column {name} is there twice; keep one"
        else:
            near = get_close_matches(name, COLUMNS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"use {', '.join(COLUMNS)}"
            # A table without a header may have a password here.
            yield f"column {number + 1} is not known; {hint}"


def _read_rows(path: Path, reader: csv.DictReader[str], file: ConfigFile, table: MailboxTable) -> None:
    known = {str(item.get("address")).casefold() for item in file.data("accounts")}
    names = {str(item.get("name")).casefold() for item in file.data("targets")}
    seen: dict[str, int] = {}
    for cells in reader:
        line = reader.line_num
        problems = [] if None not in cells else ["has more cells than the header; check the separators"]
        row = {
            key.strip().casefold(): (value or "").strip() for key, value in cells.items() if isinstance(key, str)
        }
        if not any(row.values()) and not problems:
            continue
        if len(seen) >= MAX_ROWS:
            table.problems.append(ConfigProblem(path, line, f"more than {MAX_ROWS} rows; split the table"))
            return
        address = row["address"]
        if wrong := ADDRESS(address):
            problems.append(f"address: {wrong}")
        elif address.casefold() in seen:
            problems.append(f"address: {_shown(address)}is already in row {seen[address.casefold()]}; keep one")
        seen.setdefault(address.casefold(), line)
        if address.casefold() in known or any(f"{address.casefold()}/{kind}" in names for kind in SERVERS):
            table.known.append((line, address))
            continue
        # A password may begin or end with a blank, unlike all else.
        password = "".join(cells[key] or "" for key in cells if str(key).strip().casefold() == "password")
        made = _mailbox(line, row, password, file, problems)
        table.problems += [ConfigProblem(path, line, what) for what in dict.fromkeys(problems)]
        if not problems and made is not None:
            table.rows.append(made)


def _mailbox(
    line: int, row: Mapping[str, str], password: str, file: ConfigFile, problems: list[str]
) -> MailboxRow | None:
    """Return the mailbox of a row, None if it has none; adds to the problems."""
    address = row["address"]
    given = [key for key in PASSWORDS if row.get(key)]
    if len(given) != 1:
        ways = ", ".join(PASSWORDS)
        several = f"has {len(given)} of {', '.join(given)}; keep one of {ways}"
        problems.append(several if given else f"has no password; fill one of {ways}")
    if any(not sign.isprintable() for sign in password):
        problems.append("password: contains a control character; correct it")
    # A row without a password is checked as if it had one: its other mistakes are reported with it.
    login: dict[str, YamlValue] = {"password_file": _UNWRITTEN}
    if len(given) == 1 and given != ["password"]:
        login = {given[0]: row[given[0]]}
    candidates = list(_candidates(row, problems))
    more: dict[str, YamlValue] = {key: row[key] for key in ("interval", "timeout") if row.get(key)}
    if candidates:
        if row.get("channels") or row.get("provider"):
            problems.append("has servers of its own, so it takes no channels and no provider; remove them")
        entries = target_entries(address, candidates, {"username": row.get("username") or address, **login})
        entries = [{**entry, **more} for entry in entries]
        section: str = "targets"
    else:
        if row.get("username"):
            problems.append("username: is only for rows with servers of their own; remove it")
        channels: list[YamlValue] = [*row.get("channels", "").replace(",", " ").replace(";", " ").split()]
        entry: dict[str, YamlValue] = {"address": address, **login}
        entry |= {"channels": channels} if channels else {}
        entry |= {"provider": row["provider"]} if row.get("provider") else {}
        entries, section = [{**entry, **more}], "accounts"
    if not ADDRESS(address):
        problems += _entry_problems(section, entries, file)
    name = "".join(sign if sign.isprintable() else "?" for sign in row.get("name", ""))[:100]
    secret = SecretStr(password) if given == ["password"] else None
    return MailboxRow(line, address, section, tuple(entries), secret, name) if entries else None


def _candidates(row: Mapping[str, str], problems: list[str]) -> Iterator[ServerCandidate]:
    for kind in MAILBOX_KINDS:
        if where := row.get(str(kind)):
            try:
                yield parse_server(kind, where)
            except FieldError as error:
                problems.append(f"{kind}: {error}")


def _entry_problems(section: str, entries: Sequence[Mapping[str, YamlValue]], file: ConfigFile) -> Iterator[str]:
    """Yield what the config would refuse in a row, and what is wrong with its password file or variable."""
    model = AccountSection if section == "accounts" else TargetSection
    folder = file.path.absolute().parent
    for entry in entries:
        for what in _model_problems(model, entry, folder):
            advice = (
                "add provider: KEY or use targets with a host",
                "add provider: KEY or fill the columns imap, smtp, pop3",
            )
            yield _without_cells(what.replace(*advice), entry)
    login = entries[0].get("login", entries[0])
    if isinstance(login, dict):
        named, variable = login.get("password_file"), login.get("password_env")
        if named == _UNWRITTEN:
            return
        secret = folder / str(named) if named else None
        try:
            read_secret(secret, str(variable) if variable else None)
        except FieldError as error:
            what = str(error).replace(f"{secret} cannot be read: ", "the file cannot be read: ")
            what = what.replace(f"{secret} ", "the file ")
            what = what.replace(
                f"the environment variable {variable} is not set", "the environment variable is not set"
            )
            yield f"{'password_file' if named else 'password_env'}: {what}"


def _model_problems(
    model: type[AccountSection | TargetSection], entry: Mapping[str, YamlValue], folder: Path
) -> Iterator[str]:
    """Yield all mistakes of an entry: a wrong field keeps the rules about several fields from being checked."""
    left = dict(entry)
    while True:
        try:
            model.model_validate(left, context={"folder": folder})
        except ValidationError as error:
            yield from section_problems(error)
            wrong = _OPTIONAL & left.keys() & {str(part["loc"][0]) for part in error.errors() if part["loc"]}
            if wrong:
                left = {key: value for key, value in left.items() if key not in wrong}
                continue
        return


def _without_cells(what: str, entry: Mapping[str, YamlValue]) -> str:
    """Return a mistake without what stands in a cell: where a row is shifted, that may be the password."""
    domain = str(entry.get("address", "")).rpartition("@")[2]
    if domain and not is_host_name(domain):
        what = what.replace(f"no provider is known for {domain};", "no provider is known for its domain;")
    return what.replace(f"'{entry.get('provider')}' is not", "is not")


def _shown(address: str) -> str:
    """Return an address that can be no password, since a provider has its domain; of another nothing."""
    return f"{address} " if catalogue.by_domain(address) else ""


def _with_secret(entry: Mapping[str, YamlValue], secret: str) -> dict[str, YamlValue]:
    """Return an entry with the path of the new password file, if there is one."""
    if not secret:
        return dict(entry)
    login = entry.get("login")
    if isinstance(login, dict):
        return {**entry, "login": {**login, "password_file": secret}}
    return {**entry, "password_file": secret}
