"""mailwatch merge: combines several people's bundles into one case. Needs no config; a ledger's key signs it."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from rich.console import Console

from mailwatch.cli.common import open_config, printable
from mailwatch.cli.errors import error_reason, print_error
from mailwatch.cli.files import MAX_TRUST_BYTES, check_regular_files, check_writable, write_output
from mailwatch.cli.language import language, tr, translated
from mailwatch.cli.resource_limits import check_pdf_resources
from mailwatch.config.errors import ConfigError
from mailwatch.evidence.bundle import File, pretty_json
from mailwatch.evidence.joint.bundle import write_joint
from mailwatch.evidence.joint.member import JointMember, read_member
from mailwatch.evidence.joint.quorum import counted_as, group_channels, joint_statement, partition_members
from mailwatch.evidence.joint.witnessed import REASON, unwitnessed
from mailwatch.evidence.pages.compare import examine_with_pages
from mailwatch.evidence.rendering import Rendering
from mailwatch.evidence.report.joint import joint_report
from mailwatch.evidence.verify import Trust
from mailwatch.i18n import LANGUAGES
from mailwatch.ledger.checkpoint import origin_of
from mailwatch.store.errors import KeysMissingError
from mailwatch.store.keys import load_keys as load_keys
from mailwatch.time_zone import local_zone

logger = logging.getLogger(__name__)

MIN_FOR_POOL = 4
"""Up to this number, reading the bundles in this process is faster than starting a process pool."""


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verb.add_argument("files", type=Path, nargs="+", metavar="FILE.zip", help="evidence bundles")
    verb.add_argument("-o", "--output", type=Path, required=True, metavar="JOINT.zip", help="file to write")
    verb.add_argument("--lang", choices=LANGUAGES, default=language(), help="language of the report")
    verb.add_argument("--enclose", action="store_true", help="enclose the bundles, not only their SHA-256")
    verb.add_argument(
        "--keep-going", action="store_true", help="leave out bundles that are not valid, and list them"
    )
    verb.add_argument(
        "--witnessed",
        action="store_true",
        help="count only bundles whose ledger another member cosigned before its first outage",
    )
    verb.add_argument(
        "--trust",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="PEM certificates of timestamp authorities, or keys of ledgers, as for verify; may be repeated",
    )
    verb.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="Ed25519 key (PEM) that signs the joint zip, in place of the key of your own ledger",
    )
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    check_regular_files(args.trust, MAX_TRUST_BYTES)
    check_regular_files(args.files)
    check_writable(args.output)
    check_pdf_resources()
    try:
        Trust.read(args.trust)
    except (OSError, ValueError) as error:
        print_error(f"mailwatch: {error_reason(error)}")
        return 2
    try:
        key = _signing_key(args)
    except (OSError, ValueError) as error:
        print_error(f"mailwatch: {error_reason(error)}")
        return 2
    with Console(stderr=True).status(tr("checking the bundles")) as status:
        read_so_far = []
        for member in _members(args.files, args.trust):
            read_so_far.append(member)
            status.update(f"{tr('checking the bundles')}: {len(read_so_far)}/{len(args.files)}")
    members, left_out = partition_members(read_so_far)
    if args.witnessed:
        alone = unwitnessed(members)
        members = [one for one in members if one not in alone]
        left_out += [(one, REASON) for one in alone]
    for one, reason in left_out:
        print_error(f"mailwatch: {one.name} left out: {printable(reason)}")
    for one in members:
        if one.pages is not None and one.pages.note:
            print_error(f"mailwatch: {one.name}: its pages: {printable(one.pages.detail)}")
    twice = [one for one, reason in left_out if not one.reason and reason.startswith("the same range")]
    if len(left_out) > len(twice) and not args.keep_going:
        print_error("mailwatch: nothing was written; --keep-going merges the others")
        return 1
    if not members:
        print_error("mailwatch: no valid bundle remains")
        return 1
    groups = group_channels(members)
    how = Rendering(args.lang, local_zone(), "")
    merged_by = None if key is None else origin_of(key.public_key())
    stated = joint_statement(groups, members, left_out, how.as_json(), merged_by)
    if args.witnessed:
        stated["witnessed"] = True
    text = pretty_json(stated)
    pdf = joint_report(groups, stated, text, how.language, how.zone)
    files = [File("joint.json", text), File("report.pdf", pdf)]
    by_digest = {one.sha256: path for one, path in zip(read_so_far, args.files, strict=True)}
    pairs = [(one, by_digest[one.sha256]) for one in members]
    write = partial(write_joint, files=files, members=pairs, enclose=args.enclose, key=key)
    size = write_output(args.output, write)
    points = len(set(counted_as(members).values()))
    done = f"{args.output}: {size:,} bytes; {len(members)} bundles of {points} vantage points"
    print(translated(done))
    if key is None:
        print_error(
            "mailwatch: not signed: there is no ledger here whose key could sign; `--key FILE` signs it. Without "
            "that, anyone can change who made it and what was left out"
        )
    else:
        print(translated(f"signed by {merged_by}"))
    return 0


def _signing_key(args: argparse.Namespace) -> Ed25519PrivateKey | None:
    """Return the key of --key, else that of the ledger here, else None. Raises ValueError, OSError."""
    if args.key is not None:
        check_regular_files([args.key], MAX_TRUST_BYTES)
        try:
            key = load_pem_private_key(args.key.read_bytes(), None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{args.key} is not an Ed25519 key as PEM without a password")
        return key
    try:
        return load_keys(open_config(args).data_dir).private
    except (ConfigError, KeysMissingError, OSError) as error:
        logger.info("no key to sign with: %s", error)
        return None


def _members(paths: Sequence[Path], trust: Sequence[Path]) -> Iterator[JointMember]:
    """Yield the bundles in order, read on all processors if there are many."""
    if len(paths) <= MIN_FOR_POOL:
        yield from (_read(path, trust) for path in paths)
        return
    # Spawned, since a fork of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        yield from pool.map(partial(_read, trust=tuple(trust)), paths, chunksize=1)


def _read(path: Path, trust: Sequence[Path]) -> JointMember:
    return read_member(path, Trust.read(trust), examine_with_pages)
