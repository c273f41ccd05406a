"""The catalogue of providers is whole, agrees with itself, and is found by what people type."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime
from importlib import resources

import pytest

from mailwatch.cli import main
from mailwatch.config import catalogue
from mailwatch.config.catalogue import authorization_servers, operators
from mailwatch.model import Kind, TlsMode
from mailwatch.net import endpoint_problem

OPERATORS = resources.files(catalogue).joinpath("operators.tsv")
ROWS = [(provider, server) for provider in catalogue.providers() for server in provider.servers]
PRESETS = {
    (Kind.IMAP, 993): TlsMode.IMPLICIT,
    (Kind.IMAP, 143): TlsMode.STARTTLS,
    (Kind.POP3, 995): TlsMode.IMPLICIT,
    (Kind.POP3, 110): TlsMode.STARTTLS,
    (Kind.SMTP, 465): TlsMode.IMPLICIT,
    (Kind.SMTP, 587): TlsMode.STARTTLS,
    (Kind.SMTP, 25): TlsMode.STARTTLS,
}
HEAD = "key\tname\tkind\thost\tport\ttls\tauth\tusername\tdomains\n"
ROW = "lab\tLab\timap\timap.example.org\t993\timplicit\tpassword\taddress\texample.org"


def test_libero_and_virgilio_come_first_with_all_their_domains() -> None:
    libero, virgilio = catalogue.providers()[:2]
    assert (libero.key, libero.name) == ("libero", "Libero")
    assert libero.domains == ("libero.it", "iol.it", "blu.it", "inwind.it", "giallo.it")
    assert (virgilio.key, virgilio.name, virgilio.domains) == ("virgilio", "Virgilio", ("virgilio.it",))


@pytest.mark.parametrize(
    ("key", "kind", "host", "port"),
    [
        ("libero", Kind.IMAP, "imapmail.libero.it", 993),
        ("libero", Kind.POP3, "popmail.libero.it", 995),
        ("libero", Kind.SMTP, "smtp.libero.it", 465),
        ("virgilio", Kind.IMAP, "in.virgilio.it", 993),
        ("virgilio", Kind.POP3, "in.virgilio.it", 995),
        ("virgilio", Kind.SMTP, "out.virgilio.it", 465),
    ],
)
def test_libero_and_virgilio_have_their_servers(key: str, kind: Kind, host: str, port: int) -> None:
    server = catalogue.server(key, kind)
    assert server is not None
    assert (server.host, server.port, server.tls) == (host, port, TlsMode.IMPLICIT)
    assert server.takes_password
    assert server.username_for("mario.rossi@libero.it") == "mario.rossi@libero.it"


def test_port_and_tls_agree_in_every_row(subtests: pytest.Subtests) -> None:
    for provider, server in ROWS:
        with subtests.test(provider=provider.key, host=server.host):
            assert PRESETS[server.kind, server.port] is server.tls


def test_port_587_never_uses_implicit_tls() -> None:
    doors = [server for _, server in ROWS if server.port == 587]
    assert len(doors) > 5
    assert {server.tls for server in doors} == {TlsMode.STARTTLS}


def test_every_row_has_the_right_form() -> None:
    for provider, server in ROWS:
        assert re.fullmatch(r"[a-z0-9-]+", provider.key)
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", server.host), server.host
        assert set(server.auth) <= {"password", "password-encrypted", "oauth2"}


def test_every_provider_has_domains_and_both_ways_of_mail() -> None:
    for provider in catalogue.providers():
        kinds = {server.kind for server in provider.servers}
        assert provider.domains, provider.key
        assert Kind.SMTP in kinds, provider.key
        assert kinds & {Kind.IMAP, Kind.POP3}, provider.key


def test_a_key_and_a_domain_belong_to_one_provider_only() -> None:
    keys = [provider.key for provider in catalogue.providers()]
    domains = [domain for provider in catalogue.providers() for domain in provider.domains]
    assert len(keys) == len(set(keys))
    assert len(domains) == len(set(domains))


def test_the_catalogue_file_states_its_source_and_date() -> None:
    text = resources.files(catalogue).joinpath("providers.tsv").read_text(encoding="utf-8")
    assert f"# Seen: {catalogue.SOURCE_DATE}" in text
    assert "Thunderbird" in text.split("\n")[1]


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("mario.rossi@libero.it", "libero"),
        ("libero.it", "libero"),
        ("  Mario.Rossi@LIBERO.IT ", "libero"),
        ('"a@b"@virgilio.it', "virgilio"),
        ("a@iol.it", "libero"),
        ("a@notlibero.it", None),
        ("a@mail.libero.it", None),
        ("", None),
    ],
)
def test_an_address_finds_the_provider_of_its_domain(address: str, key: str | None) -> None:
    found = catalogue.by_domain(address)
    assert (found.key if found else None) == key


@pytest.mark.parametrize(
    ("word", "first"),
    [("LIBERO", "libero"), ("inwind", "libero"), ("out.virgilio", "virgilio"), ("", "libero"), ("zzz", None)],
)
def test_a_search_term_finds_providers_in_catalogue_order(word: str, first: str | None) -> None:
    found = [provider.key for provider in catalogue.search_providers(word)]
    order = [provider.key for provider in catalogue.providers()]
    assert (found[0] if found else None) == first
    assert found == sorted(found, key=order.index)


def test_the_first_row_of_a_kind_is_the_first_choice() -> None:
    assert catalogue.server("gandi", Kind.SMTP) == catalogue.server("gandi", Kind.SMTP, TlsMode.IMPLICIT)
    second = catalogue.server("gandi", Kind.SMTP, TlsMode.STARTTLS)
    assert second is not None
    assert second.port == 587
    assert catalogue.server("libero", Kind.SMTP, TlsMode.STARTTLS) is None
    assert catalogue.server("nobody", Kind.SMTP) is None


def test_a_provider_that_wants_the_local_part_gets_it() -> None:
    free = catalogue.server("free", Kind.IMAP)
    assert free is not None
    assert free.username_for("mario.rossi@free.fr") == "mario.rossi"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (ROW.replace("993", "many"), "line 2: invalid literal"),
        (ROW.replace("implicit", "ssl"), "line 2: 'ssl' is not a valid TlsMode"),
        (ROW.replace("\timap\t", "\tjmap\t"), "line 2: 'jmap' is not a valid Kind"),
        (ROW.replace("\taddress", "\twhole"), "line 2: 'whole' is not a valid UsernameForm"),
        ("lab\tLab", "line 2: expected 9 columns, got 2"),
        (ROW + "\tmore", "line 2: expected 9 columns, got 10"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(row: str, complaint: str) -> None:
    assert catalogue.parse(HEAD + ROW)[0].domains == ("example.org",)
    with pytest.raises(ValueError, match=re.escape(complaint)):
        catalogue.parse(HEAD + row)


# Authorization servers


def test_authorization_servers_are_spoken_to_over_tls_and_ask_for_mail() -> None:
    servers = authorization_servers()
    assert set(servers) == {"google", "microsoft"}
    for server in servers.values():
        addresses = [server.authorization, server.token, *filter(None, [server.device])]
        assert all(address.startswith("https://") and endpoint_problem(address) == "" for address in addresses)
        assert server.redirect in ("127.0.0.1", "localhost")
    assert "offline_access" in servers["microsoft"].scope, "without it there is no refresh token"
    assert servers["google"].device == "", "its device flow does not allow the scope of mail"


def test_the_source_of_the_authorization_servers_and_its_date_are_stated() -> None:
    text = resources.files(catalogue).joinpath("authorization.tsv").read_text(encoding="utf-8")
    assert re.search(r"^# Seen: \d{4}-\d\d-\d\d$", text, re.MULTILINE)
    assert "# Source: " in text


# The verb


def run(*words: str) -> int:
    return main(["providers", *words])


def test_the_list_as_json_is_the_whole_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert [item["key"] for item in plain] == [provider.key for provider in catalogue.providers()]
    assert plain[0]["servers"][0] == {
        "kind": "imap", "host": "imapmail.libero.it", "port": 993,
        "tls": "implicit", "auth": ["password"], "username": "address",
    }  # fmt: skip


def test_an_address_lists_its_provider_and_the_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("mario.rossi@virgilio.it") == 0
    output = capsys.readouterr()
    rows = [line.partition("virgilio.it:")[2].split()[:2] for line in output.out.splitlines()[1:]]
    assert [row for row in rows if row] == [["993", "implicit"], ["995", "implicit"], ["465", "implicit"]]
    assert all("password, address" in line for line in output.out.splitlines() if "virgilio.it:" in line)
    assert "libero" not in output.out
    assert output.err == f"Source: {catalogue.SOURCE}, seen {catalogue.SOURCE_DATE}\n"


def test_a_search_without_a_match_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("zzz") == 1
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "no provider matches 'zzz'; mailwatch providers lists all\n")
    assert run("zzz", "--json") == 1
    assert json.loads(capsys.readouterr().out) == []


# The companies behind the providers


def test_each_fact_about_a_company_has_its_source_and_day() -> None:
    for company in operators.operators().values():
        assert company.key in {provider.key for provider in catalogue.providers()}
        assert company.facts(), company.key
        for fact in company.facts():
            assert fact.source_url.startswith("https://"), fact
            assert date(2026, 1, 1) <= fact.seen_on <= datetime.now(UTC).date(), fact
            assert fact.value == fact.value.strip() != ""
    rows = [line for line in OPERATORS.read_text().splitlines() if line and not line.startswith("#")]
    assert all(len(line.split("\t")) == len(operators.COLUMNS) and all(line.split("\t")) for line in rows)


def test_only_what_the_companys_own_terms_say_is_checked() -> None:
    checked = {key for key, one in operators.operators().items() if any(fact.checked for fact in one.facts())}
    assert checked == {"libero", "virgilio", "aruba-pec"}
    libero = operators.operator("libero")
    assert libero is not None
    assert libero.legal_name is not None
    assert libero.legal_name.value == "Italiaonline S.p.A."
    tiscali = operators.operator("tiscali")
    assert tiscali is not None
    assert (libero.addressee, tiscali.addressee) == ("Italiaonline S.p.A.", None)
    # A PEC that nobody published is not guessed; a letter leaves it blank.
    assert all(one.pec is None for one in operators.operators().values())
    assert operators.operator("gmail") is operators.operator(None) is None


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("libero\tlegal_name\tX\thttps://x.example\t2026-11-30", "6 columns"),
        ("libero\tlegal_name\t\thttps://x.example\t2026-11-30\tyes", "without blanks"),
        ("libero\towner\tX\thttps://x.example\t2026-11-30\tyes", "owner is no fact"),
        ("libero\tlegal_name\tX\thttp://x.example\t2026-11-30\tyes", "https address"),
        ("libero\tlegal_name\tX\thttps://x.example\tyesterday\tyes", "line 2"),
        ("libero\tlegal_name\tX\thttps://x.example\t2026-11-30\tmaybe", "yes or no"),
    ],
)
def test_a_fact_without_source_or_day_is_refused(row: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        operators.parse("\t".join(operators.COLUMNS) + "\n" + row)


def test_a_fact_has_one_value() -> None:
    row = "libero\tlegal_name\tX\thttps://x.example\t2026-11-30\tyes\n"
    with pytest.raises(ValueError, match="two values"):
        operators.parse(row * 2)
