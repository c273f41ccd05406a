"""docs/reference/commands.md: every command with its arguments and options, from the parsers themselves.

argparse writes its own help differently in each version of Python, so this page is made from the actions.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator

from mailwatch.cli import GROUPS, VERBS, load_verb
from tools.markdown import code, escape, table

HEAD = """\
# Commands

`make docs-generate` writes this page from the parsers. `mailwatch COMMAND --help` prints the same.

`--config FILE` may stand before any command. Without it MailWatch reads `$MAILWATCH_CONFIG`, else `./config.yaml`.
`--json` prints JSON wherever a command prints data. Data goes to stdout, all else to stderr.

Tables fit the terminal, or `COLUMNS`; what does not fit stands below its row. In a pipe a row is one line,
without colours. Times are local (`timezone` in the config, else `TZ`, else the machine's) and name their zone
once; `--utc` prints UTC. In an Italian locale (`LC_ALL`, `LC_MESSAGES`, `LANG`) commands speak Italian. JSON,
CSV and metrics are always in English and UTC, and log lines in English. Scripts should use `--json`.

| exit status | meaning |
|---|---|
| 0 | done, and nothing is wrong |
| 1 | done, and it found a problem; or it could not be done |
| 2 | used wrongly: an unknown option, a mistake in the config |
| 3 | `probe` only: no target is down, and some are unknown |
| 70 | a defect of MailWatch; the answer says nothing of what you asked |
| 71 | the machine lacks memory, threads or file handles; the answer says nothing of what you asked |

`MAILWATCH_TRACEBACK=1` prints where a defect is: files and lines, no values.
"""


def page() -> str:
    """Return the page."""
    lines = [HEAD]
    for group, verbs in GROUPS.items():
        rows = [(f"[`{name}`](#{name})", escape(does)) for name, does in verbs.items()]
        lines += [*table((group, "what it does"), rows), ""]
    del lines[-1]
    for name, does in VERBS.items():
        verb = argparse.ArgumentParser(prog=f"mailwatch {name}", description=f"{does[0].upper()}{does[1:]}.")
        load_verb(name).add(verb)
        lines += ["", f"## {name}", "", *_command(verb)]
    return "\n".join(lines) + "\n"


def _command(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the lines about one command, then those about the commands in it."""
    actions = [action for action in parser._actions if action.help is not argparse.SUPPRESS]
    inner = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
    words = [action for action in actions if not isinstance(action, argparse._HelpAction) and action not in inner]
    if parser.description:
        yield escape(parser.description)
    if not inner:
        yield ""
        yield f"    {parser.prog} {' '.join(_usage(action) for action in words)}".rstrip()
        if words:
            yield ""
            yield from table(("argument", "meaning"), [(code(_name(a)), _meaning(a)) for a in words])
    if parser.epilog:
        yield ""
        yield from textwrap.wrap(escape(parser.epilog), 118, break_on_hyphens=False)
    for action in inner:
        for choice in action._choices_actions:
            verb = action.choices[choice.dest]
            verb.prog = f"{parser.prog} {choice.dest}"
            yield f"\n### {parser.prog.removeprefix('mailwatch ')} {choice.dest}\n"
            does = choice.help or ""
            verb.description = f"{does[:1].upper()}{does[1:]}."
            yield from _command(verb)


def _value(action: argparse.Action) -> str:
    """Return what stands after an option, or as the argument: FILE, it|en, nothing for a switch."""
    if action.nargs == 0:
        return ""
    if action.choices is not None and action.metavar is None:
        return "|".join(str(choice) for choice in action.choices)
    return str(action.metavar or action.dest.upper())


def _name(action: argparse.Action) -> str:
    return (
        ", ".join(action.option_strings)
        + (" " if action.option_strings and _value(action) else "")
        + _value(action)
    )


def _usage(action: argparse.Action) -> str:
    value = _value(action)
    if action.option_strings:
        written = f"{action.option_strings[0]} {value}".rstrip()
        return written if action.required else f"[{written}]"
    if action.nargs == "?":
        return f"[{value}]"
    if action.nargs == "*":
        return f"[{value} ...]"
    return f"{value} ..." if action.nargs == "+" else value


def _meaning(action: argparse.Action) -> str:
    return escape((action.help or "").replace("%%", "%"))
