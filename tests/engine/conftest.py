"""Shared by the tests of layers and engines."""

import pytest

from bpfast.native import _core


@pytest.fixture
def every_thread_works():
    """Use all threads in every call, however little work there is."""
    before = _core.work_per_thread(0)
    yield
    _core.work_per_thread(before)
