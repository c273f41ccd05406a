"""Silences libraries that read an untrusted file: what is wrong with it becomes a claim, and no log or warning."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = ("pyhanko", "pyhanko_certvalidator")
"""pyHanko logs a certificate that it does not trust as an error, with a traceback."""


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Ignore warnings, and drop what the libraries log: an old root, too, may break today's rules."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
