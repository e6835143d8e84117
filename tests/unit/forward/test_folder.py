"""forward.folder: one folder a process, private, locked, adopted only by its rightful heir."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mini_agent.forward.folder import Folder, Owner


def owner(app: str = "app", intake: str = "http://intake", key: str = "key") -> Owner:
    return Owner(app, intake, key)


def leave_behind(base: Path, its_owner: Owner, refused: bool = False) -> str:
    """Make a folder with one batch in it and die; its path."""
    folder = Folder(str(base), its_owner)
    folder.make()
    Path(folder.path_of("1-1-1.traces")).write_bytes(b"batch")
    if refused:
        folder.mark_key_refused()
    folder.release(empty=False)
    return folder.path


def adopted(base: Path, its_owner: Owner) -> list[str]:
    folder = Folder(str(base), its_owner)
    folder.make()
    return [os.path.basename(path) for path in folder.leftovers({"traces"})]


def test_the_same_application_key_and_intake_adopt(tmp_path: Path) -> None:
    left = leave_behind(tmp_path, owner())
    assert adopted(tmp_path, owner()) == ["1-1-1.traces"]
    assert not os.path.exists(left)
    assert not os.path.exists(left + ".lock")


@pytest.mark.parametrize(
    "stranger",
    [owner(app="other"), owner(intake="http://other"), owner(key="other")],
    ids=["application", "intake", "key"],
)
def test_nobody_else_adopts(tmp_path: Path, stranger: Owner) -> None:
    left = leave_behind(tmp_path, owner())
    assert adopted(tmp_path, stranger) == []
    assert os.path.exists(left)


def test_a_new_key_adopts_what_the_old_one_was_refused_for(tmp_path: Path) -> None:
    leave_behind(tmp_path, owner(key="mistyped"), refused=True)
    assert adopted(tmp_path, owner(key="right")) == ["1-1-1.traces"]


def test_unknown_kinds_stay_for_an_agent_that_knows_them(tmp_path: Path) -> None:
    left = leave_behind(tmp_path, owner())
    Path(left, "1-1-2.future").write_bytes(b"batch")
    assert adopted(tmp_path, owner()) == ["1-1-1.traces"]
    assert os.listdir(left).count("1-1-2.future") == 1


def test_the_key_itself_is_never_written(tmp_path: Path) -> None:
    left = leave_behind(tmp_path, owner(key="secret-key-0123456789"))
    assert b"secret-key" not in Path(left, "owner").read_bytes()


def test_the_folder_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    program = (
        "import sys; from mini_agent.forward.folder import Folder, Owner\n"
        "f = Folder(sys.argv[1], Owner('app', 'http://intake', 'key')); f.make()\n"
        "open(f.path_of('1-1-1.traces'), 'wb').write(b'batch')\n"
        "print('made', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline().split() == [b"made"]
        assert adopted(tmp_path, owner()) == []
        child.kill()
    assert adopted(tmp_path, owner()) == ["1-1-1.traces"]


@pytest.mark.skipif(os.name == "nt", reason="modes are a POSIX matter")
def test_everything_is_private_to_the_user(tmp_path: Path) -> None:
    base = tmp_path / "shared"
    base.mkdir(mode=0o755)
    left = leave_behind(base, owner())
    assert base.stat().st_mode & 0o077 == 0
    for name in ("", "owner"):
        assert os.stat(os.path.join(left, name)).st_mode & 0o022 == 0


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="needs to give a folder away")
def test_a_folder_of_another_user_is_not_used(tmp_path: Path) -> None:
    base = tmp_path / "theirs"
    base.mkdir()
    os.chown(base, 12345, 12345)
    with pytest.raises(PermissionError):
        Folder(str(base), owner()).make()


def test_two_agents_of_one_process_do_not_share(tmp_path: Path) -> None:
    first, second = Folder(str(tmp_path), owner()), Folder(str(tmp_path), owner())
    first.make()
    second.make()
    assert first.path != second.path
    assert list(second.leftovers({"traces"})) == []
    first.release(empty=True)
    second.release(empty=True)
    assert os.listdir(tmp_path) == []
