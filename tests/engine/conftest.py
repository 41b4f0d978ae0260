"""Shared by the tests of layers and engines."""

import pytest

from bpfast.native import _runtime


@pytest.fixture
def every_thread_works():
    """Use all threads in every call, however little work there is."""
    before = _runtime.work_per_thread(0)
    yield
    _runtime.work_per_thread(before)
