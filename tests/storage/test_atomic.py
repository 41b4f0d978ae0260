"""Atomic writes: a file is replaced as a whole or not at all."""

import os
import re

import pytest

import bpfast as bp


@pytest.mark.parametrize("call", ["fsync", "replace", "open", "fdopen"])
def test_save_is_atomic(model, build, monkeypatch, call):
    path, _ = model
    before, net = path.read_bytes(), build(seed=77)

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        net.save(path)
    monkeypatch.undo()
    assert os.listdir(path.parent) == ["model"]
    assert path.read_bytes() == before
    net.save(path)
    assert path.read_bytes() != before
    assert os.listdir(path.parent) == ["model"]


def test_save_to_an_invalid_place(build, tmp_path):
    net = build()
    with pytest.raises(FileNotFoundError):
        net.save(tmp_path / "missing" / "model")
    with pytest.raises(OSError, match=re.escape(tmp_path.name)):
        net.save(tmp_path)
    assert os.listdir(tmp_path) == []
    assert os.listdir(tmp_path.parent).count(tmp_path.name) == 1
    assert not [name for name in os.listdir(tmp_path.parent) if name.endswith(".tmp")]


def test_save_follows_links_and_refuses_folders(build, tmp_path):
    net, target = build(), tmp_path / "model"
    target.touch()
    (tmp_path / "link").symlink_to(target)
    net.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (bp.load(target)._state.flat == net._state.flat).all()
    with pytest.raises(IsADirectoryError, match="is a directory"):
        net.save(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        net.save(tmp_path / "nowhere" / "model")
