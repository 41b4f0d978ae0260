"""The command line as a program: `bpfast info`, help, version, `python -m bpfast`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bpfast as bp
from bpfast.__main__ import main


def test_info_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for name, value in bp.info().items():
        assert re.search(rf"^{name} +\S", out, re.MULTILINE), (name, value)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bpfast {bp.__version__}\n"
    for command in ("train", "predict", "info"):
        assert main([command, "--help"]) == 0
        assert f"usage: bpfast {command}" in capsys.readouterr().out


def test_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "bpfast", "info"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "version" in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "bpfast", "train", "nothing"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "bpfast: error: there is no file 'nothing'\n"


def test_import_from_an_unbuilt_checkout(tmp_path: Path) -> None:
    """Python finds the sources first there; both ways of importing them say so."""
    package = Path(bp.__file__).parent
    compiled = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    shutil.copytree(package, tmp_path / "bpfast", ignore=compiled)
    said = []
    for arguments in (["-m", "bpfast", "info"], ["-c", "import bpfast"]):
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1
        said.append(done.stderr)
    assert said[0].startswith(f"bpfast is imported from its source checkout ({tmp_path})")
    assert "Traceback" not in said[0]
    assert "ImportError: bpfast is imported from its source checkout" in said[1]
