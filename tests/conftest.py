"""Common to all tests: one thread, a cache of the session's own, small nets and data."""

from __future__ import annotations

import os

import pytest
import torch


def pytest_configure() -> None:
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    torch.set_num_threads(1)


@pytest.fixture(scope='session', autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory):
    """Caches of data that tests draw or convert: shared within the session, never the user's own."""
    os.environ['COMPOSER_KD_CACHE'] = str(tmp_path_factory.mktemp('cache'))
