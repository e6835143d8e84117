"""Where a journal lies: one folder per process, locked while it lives, adopted when it is dead.

Layout below the base folder (0700, owned by this user)
    <name>.lock    held by the process the folder belongs to, as long as it lives
    <name>/        its batch files, and
    <name>/owner   for whom they are meant: lines of app, intake, key (a fingerprint), refused

The lock is taken before its folder is made and removed after its folder is gone, so whoever gets
the lock of an existing folder knows that its process is dead. A leftover is adopted only by an
agent of the same application and the same intake, with the same API key, or with another one
when the intake had refused the old: telemetry never goes to somebody else's account.

The base folder may lie in a shared temporary folder. It is used only when it belongs to this
user and to nobody else, so that another user cannot have prepared it.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import time

from mini_agent.wire.digest import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator

log = logging.getLogger(__name__)

_OWNER = "owner"
_LOCK = ".lock"
_FINGERPRINT_CHARS = 16


class Owner:
    """For whom batches are meant.

    Args:
        app: Name of the application beside the agent.
        intake: Where its batches go.
        api_key: Only a fingerprint of it is kept.
    """

    __slots__ = ("app", "intake", "key", "refused")

    def __init__(self, app: str, intake: str, api_key: str) -> None:
        self.app = app
        self.intake = intake
        digest = sha256(b"mini-agent journal owner:" + api_key.encode()).hexdigest()
        self.key = digest[:_FINGERPRINT_CHARS]
        self.refused = False

    def text(self) -> str:
        """As it stands in the owner file."""
        lines = (
            ("app", self.app),
            ("intake", self.intake),
            ("key", self.key),
            ("refused", "yes" if self.refused else "no"),
        )
        return "".join(f"{name}:{_one_line(value)}\n" for name, value in lines)

    def may_adopt(self, text: str) -> bool:
        """Whether a leftover with this owner file is ours to deliver."""
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return (
            fields.get("app") == _one_line(self.app)
            and fields.get("intake") == _one_line(self.intake)
            and (fields.get("key") == self.key or fields.get("refused") == "yes")
        )


class Folder:
    """This process's folder below the base.

    Args:
        base: The journal folder of the settings; made when missing.
        owner: For whom its batches are meant.
    """

    def __init__(self, base: str, owner: Owner) -> None:
        self._base = base
        self._owner = owner
        self._name = f"{os.getpid()}-{time.time_ns():x}"
        self._path = os.path.join(base, self._name)
        self._lock_fd = -1

    @property
    def can_vanish(self) -> bool:
        """Whether somebody may delete it while files in it are open. Not on Windows."""
        return sys.platform != "win32"

    @property
    def path(self) -> str:
        """Where the batch files are."""
        return self._path

    def path_of(self, name: str) -> str:
        """The path of a batch file."""
        return os.path.join(self._path, name)

    def make(self) -> None:
        """Make or mend the folder, its lock and its owner file.

        Raises:
            OSError: It cannot be used.
        """
        os.makedirs(self._base, mode=0o700, exist_ok=True)
        _require_private(self._base)
        lock_path = self._path + _LOCK
        if self._lock_fd >= 0 and not os.path.exists(lock_path):
            os.close(self._lock_fd)
            self._lock_fd = -1
        if self._lock_fd < 0:
            self._lock_fd = _lock(lock_path)
            if self._lock_fd < 0:
                raise OSError(errno.EBUSY, "the journal folder is in use", self._path)
        os.makedirs(self._path, mode=0o700, exist_ok=True)
        self._write_owner()

    def mark_key_refused(self) -> None:
        """Note that the intake refuses the API key, so that a successor with another may adopt."""
        if self._owner.refused:
            return
        self._owner.refused = True
        try:
            self._write_owner()
        except OSError as error:
            log.debug("the owner file cannot be written: %s", error.strerror)

    def leftovers(self, kind_names: Container[str]) -> Iterator[str]:
        """Move batch files of dead processes here, one at a time; yields their new paths.

        Args:
            kind_names: Files of other kinds stay where they are, for an agent that knows them.
        """
        try:
            names = sorted(os.listdir(self._base))
        except OSError as error:
            log.warning("leftovers cannot be looked for: %s", error.strerror)
            return
        for name in names:
            path = os.path.join(self._base, name)
            if name != self._name and os.path.isdir(path):
                yield from self._adopt(path, kind_names)

    def release(self, empty: bool) -> None:
        """Give up the lock; an empty folder is removed. May be repeated."""
        if self._lock_fd < 0:
            return
        if empty:
            _remove_folder(self._path)
        _unlock(self._lock_fd, self._path)
        self._lock_fd = -1

    def _write_owner(self) -> None:
        path = self.path_of(_OWNER)
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(self._owner.text())
        os.replace(path + ".new", path)

    def _adopt(self, path: str, kind_names: Container[str]) -> Iterator[str]:
        try:
            lock_fd = _lock(path + _LOCK)
        except OSError as error:
            log.warning("a leftover journal cannot be locked: %s", error.strerror)
            return
        if lock_fd < 0:
            return  # Its process lives.
        try:
            # Somebody else may have adopted it while we waited for the lock.
            if os.path.isdir(path) and self._may_adopt(path):
                for name in sorted(os.listdir(path)):
                    if name.rpartition(".")[2] in kind_names:
                        target = self.path_of(name)
                        os.replace(os.path.join(path, name), target)
                        yield target
                _remove_folder(path)
        except OSError as error:
            log.warning("a leftover journal cannot be adopted: %s", error.strerror)
        finally:
            _unlock(lock_fd, path)

    def _may_adopt(self, path: str) -> bool:
        if not any(not name.startswith(_OWNER) for name in os.listdir(path)):
            return True  # Nothing is in it: whoever comes by may clear it away.
        try:
            with open(os.path.join(path, _OWNER), encoding="utf-8") as file:
                return self._owner.may_adopt(file.read())
        except FileNotFoundError:
            return False


def _require_private(path: str) -> None:
    """Refuse a folder that another user owns or may enter. Windows' profile folders are private."""
    if sys.platform != "win32":
        status = os.stat(path)
        if status.st_uid != os.geteuid():
            raise OSError(errno.EACCES, "the journal folder belongs to another user", path)
        if status.st_mode & 0o077:
            os.chmod(path, 0o700)


if sys.platform == "win32":
    import msvcrt

    def _lock(path: str) -> int:
        """The descriptor that holds the lock, or -1 when another process holds it."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            os.close(fd)
            return -1
        return fd

    def _unlock(fd: int, folder: str) -> None:
        """Give up the lock of a folder; its file goes when the folder is gone."""
        # Closed first: Windows does not delete an open file. That also keeps the file of whoever
        # has opened it meanwhile.
        os.close(fd)
        if not os.path.isdir(folder):
            _unlink_quietly(folder + _LOCK)

else:
    import fcntl

    def _lock(path: str) -> int:
        """The descriptor that holds the lock, or -1 when another process holds it."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return -1
        except OSError:
            os.close(fd)
            raise
        return fd

    def _unlock(fd: int, folder: str) -> None:
        """Give up the lock of a folder; its file goes when the folder is gone."""
        # Deleted first: nobody must get the lock of a file that is about to go.
        if not os.path.isdir(folder):
            _unlink_quietly(folder + _LOCK)
        os.close(fd)


def _unlink_quietly(path: str) -> None:
    try:
        os.unlink(path)
    except OSError as error:
        log.debug("the lock file stays: %s", error.strerror)


def _remove_folder(path: str) -> None:
    """Remove a folder that holds no batches any more; one that does stays."""
    try:
        if all(name.startswith(_OWNER) for name in os.listdir(path)):
            for name in os.listdir(path):
                os.unlink(os.path.join(path, name))
            os.rmdir(path)
    except OSError as error:
        log.debug("an empty journal folder stays: %s", error.strerror)


def _one_line(value: str) -> str:
    return value.replace("\n", " ").replace("\r", " ")
