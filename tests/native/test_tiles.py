"""The tiles of 64-bit ARM, cross-compiled and emulated, which must be bitwise identical to those of AVX2."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bpfast.native import _core

HARNESS = Path(__file__).parent / "tiles"
TOOLS = ("cmake", "ninja", "aarch64-linux-gnu-gcc", "qemu-aarch64")
ARM = (
    "-DCMAKE_SYSTEM_NAME=Linux",
    "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
    "-DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc",
    "-DCMAKE_EXE_LINKER_FLAGS=-static",
)


def test_the_harness_runs_every_tile():
    """`src/tiles/table.h` is the list of tiles: the compiled table and Cython's declarations follow it."""
    table = (HARNESS.parents[2] / "src" / "tiles" / "table.h").read_text()
    tiles = re.findall(r"^TILE\(\w+, (\w+),\s+\(", table, re.MULTILINE)
    harness = (HARNESS / "harness.c").read_text()
    assert len(tiles) > 20
    assert [name for name in tiles if f"tiles->{name}(" not in harness] == []


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def build(folder, *options):
    run("cmake", "-G", "Ninja", "-S", HARNESS, "-B", folder, *options)
    run("cmake", "--build", folder)
    return folder / "harness"


def test_neon_is_bitwise_identical_to_avx2(tmp_path):
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if "avx2" not in _core.isas():
        missing.append("a CPU with AVX2")
    if missing:
        # The suite must pass with a C compiler alone; a cross compiler and an emulator are a choice.
        pytest.skip(f"without {', '.join(missing)}")
    native, arm = build(tmp_path / "native", "-DONLY_ISAS=avx2"), build(tmp_path / "arm", *ARM)
    assert run("qemu-aarch64", arm) == ["neon"]
    emulated = run("qemu-aarch64", arm, "neon")
    assert len(emulated) == len(set(emulated)) > 80
    assert emulated == run(native, "avx2")
