"""For all tests of runs."""

from __future__ import annotations

import warnings

import pytest


@pytest.fixture(autouse=True)
def _own_warnings():
    # A command shows warnings in its own way; other tests keep theirs.
    with warnings.catch_warnings():
        yield
