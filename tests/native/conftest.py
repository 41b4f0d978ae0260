"""Fixtures of the native tests."""

import pytest

from bpfast.native import _core


@pytest.fixture
def every_thread_works():
    """Use all threads however small the work."""
    old = _core.work_per_thread(0)
    yield
    _core.work_per_thread(old)
