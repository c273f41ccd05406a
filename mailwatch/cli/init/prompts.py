"""Asks the user at the terminal, in English or Italian. All output goes to stderr.

An answer is checked by the rules of the config, and rejected with the config's message.
"""

from __future__ import annotations

import getpass
import sys
import warnings
from collections.abc import Callable

from pydantic import SecretStr, TypeAdapter, ValidationError

from mailwatch.config.types import Address, Host, Label, Port, Text
from mailwatch.i18n import Texts, load_texts


def texts(language: str) -> Texts:
    """Return the texts in a language."""
    return load_texts("mailwatch.cli.init", f"{language}.yaml")


def printable_text(text: object) -> str:
    """Return text from another party, such as a server, without control characters and at most 200 characters
    long.
    """
    return "".join(sign if sign.isprintable() else "?" for sign in str(text))[:200]


Check = Callable[[object], str]
"""Returns what is wrong with a value, "" if nothing is."""


def _make_check(rule: TypeAdapter[object]) -> Check:
    def problem(value: object) -> str:
        try:
            rule.validate_python(value)
        except ValidationError as error:
            return str(error.errors(include_input=False)[0]["msg"]).removeprefix("Value error, ")
        return ""

    return problem


ADDRESS, NAME, LOCATION, HOST, PORT = map(_make_check, map(TypeAdapter, (Address, Label, Text, Host, Port)))
USERNAME = CLIENT_ID = LOCATION


class MissingAnswerError(Exception):
    """An answer is needed and there is no terminal. The argument is the option that would give it."""


class PasswordVisibleError(Exception):
    """The terminal would show the password."""


class OptionError(Exception):
    """An option cannot be used. The argument is the reason."""


class WizardStoppedError(Exception):
    """The setup cannot go on; the reason has been printed."""


class Prompts:
    """Asks questions in one language. With `yes`, questions with a default are not asked."""

    def __init__(self, texts: Texts, *, yes: bool) -> None:
        self.texts = texts
        self.interactive = sys.stdin.isatty()
        self._yes = yes

    def show(self, key: str, **facts: object) -> None:
        """Print a text."""
        print(self.text(key, **facts), file=sys.stderr, flush=True)

    def text(self, key: str, **facts: object) -> str:
        """Return a text with its fields filled in."""
        return self.texts[key].format(**{name: printable_text(fact) for name, fact in facts.items()})

    def ask(
        self,
        key: str,
        option: str,
        *,
        default: str | None = None,
        check: Callable[[str], str] = lambda _: "",
        **facts: object,
    ) -> str:
        """Ask for a line until `check` accepts it. Raises MissingAnswerError, EOFError."""
        if default is not None and self._yes:
            return default
        self._check_interactive(option)
        while True:
            answer = self._line(self.text(key, default=default, **facts)).strip()
            if not answer and default is not None:
                return default
            if not answer:
                self.show("empty")
            elif wrong := check(answer):
                self.show("bad_value", what=wrong)
            else:
                return answer

    def ask_or_skip(self, key: str, option: str, *, check: Callable[[str], str], **facts: object) -> str:
        """Ask for a line that may be left empty. Raises MissingAnswerError, EOFError."""
        self._check_interactive(option)
        while True:
            answer = self._line(self.text(key, **facts)).strip()
            wrong = check(answer) if answer else ""
            if not wrong:
                return answer
            self.show("bad_value", what=wrong)

    def agree(self, key: str, *, default: bool) -> bool:
        """Ask for a yes or no. Raises MissingAnswerError, EOFError."""
        if self._yes:
            return default
        self._check_interactive("--yes")
        words = self.texts.section("answers")
        answers = {words["agree"]: True, words["decline"]: False}
        choice = self.texts["yes_default" if default else "no_default"]
        while True:
            answer = self._line(f"{self.text(key)} {choice} ").strip().casefold()
            if not answer:
                return default
            if answer[0] in answers:
                return answers[answer[0]]
            self.show("bad_answer")

    def password(self) -> SecretStr:
        """Ask for a password, which the terminal does not show. Raises MissingAnswerError, PasswordVisibleError,
        EOFError.
        """
        self._check_interactive("--password-file FILE")
        while True:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", getpass.GetPassWarning)
                    word = getpass.getpass(self.text("ask_password"), stream=sys.stderr)
                word.encode()
            except getpass.GetPassWarning:
                raise PasswordVisibleError from None
            except UnicodeError:
                # Not kept: the error carries what was typed.
                self.show("not_text")
                continue
            if word:
                return SecretStr(word)
            self.show("empty")

    def _check_interactive(self, option: str) -> None:
        if not self.interactive:
            raise MissingAnswerError(option)

    def _line(self, prompt: str) -> str:
        print(prompt, end="", file=sys.stderr, flush=True)
        while True:
            try:
                line = sys.stdin.readline()
            except UnicodeDecodeError:
                self.show("not_text")
                continue
            if not line:
                print(file=sys.stderr)
                raise EOFError
            return line
