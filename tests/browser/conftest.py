"""The browser of these tests."""

from __future__ import annotations

from tests.helpers.chromium import browser  # noqa: F401 - a fixture
