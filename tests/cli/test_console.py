"""Where the command line can write: files, pipes and standard output."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bpfast.cli import console
from bpfast.data.tables import UserError
from bpfast.storage import atomic


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="no /dev/stdout")
@pytest.mark.parametrize("write", ["open_atomically", "write_atomically"])
def test_writing_to_dev_stdout(write: str) -> None:
    """/dev/stdout is a link to a pipe, which has no path."""
    program = {
        "open_atomically": "with atomic.open_atomically('/dev/stdout') as file: file.write(b'a\\n')",
        "write_atomically": "atomic.write_atomically('/dev/stdout', b'a\\n')",
    }[write]
    ended = subprocess.run(
        [sys.executable, "-P", "-c", f"from bpfast.storage import atomic\n{program}"],
        capture_output=True,
        timeout=120,
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == (b"a\n", b"", 0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_needs_no_writable_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    os.mkfifo("pipe")
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    console.require_writable(["pipe"], [])
    with pytest.raises(UserError, match="cannot write 'file': Permission denied"):
        console.require_writable(["file"], [])
    with pytest.raises(UserError, match="is a directory"):
        console.require_writable([str(tmp_path)], [])


def test_open_atomically_rejects_directories(tmp_path: Path) -> None:
    for path, error in ((tmp_path, IsADirectoryError), (tmp_path / "no" / "file", FileNotFoundError)):
        with pytest.raises(error), atomic.open_atomically(path):
            pass
