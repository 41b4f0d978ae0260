"""What mypy, in strict mode, tells users of bpfast."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bpfast

pytest.importorskip("mypy")

EXAMPLES = Path(__file__).with_name("basic_typing_examples.py")
LINES = EXAMPLES.read_text(encoding="utf-8").splitlines()
MESSAGE = re.compile(r"[^:]*:(\d+): (error|note): (.*?)(?:  \[([\w-]+)\])?$")


def comments(word):
    """The lines of the examples with a comment of this word → what follows it."""
    found = ((number, line.partition(f"  # {word}: ")[2]) for number, line in enumerate(LINES, 1))
    return {number: text for number, text in found if text}


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """The messages of mypy as (line, kind, text, code)."""
    folder = tmp_path_factory.mktemp("mypy")
    root = Path(bpfast.__file__).parents[1]
    # An installed package is found by itself; a checkout is not.
    path = {} if root.name in {"site-packages", "dist-packages"} else {"MYPYPATH": str(root)}
    options = [f"--config-file={EXAMPLES.with_name('mypy.ini')}", f"--cache-dir={os.devnull}"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--no-error-summary", str(EXAMPLES)],
        cwd=folder,
        env={**os.environ, **path},
        capture_output=True,
        text=True,
    )
    assert not done.stderr
    found = [MESSAGE.match(line) for line in done.stdout.splitlines()]
    assert all(found), done.stdout
    return [(int(m[1]), m[2], m[3], m[4]) for m in found]


def test_types_are_revealed(messages):
    revealed = {line: text for line, kind, text, _ in messages if kind == "note" and "Revealed" in text}
    expected = comments("reveals")
    assert len(expected) >= 25
    assert revealed.keys() == expected.keys()
    wrong = [f"{line}: {revealed[line]}" for line in expected if expected[line] not in revealed[line]]
    assert wrong == []


def test_correct_code_has_no_errors_and_mistakes_have(messages):
    errors = {(line, code) for line, kind, _, code in messages if kind == "error"}
    expected = set(comments("error").items())
    assert len(expected) >= 10
    assert errors == expected, [m for m in messages if m[1] == "error" and (m[0], m[3]) not in expected]
