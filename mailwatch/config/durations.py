"""Durations as people write them: 500ms, 5s, 1m, 2h, 1d."""

from __future__ import annotations
