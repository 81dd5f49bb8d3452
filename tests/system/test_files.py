"""Files appear whole or not at all."""

from pathlib import Path

import pytest

from clip_kinetics700_builder.system.files import (
    atomic_path,
    hash_file,
    write_json,
    write_text,
)


def write_half(path: Path) -> None:
    """Fail in the middle of a file."""
    with atomic_path(path) as partial:
        partial.write_text("half", encoding="utf-8")
        raise RuntimeError("stop")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """An error in the middle keeps what was there before and leaves nothing beside it."""
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="stop"):
        write_half(path)
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_final_name_is_not_there_before_the_end(tmp_path: Path) -> None:
    """Whoever looks while a file is written finds no file."""
    path = tmp_path / "file"
    with atomic_path(path) as partial:
        partial.write_text("whole", encoding="utf-8")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "whole"


def test_json_has_one_spelling(tmp_path: Path) -> None:
    """Equal documents give equal bytes whatever the order of their keys."""
    write_json(tmp_path / "a", {"b": 1, "a": "é"})
    write_json(tmp_path / "b", {"a": "é", "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert "é" in (tmp_path / "a").read_text(encoding="utf-8")


def test_hash_file_is_sha256(tmp_path: Path) -> None:
    """The hash of a file is the known one of its content."""
    (tmp_path / "a").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_file(tmp_path / "a") == digest
