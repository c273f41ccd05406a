"""The seed of what is drawn at random: the same for `make test`, a fresh one each night."""

from __future__ import annotations

import os

SEED = os.environ.get("MAILWATCH_TEST_SEED", "20230122")
"""`make nightly` chooses and prints one; `make nightly SEED=...` repeats it."""
FRESH = "MAILWATCH_TEST_SEED" in os.environ
