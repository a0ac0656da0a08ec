"""Files in an artifact store that is a folder of this machine: hard-linked where that is possible."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

_LINK_FROM_BYTES = 1 << 20


def place_file(source: Path, target: Path) -> None:
    """Make `target` hold what `source` holds; a reader finds the old file or the whole of the other.

    A large file is hard-linked where the disk can. A small one is copied, since small ones are those that people and
    programs change in place.
    """
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    aside.unlink(missing_ok=True)
    try:
        _link_or_copy(source, aside)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def can_link(source: Path, folder: Path) -> bool:
    """Whether a hard link of `source` can be made in `folder`, found out by making one."""
    probe = folder / f".{source.name}.{os.getpid()}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.link(source.resolve(), probe)
        probe.unlink()
    except OSError:
        return False
    return True


def _link_or_copy(source: Path, target: Path) -> None:
    if source.stat().st_size >= _LINK_FROM_BYTES:
        with contextlib.suppress(OSError):  # another disk, or one without hard links
            os.link(source.resolve(), target)
            return
    shutil.copy2(source, target)
