"""mailwatch probe: probes each target once, and shows the progress phase by phase."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence

from mailwatch.cli.common import add_options, open_config, stdout
from mailwatch.cli.errors import print_error
from mailwatch.cli.language import translated
from mailwatch.cli.live_table import LiveProbe, run_live
from mailwatch.cli.pending_login import PendingLogins, password_notice
from mailwatch.config import Config, build_targets
from mailwatch.config.recorded_targets import UnknownTargetError
from mailwatch.config.types import split_endpoint
from mailwatch.guard.attribution import attribute, resolver_matters
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.expiry import ExpiryAttribution
from mailwatch.guard.port25 import Port25
from mailwatch.model import Observation, Outcome
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.probes.internal_errors import ProbeStart, internal_error_observation
from mailwatch.probes.oauth.http import REQUEST_TIMEOUT_SECONDS
from mailwatch.probes.oauth.tokens import AccessTokens
from mailwatch.settings import Target
from mailwatch.store.queries import observation_json
from mailwatch.times import now


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verb.epilog = "Exit status: 0 all up, 1 some down, 3 some unknown."
    add_options(verb)
    verb.add_argument("targets", nargs="*", metavar="TARGET", help="names from the config; default: all")
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    config = open_config(args)
    targets = build_targets(config)
    unknown = set(args.targets) - {target.name for target in targets}
    if unknown:
        for name in sorted(unknown):
            error = UnknownTargetError(name, [target.name for target in targets], where=" in the config")
            print_error(f"mailwatch: {error}")
        return 2
    wanted = [target for target in targets if not args.targets or target.name in args.targets]
    if notice := password_notice(wanted):
        # JSON is for programs: nothing else goes to stdout with it.
        print(translated(notice), file=sys.stderr if args.json else sys.stdout, flush=True)
    found = asyncio.run(_probe(config, targets, wanted, show=not args.json))
    if args.json:
        observations = [observation_json(o, t.provider, t.kind) for t, o in zip(wanted, found, strict=True)]
        print(json.dumps(observations, indent=2, ensure_ascii=False))
    outcomes = {observation.outcome for observation in found}
    return 1 if Outcome.DOWN in outcomes else 3 if Outcome.UNKNOWN in outcomes else 0


async def _probe(
    config: Config, configured: Sequence[Target], targets: Sequence[Target], *, show: bool
) -> list[Observation]:
    console = stdout()
    pulses = [LiveProbe(target) for target in targets]
    contexts, guard = TlsContexts(), Guard.from_config(config.guard)
    tokens = AccessTokens(wait_seconds=2 * REQUEST_TIMEOUT_SECONDS)
    hearing = PendingLogins(config, configured, tokens)
    expiry = ExpiryAttribution(guard, [split_endpoint(server) for server in config.clock.servers])
    port25 = Port25(config.guard.port25_controls if config.guard else ())
    # At most a screenful at once, so that one probe does not disturb the timing of another.
    at_once = asyncio.Semaphore(8)

    async def observation_of(pulse: LiveProbe) -> Observation:
        target, observation = pulse.target, None
        begun = ProbeStart()
        try:
            request = ProbeRequest(
                target, scheduled_at=now(), contexts=contexts, listener=pulse.phase_event, tokens=tokens
            )
            observation = await observe(request)
            observation = await expiry.attribute(await hearing.judge_silence(target, observation))
            if guard and observation.outcome is Outcome.DOWN:
                names = resolver_matters(observation, target.host)
                answer = await guard.check(target.provider or target.host, dns=names, since=observation.started_at)
                observation = await port25.attribute(target, attribute(observation, answer))
        except Exception as error:
            # An error at one target must not lose the results of the others.
            return internal_error_observation(target, begun.at, begun, error, observation)
        return observation

    async def one(pulse: LiveProbe) -> Observation:
        async with at_once:
            pulse.observation = await observation_of(pulse)
            return pulse.observation

    probes = asyncio.gather(*(one(pulse) for pulse in pulses))
    return list(await (run_live(probes, pulses, console) if show else probes))
