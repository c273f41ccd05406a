"""The parser of the command line: argparse, with help by groups and in the language of the terminal."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from mailwatch.cli.language import tr, translated


class HelpFormatter(argparse.HelpFormatter):
    """Writes help in the language of the terminal."""

    def start_section(self, heading: str | None) -> None:
        """Begin a section, with its heading."""
        super().start_section(heading and tr(heading))

    def add_text(self, text: str | None) -> None:
        """Add a paragraph."""
        super().add_text(text and translated(text))

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[Any],
        prefix: str | None = None,
    ) -> None:
        """Add the line of usage."""
        super().add_usage(usage, actions, groups, tr("usage: ") if prefix is None else prefix)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help and translated(action.help)


class Parser(argparse.ArgumentParser):
    """A parser of one verb. Its subparsers are of the same class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as argparse has it
        super().__init__(*args, **{"formatter_class": HelpFormatter, **kwargs})

    def error(self, message: str) -> NoReturn:
        """Print the usage and what is wrong; exit with status 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {tr('error')}: {translated(message)}\n")


class RootParser(Parser):
    """The parser of all verbs: its help lists them by group. Without a verb it prints its help."""

    groups: Mapping[str, Iterable[str]] = {}
    verbs: argparse._SubParsersAction[Parser]

    def format_help(self) -> str:
        """Return the help."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        # argparse has no public way to list subparsers in sections.
        listed = {action.dest: action for action in self.verbs._choices_actions}  # noqa: SLF001
        for title, names in self.groups.items():
            formatter.start_section(title)
            formatter.add_arguments([listed[name] for name in names if name in listed])
            formatter.end_section()
        formatter.start_section("options")
        formatter.add_arguments(action for action in self._actions if action is not self.verbs)
        formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def error(self, message: str) -> NoReturn:
        """Print what is wrong; without a verb, the help. Exit with status 2."""
        if message.startswith("the following arguments are required"):
            self.print_help(sys.stderr)
            self.exit(2)
        if found := re.fullmatch(r"argument COMMAND: invalid choice: '(.*?)' .*", message, re.DOTALL):
            self.exit(2, f"mailwatch: {_unknown_verb(found[1], self.verbs.choices)}\n")
        super().error(message)


def _unknown_verb(word: str, names: Iterable[str]) -> str:
    import difflib  # Most commands do not need it.

    near = difflib.get_close_matches(word, names, 1)
    if near:
        return tr("{word} is not a command; did you mean `mailwatch {name}`?", word=repr(word), name=near[0])
    return tr("{word} is not a command; see `mailwatch --help`", word=repr(word))
