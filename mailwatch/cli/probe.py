"""mailwatch probe: one look now at each target, phase by phase, like a doctor reading a pulse."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence

from mailwatch.cli.common import open_config, options, stdout
from mailwatch.cli.live_table import Pulse, live
from mailwatch.cli.pending_login import Hearing, told_of_passwords
from mailwatch.config import Config, build_targets
from mailwatch.config.recorded_targets import NoSuchTarget
from mailwatch.config.types import split_endpoint
from mailwatch.guard.attribution import judge, names_matter
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.expiry import Expiry
from mailwatch.guard.port25 import Port25
from mailwatch.model import Observation, Outcome
from mailwatch.probes import TlsContexts, observe
from mailwatch.probes.internal_errors import Begun, our_fault
from mailwatch.probes.oauth.http import TIMEOUT
from mailwatch.probes.oauth.tokens import AccessTokens
from mailwatch.settings import Target
from mailwatch.store.queries import observation_json
from mailwatch.times import now


def add(verb: argparse.ArgumentParser) -> None:
    """Say what the verb takes."""
    options(verb)
    verb.add_argument("targets", nargs="*", metavar="TARGET", help="names from the config; default: all")
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    config = open_config(args)
    targets = build_targets(config)
    unknown = set(args.targets) - {target.name for target in targets}
    if unknown:
        for name in sorted(unknown):
            error = NoSuchTarget(name, [target.name for target in targets], where=" in the config")
            print(f"mailwatch: {error}", file=sys.stderr)
        return 2
    wanted = [target for target in targets if not args.targets or target.name in args.targets]
    if telling := told_of_passwords(wanted):
        # JSON is for programs: it stays alone on its output.
        print(telling, file=sys.stderr if args.json else sys.stdout, flush=True)
    seen = asyncio.run(_look(config, targets, wanted, show=not args.json))
    if args.json:
        told = [observation_json(o, t.provider, t.kind) for t, o in zip(wanted, seen, strict=True)]
        print(json.dumps(told, indent=2, ensure_ascii=False))
    outcomes = {observation.outcome for observation in seen}
    return 1 if Outcome.DOWN in outcomes else 3 if Outcome.UNKNOWN in outcomes else 0


async def _look(
    config: Config, known: Sequence[Target], targets: Sequence[Target], *, show: bool
) -> list[Observation]:
    console = stdout()
    pulses = [Pulse(target) for target in targets]
    contexts, guard, tokens = TlsContexts(), Guard.of(config.guard), AccessTokens(patience=2 * TIMEOUT)
    hearing = Hearing(config, known, tokens)
    expiry = Expiry(guard, [split_endpoint(server) for server in config.clock.servers])
    port25 = Port25(config.guard.port25_controls if config.guard else ())
    # At most a screenful at once, so that one look does not disturb the timing of another.
    at_once = asyncio.Semaphore(8)

    async def seen_of(pulse: Pulse) -> Observation:
        target, seen = pulse.target, None
        begun = Begun()
        try:
            seen = await observe(target, scheduled_at=now(), contexts=contexts, watch=pulse.watch, tokens=tokens)
            seen = await expiry.judge(await hearing.heard(target, seen))
            if guard and seen.outcome is Outcome.DOWN:
                names = names_matter(seen, target.host)
                answer = await guard.ask(target.provider or target.host, dns=names, since=seen.started_at)
                seen = await port25.judge(target, judge(seen, answer))
        except Exception as error:
            # One target's answer is never taken away by another's.
            return our_fault(target, begun.at, begun, error, seen)
        return seen

    async def one(pulse: Pulse) -> Observation:
        async with at_once:
            pulse.seen = await seen_of(pulse)
            return pulse.seen

    looks = asyncio.gather(*(one(pulse) for pulse in pulses))
    return list(await (live(looks, pulses, console) if show else looks))
