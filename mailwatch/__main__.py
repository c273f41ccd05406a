"""The entry point of `mailwatch` and `python -m mailwatch`."""

from __future__ import annotations

import gc
import os
import signal
import sys


def main() -> int:
    """Run one command and return its exit status."""
    # Modules, probes and replays leave few reference cycles: at Python's thresholds, the search for them takes a
    # twentieth of the processor time.
    gc.set_threshold(20_000, 20, 100)
    if os.getpid() == 1:
        # The kernel withholds SIGTERM from the first process of a container unless it has a handler.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    from mailwatch.monitor.signals import command_verb, install_early_handlers

    if command_verb(sys.argv[1:]) == "run":
        install_early_handlers()
    # Imported only now: loading it takes seconds on a small machine.
    from mailwatch import cli
    from mailwatch.cli.streams import prepare_streams
    from mailwatch.time_zone import normalise_zone

    # Files created by a command are readable only by their owner, whatever the shell's umask.
    os.umask(0o077)
    prepare_streams()
    normalise_zone()
    return cli.main()


if __name__ == "__main__":
    raise SystemExit(main())
