"""The Italian of the terminal: phrases.it.yaml belongs to the code, and all that it prints has its Italian."""

from __future__ import annotations

import argparse
import ast
import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from mailwatch import config
from mailwatch.cli import GROUPS, VERBS, main, parser_with
from mailwatch.cli.language import tr, translated, word
from mailwatch.config import ConfigError
from mailwatch.model import Cause, Outcome, Phase
from mailwatch.phrases import load_phrases
from tests.helpers.paths import ROOT, TESTDATA

FIELD = re.compile(r"{\w+}")
PARTS = re.compile(r"{\w+}|[;:,()]")
BUNDLES = TESTDATA / "contracts" / "bundles"
PHRASES = load_phrases()


@cache
def texts_of_the_code() -> frozenset[str]:
    """Every text in the code: fields of f-strings as {}, the name of the program left out, and line by line."""
    found: set[str] = set()
    for path in [*(ROOT / "mailwatch").rglob("*.py"), Path(argparse.__file__)]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= variants(re.sub(r"%\(\w+\)[sr]|%[sr]", "{}", FIELD.sub("{}", node.value)))
            elif isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
                found |= variants("".join(str(part) for part in parts))
    return frozenset(found) | {os.strerror(number) for number in errno.errorcode}


def variants(text: str) -> set[str]:
    bare = re.sub(r"^mailwatch(?: [a-z]+)?: ", "", text)
    return {text, bare}


def test_each_text_is_in_the_code_with_the_same_fields() -> None:
    # Messages are put together from parts, by which they are found here.
    there = "\n".join(texts_of_the_code())
    assert [text for text in PHRASES if any(part.strip() not in there for part in PARTS.split(text))] == []
    for english, italian in PHRASES.items():
        assert set(FIELD.findall(italian)) <= set(FIELD.findall(english)), english


def texts_of_help(parser: argparse.ArgumentParser) -> Iterator[str]:
    """What the help of a command and of the commands in it says."""
    groups = (group for group in parser._action_groups if group._group_actions)
    yield from filter(None, (parser.epilog, *(group.title for group in groups)))
    for action in parser._actions:
        if action.help and action.help != argparse.SUPPRESS:
            yield action.help
        if isinstance(action, argparse._SubParsersAction):
            yield from (choice.help or "" for choice in action._choices_actions)
            for inner in action.choices.values():
                yield from texts_of_help(inner)


def test_help_is_all_in_italian(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {*GROUPS, *texts_of_help(parser_with(VERBS))}
    monkeypatch.setenv("LC_ALL", "it_IT.UTF-8")
    assert sorted(text for text in found if text and translated(text) == text) == []


def test_all_calls_of_tr_have_italian() -> None:
    missing = []
    for path in (ROOT / "mailwatch" / "cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("tr", "say"):
                choices = (
                    [node.args[0].body, node.args[0].orelse] if isinstance(node.args[0], ast.IfExp) else node.args
                )
                missing += [
                    f"{path.name}: {text.value!r}"
                    for text in choices
                    if isinstance(text, ast.Constant) and str(text.value) not in PHRASES
                ]
    assert missing == []


def test_each_cause_phase_and_outcome_has_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"cause": Cause, "phase": Phase, "outcome": Outcome}
    assert [word(kind, value) for kind, known in values.items() for value in known] == [*Cause, *Phase, *Outcome]
    monkeypatch.setenv("LC_ALL", "it")
    same = [value for kind, known in values.items() for value in known if word(kind, value) == value]
    assert same == [Phase.TLS] or same == []


def test_the_lines_of_help_are_one_line_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for language in ("en", "it"):
        monkeypatch.setenv("LC_ALL", language)
        assert [name for name, does in VERBS.items() if len(tr(does)) > 80 - 17] == []


def test_a_message_is_found_by_its_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "mailwatch: argument --to: not allowed with argument --x\nnothing known"
    assert translated(message) == message
    monkeypatch.setenv("LC_ALL", "it")
    assert translated(message) == "mailwatch: --to: non ammesso insieme a --x\nnothing known"
    assert tr("usage: ") == "uso: "


@pytest.mark.parametrize(
    ("message", "italian"),
    [
        ("t.csv:7: address: is already in row 6; keep one", "t.csv:7: address: è già alla riga 6; tienine uno"),
        ("c.yaml:3: kind: use imap, pop3, mx or roundtrip", "c.yaml:3: kind: usa imap, pop3, mx o roundtrip"),
        (
            "c.yaml:1: cannot be changed: /x is on a read-only mount; mount its folder writable (without :ro)",
            "c.yaml:1: non si può modificare: /x è montato in sola lettura; monta la sua cartella in scrittura "
            "(senza :ro)",
        ),
    ],
)
def test_no_part_of_a_message_stays_english(message: str, italian: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "it")
    assert translated(message) == italian


@pytest.mark.parametrize("path", sorted(BUNDLES.glob("*.zip")), ids=lambda path: path.stem)
def test_a_verification_is_in_italian_and_its_json_is_not(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LC_ALL", "it")
    main(["verify", str(path), "--json"])
    claims = json.loads(capsys.readouterr().out)["claims"]
    assert claims
    assert [claim["detail"] for claim in claims if translated(claim["detail"]) == claim["detail"]] == []
    assert [claim["claim"] for claim in claims if word("claim", claim["claim"]) == claim["claim"]] == []
    main(["verify", str(path)])
    assert "Il fascicolo è valido" in (printed := capsys.readouterr().out) or "Nessun errore" in printed


def test_errors_are_in_italian(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LC_ALL", "it_IT.UTF-8")
    config = tmp_path / "config.yaml"
    config.write_text("vantage_point: {name: casa}\ntargets: [{name: a, kind: imap, host: localhost}]\n")
    missing = f"mailwatch: {tmp_path}/data non contiene ancora un registro; lo crea `mailwatch run`\n"
    for words, text in (
        (["--config", str(config), "outages"], missing),
        (["--config", str(config), "availability", "--from", "ieri"], "mailwatch: --from: 'ieri' non è una data"),
        (
            ["--config", str(config), "availability", "--from", "2026-11-31"],
            "mailwatch: --from: '2026-11-31' non è una data o un'ora (il mese non ha questo giorno); scrivi 2026-",
        ),
        (
            ["verify", str(tmp_path)],
            f"mailwatch: {tmp_path} non è un file ma una cartella; indica proprio il file",
        ),
        (
            ["--config", str(tmp_path / "none"), "outages"],
            f"{tmp_path}/none:1: non si può leggere: file o cartella",
        ),
    ):
        with contextlib.suppress(SystemExit):
            main(words)
        assert capsys.readouterr().err.startswith(text)


def test_without_a_command_the_help_is_printed_by_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    places = [printed.index(f"\n{group}:\n") for group in GROUPS]
    assert places == sorted(places)
    assert all(re.search(rf"^  {name} +\S", printed, re.MULTILINE) for name in VERBS)


def test_a_mistyped_command_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["outage"])
    assert ended.value.code == 2
    assert "did you mean `mailwatch outages`?" in capsys.readouterr().err


PLACE = re.compile(r"\A(?:\w+(?:\[\d+\])?(?:\.[\w<-]+(?:\[\d+\])?)*): ")


def test_each_mistake_of_a_config_has_its_italian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [path.read_text() for path in sorted((TESTDATA / "bad-config").glob("*.yaml"))]
    values = (line.split("\t")[0] for line in (TESTDATA / "bad-values.tsv").read_text().splitlines())
    head = "targets: [{name: lab, kind: imap, host: h.example}]\n"
    cases += [f"{head}{one[3:]}\n".replace("¶", "\n") for one in values if one[0] == "W"]
    cases += ["guard: off\naccounts: [{address: a@gmail.com, password_env: PATH}]\ntimezone: UTC\n"]
    found: set[str] = set()
    for text in cases:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        try:
            config.load(path)
        except ConfigError as error:
            found.update(problem.message for problem in error.problems)
        if rest := config.salvage(path):
            found.update(problem.message for problem in config.reference_problems(rest)[0])
            found.update(problem.message for problem in (*config.warnings(rest), *config.advice(rest)))
    assert len(found) > 200
    monkeypatch.setenv("LC_ALL", "it_IT.UTF-8")
    found = {PLACE.sub("", one, count=1) for one in found}
    left = sorted(text for text in found if translated(text) == text)
    assert not left, "\n".join(left)
    line = "config.yaml:7: targets[0].port: must be at least 1"
    assert translated(line) == "config.yaml:7: targets[0].port: deve essere almeno 1"
