"""`.ci/check_size.py` measures functions of Python, Cython and C."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "check_size.py"


@pytest.fixture
def check_size():
    spec = importlib.util.spec_from_file_location("check_size", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_python(check_size):
    text = 'def f(x):\n    """One.\n\n    Two.\n    """\n    def g():\n        return 1\n    return g\n'
    assert list(check_size.python_functions(text)) == [("f", 1, 4), ("g", 6, 2)]


def test_cython(check_size):
    text = (
        "cdef class Core:\n"
        "    def train(\n        self, int n,\n    ):\n"
        '        """Train."""\n'
        "        self.n = n\n\n"
        "    cdef int size(self) noexcept nogil:  # rows\n        return self.n\n"
        "cdef extern from 'a.h':\n    int f(int n)\n"
    )
    assert list(check_size.cython_functions(text)) == [("train", 2, 4), ("size", 8, 2)]


def test_c(check_size):
    text = "static int f(int n)\n{\n    return n;\n}\nint g(int n);\n"
    text += "#define ROW(name) \\\n    name, \\\n    1\n"
    assert list(check_size.c_functions(text)) == [("f", 1, 4), ("ROW", 6, 3)]
