"""mailwatch merge: combines several people's bundles into one case. Needs no config and no ledger."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from rich.console import Console

from mailwatch.cli.common import language
from mailwatch.cli.files import MAX_TRUST_BYTES, check_regular_files, check_writable, write_output
from mailwatch.cli.resource_limits import check_pdf_resources
from mailwatch.cli.time_zone import local_zone
from mailwatch.evidence.bundle import File, pretty_json
from mailwatch.evidence.joint.bundle import write_joint
from mailwatch.evidence.joint.member import JointMember, read_member
from mailwatch.evidence.joint.quorum import group_channels, joint_statement, partition_members
from mailwatch.evidence.report.joint import joint_report
from mailwatch.evidence.verify import Trust

MIN_FOR_POOL = 4
"""Up to this number, reading the bundles in this process is faster than starting a process pool."""


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verb.add_argument("files", type=Path, nargs="+", metavar="FILE.zip", help="evidence bundles")
    verb.add_argument("-o", "--output", type=Path, required=True, metavar="JOINT.zip", help="file to write")
    verb.add_argument("--lang", choices=("it", "en"), default=language(), help="language of the report")
    verb.add_argument("--enclose", action="store_true", help="enclose the bundles, not only their SHA-256")
    verb.add_argument(
        "--keep-going", action="store_true", help="leave out bundles that are not valid, and list them"
    )
    verb.add_argument(
        "--trust",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="PEM certificates of timestamp authorities, or keys of ledgers, as for verify; may be repeated",
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
        print(f"mailwatch: {error}", file=sys.stderr)
        return 2
    with Console(stderr=True).status("checking the bundles") as status:
        read_so_far = []
        for member in _members(args.files, args.trust):
            read_so_far.append(member)
            status.update(f"checking the bundles: {len(read_so_far)} of {len(args.files)}")
    members, left_out = partition_members(read_so_far)
    for one, reason in left_out:
        print(f"mailwatch: {one.name} left out: {reason}", file=sys.stderr)
    twice = [one for one, reason in left_out if not one.reason and reason.startswith("the same range")]
    if len(left_out) > len(twice) and not args.keep_going:
        print("mailwatch: nothing was written; --keep-going merges the others", file=sys.stderr)
        return 1
    if not members:
        print("mailwatch: no valid bundle remains", file=sys.stderr)
        return 1
    groups = group_channels(members)
    stated = joint_statement(groups, members, left_out)
    text = pretty_json(stated)
    pdf = joint_report(groups, stated, text, args.lang, local_zone())
    files = [File("joint.json", text), File("report.pdf", pdf)]
    by_digest = {one.sha256: path for one, path in zip(read_so_far, args.files, strict=True)}
    pairs = [(one, by_digest[one.sha256]) for one in members]
    size = write_output(args.output, partial(write_joint, files=files, members=pairs, enclose=args.enclose))
    points = len({one.ledger for one in members})
    print(f"{args.output}: {size:,} bytes; {len(members)} bundles of {points} vantage points")
    return 0


def _members(paths: Sequence[Path], trust: Sequence[Path]) -> Iterator[JointMember]:
    """Yield the bundles in order, read on all processors if there are many."""
    if len(paths) <= MIN_FOR_POOL:
        yield from (read_member(path, Trust.read(trust)) for path in paths)
        return
    # Spawned, since a fork of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        yield from pool.map(partial(_read, trust=tuple(trust)), paths, chunksize=1)


def _read(path: Path, trust: Sequence[Path]) -> JointMember:
    return read_member(path, Trust.read(trust))
