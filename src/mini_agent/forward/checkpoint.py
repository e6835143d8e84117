"""What is counted and not yet a record, as one small file beside the batches.

Counts that are still open change with every span, so they are no records. As they stand once a
second, they are written to one file of this process's folder, each time in place of the last.
Who adopts the folder of a process that is gone reads the file and goes on counting, so a kill
costs at most the last second. As the journal, it is not forced to the disk.

Layout: 8 bytes "MACKPT01", 4 bytes CRC-32 of the rest (the lowest first), the rest. The file is
written under another name and renamed, so it is whole or the one before. Its name ends in
SUFFIX, by which Folder.leftovers finds it; one whose rename never came begins with "new-".
"""

from __future__ import annotations

import logging
import os
import time
import zlib

from mini_agent.forward.batch import remove_quietly

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mini_agent.forward.folder import Folder

log = logging.getLogger(__name__)

# Stands where a batch file has the name of its kind.
SUFFIX = "checkpoint"

_MAGIC = b"MACKPT01"
_CRC_BYTES = 4
_UNFINISHED = "new-"


class Checkpoint:
    """This process's checkpoint.

    Args:
        folder: This process's folder, or None to keep nothing.
    """

    def __init__(self, folder: Folder | None) -> None:
        self._folder = folder
        # Unlike those of other processes, which are moved to our folder.
        self._name = f"{time.time_ns():020d}-{os.getpid()}.{SUFFIX}"
        self._exists = False

    def write(self, content: bytes) -> None:
        """Keep this instead of what was kept before; empty content keeps nothing.

        A disk that refuses is no error: the journal says so, and the next second comes.
        """
        if self._folder is None:
            return
        path = self._folder.path_of(self._name)
        if not content:
            if self._exists:
                remove_quietly(path)
                self._exists = False
            return
        unfinished = self._folder.path_of(_UNFINISHED + self._name)
        head = _MAGIC + zlib.crc32(content).to_bytes(_CRC_BYTES, "little")
        try:
            with open(unfinished, "wb") as file:
                file.write(head + content)
            os.replace(unfinished, path)
            self._exists = True
        except OSError as error:
            log.debug("the checkpoint cannot be written: %s", error.strerror)


def read_leftover(path: str) -> bytes | None:
    """What a checkpoint says that was left behind; None when it says nothing sound.

    The file stays until what it says is kept elsewhere.
    """
    if os.path.basename(path).startswith(_UNFINISHED):
        return None
    with open(path, "rb") as file:
        head, content = file.read(len(_MAGIC) + _CRC_BYTES), file.read()
    if head != _MAGIC + zlib.crc32(content).to_bytes(_CRC_BYTES, "little"):
        log.warning("a checkpoint that was left behind is damaged: %d bytes", len(content))
        return None
    return content
