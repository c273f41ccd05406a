"""Asks the user at the terminal, in English or Italian. All output goes to stderr.

An answer is checked by the rules of the config, and rejected with the config's message.
"""

from __future__ import annotations

import getpass
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable

from pydantic import SecretStr

from mailwatch.cli.language import translated
from mailwatch.i18n import Texts, load_texts
from mailwatch.setup.texts import printable_text


def texts(language: str) -> Texts:
    """Return the texts in a language."""
    return load_texts("mailwatch.cli.init", f"{language}.yaml")


def wrapped(text: str) -> str:
    """Return a text in lines that fit the terminal; unchanged if there is none."""
    if not sys.stderr.isatty():
        return text
    # One column less: a terminal may wrap a line that fills it.
    columns = shutil.get_terminal_size().columns - 1
    indent = " " * (len(text) - len(text.lstrip()))
    end = text[len(text.rstrip()) :]
    lines = textwrap.wrap(
        text, max(columns, 20), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines) + end


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
        self.yes = yes

    def show(self, key: str, **facts: object) -> None:
        """Print a text."""
        print(wrapped(self.text(key, **facts)), file=sys.stderr, flush=True)

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
        if default is not None and self.yes:
            return default
        self._check_interactive(option)
        while True:
            answer = self._line(self.text(key, default=default, **facts)).strip()
            if not answer and default is not None:
                return default
            if not answer:
                self.show("empty")
            elif wrong := check(answer):
                self.show("bad_value", what=translated(wrong))
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
            self.show("bad_value", what=translated(wrong))

    def agree(self, key: str, *, default: bool, **facts: object) -> bool:
        """Ask for a yes or no. Raises MissingAnswerError, EOFError."""
        if self.yes:
            return default
        self._check_interactive("--yes")
        words = self.texts.section("answers")
        answers = {words["agree"]: True, words["decline"]: False}
        choice = self.texts["yes_default" if default else "no_default"]
        while True:
            answer = self._line(f"{self.text(key, **facts)} {choice} ").strip().casefold()
            if not answer:
                return default
            if answer[0] in answers:
                return answers[answer[0]]
            self.show("bad_answer")

    def password(self, key: str = "ask_password", *, option: str = "--password-file FILE") -> SecretStr:
        """Ask for a password, which the terminal does not show. Raises MissingAnswerError, PasswordVisibleError,
        EOFError.
        """
        while True:
            if (password := self.password_or_skip(key, option=option)) is not None:
                return password
            self.show("empty")

    def password_or_skip(self, key: str, *, option: str = "--password-file FILE") -> SecretStr | None:
        """Ask for a password as `password` does; return None for Enter alone."""
        self._check_interactive(option)
        while True:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", getpass.GetPassWarning)
                    word = getpass.getpass(wrapped(self.text(key)), stream=sys.stderr)
                word.encode()
            except getpass.GetPassWarning:
                raise PasswordVisibleError from None
            except UnicodeError:
                # Not kept: the error carries what was typed.
                self.show("not_text")
                continue
            return SecretStr(word) if word else None

    def _check_interactive(self, option: str) -> None:
        if not self.interactive:
            raise MissingAnswerError(option)

    def _line(self, prompt: str) -> str:
        print(wrapped(prompt), end="", file=sys.stderr, flush=True)
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
