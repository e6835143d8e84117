"""forward.checkpoint: one file, whole or the one before, that a successor finds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mini_agent.forward.checkpoint import SUFFIX, Checkpoint, read_leftover
from mini_agent.forward.folder import Folder, Owner


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return make_folder(tmp_path)


def make_folder(base: Path) -> Folder:
    folder = Folder(str(base), Owner("app", "intake", "key"))
    folder.make()
    return folder


def files(folder: Folder) -> list[str]:
    return sorted(name for name in os.listdir(folder.path) if name != "owner")


def test_the_last_content_replaces_the_one_before(folder: Folder) -> None:
    checkpoint = Checkpoint(folder)
    for content in (b"one", b"two"):
        checkpoint.write(content)
    (name,) = files(folder)
    assert name.endswith(f".{SUFFIX}")
    assert read_leftover(folder.path_of(name)) == b"two"


def test_empty_content_leaves_no_file(folder: Folder) -> None:
    checkpoint = Checkpoint(folder)
    checkpoint.write(b"")
    checkpoint.write(b"one")
    checkpoint.write(b"")
    assert files(folder) == []
    checkpoint.write(b"")


def test_a_successor_finds_it_beside_its_own(tmp_path: Path) -> None:
    dead = make_folder(tmp_path)
    Checkpoint(dead).write(b"left")
    dead.release(empty=False)
    successor = make_folder(tmp_path)
    own = Checkpoint(successor)
    own.write(b"own")
    (path,) = successor.leftovers({SUFFIX})
    assert read_leftover(path) == b"left"
    assert sorted(filter(None, map(read_leftover, map(successor.path_of, files(successor))))) == [
        b"left",
        b"own",
    ]
    assert not Path(dead.path).exists()


def test_every_cut_and_every_change_is_noticed(folder: Folder) -> None:
    Checkpoint(folder).write(b"content")
    path = Path(folder.path_of(files(folder)[0]))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert read_leftover(str(path)) is None
        path.write_bytes(bytes((*whole[:length], whole[length] ^ 1, *whole[length + 1 :])))
        assert read_leftover(str(path)) is None


def test_an_unfinished_one_says_nothing(folder: Folder) -> None:
    path = Path(folder.path_of(f"new-1.{SUFFIX}"))
    path.write_bytes(b"torn")
    assert read_leftover(str(path)) is None


def test_without_a_folder_nothing_is_kept() -> None:
    Checkpoint(None).write(b"one")


def test_a_disk_that_refuses_is_no_error(folder: Folder) -> None:
    checkpoint = Checkpoint(folder)
    checkpoint.write(b"one")
    for name in os.listdir(folder.path):
        os.unlink(folder.path_of(name))
    os.rmdir(folder.path)
    checkpoint.write(b"two")
    folder.make()
    checkpoint.write(b"three")
    assert read_leftover(folder.path_of(files(folder)[0])) == b"three"
