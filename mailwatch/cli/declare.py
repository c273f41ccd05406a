"""mailwatch declare: writes which ledger observes which mailboxes, to be sent by mail, and keeps what arrived."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mailwatch.cli.common import add_options, open_config, open_reader
from mailwatch.cli.errors import error_reason, print_error
from mailwatch.cli.files import check_regular_files, check_writable, write_output
from mailwatch.cli.language import language, tr
from mailwatch.config import Config, effective
from mailwatch.evidence.chain import chain_statement
from mailwatch.evidence.declaration import declaration_text
from mailwatch.i18n import LANGUAGES
from mailwatch.ledger import checkpoint
from mailwatch.ledger.checkpoint import CheckpointError, verifier_key
from mailwatch.ledger.declaration import MAX_MESSAGE_BYTES, declared_checkpoint
from mailwatch.store import load_keys
from mailwatch.store.declarations import Declarations
from mailwatch.times import now, rfc3339


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verb.epilog = (
        "Send the text to yourself by PEC, or to an address at another provider. Save the message as it "
        "arrived (.eml) and keep it with --keep; each bundle encloses it."
    )
    add_options(verb, json=False)
    verb.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the text to this file")
    verb.add_argument("--lang", choices=LANGUAGES, default=language(), help="language of the text")
    verb.add_argument(
        "--keep", type=Path, metavar="FILE.eml", help="keep the message as it arrived, to be enclosed in bundles"
    )
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    config = open_config(args)
    return _keep(config, args.keep) if args.keep else _write(args, config)


def _write(args: argparse.Namespace, config: Config) -> int:
    keys, zone = load_keys(config.data_dir), config.zone()
    if args.output:
        check_writable(args.output)
    with open_reader(config) as reader:
        signed = reader.last_checkpoint()
        chain = chain_statement(reader, verifier_key(keys.origin, keys.public)).get("chain", [])
    if signed is None:
        print_error("mailwatch: the ledger has no checkpoint yet; `mailwatch run` signs one every ten minutes")
        return 1
    made = checkpoint.verify(signed.note, keys.public)
    before = [one["ledger"] for one in chain]
    mailboxes = sorted(set(_mailboxes(effective(config)["targets"])))
    text = declaration_text(args.lang, keys, mailboxes, signed, made, datetime.now(zone), before)
    if args.output:
        write_output(args.output, text.encode())
        print(args.output)
    else:
        print(text, end="")
    return 0


def _keep(config: Config, path: Path) -> int:
    """Keep a message that has a checkpoint of this ledger."""
    check_regular_files([path], MAX_MESSAGE_BYTES)
    keys = load_keys(config.data_dir)
    try:
        message = path.read_bytes()
        made = declared_checkpoint(message, keys.public)
        with open_reader(config) as reader:
            own = reader.checkpoint(at_least=made.size)
        if own is None or checkpoint.verify(own.note, keys.public) != made:
            raise CheckpointError(f"the ledger has no such checkpoint of {made.size} entries")
        kept = Declarations(config.data_dir)
        name = kept.save(message)
        found = _signatures(message)
        if found.keys:
            kept.save_keys(name, found.keys)
    except CheckpointError as error:
        print_error(f"mailwatch: {path}: {error}")
        return 1
    except OSError as error:
        print_error(f"mailwatch: {path}: {error_reason(error)}")
        return 1
    print(tr("kept as {name}; bundles enclose it from now on", name=f"declarations/{name}.eml"))
    for line in found.lines or [tr("no signature of it can be checked: what arrived is your word")]:
        print(line)
    return 0


@dataclass(frozen=True, slots=True)
class _Signatures:
    """The keys of the valid DKIM signatures of a message, and what was found of each signature, in words."""

    keys: list[dict[str, str]]
    lines: list[str]


def _signatures(message: bytes) -> _Signatures:
    """Check the signatures of a message, with the DKIM keys that its domains publish now."""
    # Imported on first use: the libraries take a while to load.
    from mailwatch.ledger.dkim_signature import DkimError, verify_dkim
    from mailwatch.ledger.smime import SmimeError, verify_smime
    from mailwatch.probes.roundtrip.dkim import check_with_keys

    found = _Signatures([], [])
    for fact, key in asyncio.run(check_with_keys(message)):
        domain, selector = fact.get("domain", ""), fact.get("selector", "")
        try:
            verify_dkim(message, domain, selector, key.decode("ascii", "replace"))
        except DkimError as error:
            if domain:
                why = fact.get("why") or str(error)
                found.lines.append(tr("DKIM, {domain}: not valid here ({why})", domain=domain, why=why))
            continue
        one = {"domain": domain, "selector": selector, "key": key.decode(), "at": rfc3339(now())}
        found.keys.append(one)
        found.lines.append(tr("DKIM, {domain}: valid; the key of today is kept", domain=domain))
    try:
        signed = verify_smime(message)
    except SmimeError as error:
        found.lines.append(f"S/MIME: {error}")
    else:
        if signed is not None:
            words = "S/MIME: valid; signed by {signer}, certificate issued by {issuer}"
            found.lines.append(tr(words, signer=signed.signer, issuer=signed.issuer))
    return found


def _mailboxes(found: Any) -> Iterator[str]:  # noqa: ANN401 - the config as JSON
    """Yield the login names of all targets, those of the ends of a round trip too."""
    for value in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        yield from _mailboxes(value)
    if isinstance(found, dict) and isinstance(found.get("login"), dict):
        yield found["login"]["username"]
