"""Disks: whether they can be written, whether locks hold there, and whether there is room."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from recipe_exp.files import file_lock, flush_to_disk, free_bytes, size_text
from recipe_exp.planning.plan import Plan
from recipe_exp.tasks.doctor.findings import Finding

_MOUNTS = Path("/proc/mounts")
_NETWORK_FILE_SYSTEMS = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs", "9p"),
    *("orangefs", "pvfs2", "ncpfs", "panfs", "wekafs"),
}
_LOCAL_IN_USER_SPACE = {"fuse.fuse-overlayfs", "fuse.ntfs-3g", "fuse.exfat", "fuse.lxcfs", "fuse.mergerfs"}


def check_disk(output_dir: Path, plan: Plan) -> Finding:
    """Returns whether `output_dir` can be written and holds the checkpoints that are kept at the same time."""
    problem = writing_problem(output_dir)
    if problem is not None:
        return Finding("disk", "fail", f"{output_dir}: {problem}", "set output_dir to a folder that can be written")
    one, all_of_them = plan.disk.checkpoint_bytes, plan.disk.disk_bytes
    wanted = f"checkpoints of {size_text(one)}, {round(all_of_them / one)} at a time: {size_text(all_of_them)}"
    free = free_bytes(output_dir)
    if free is None:
        return Finding("disk", "ok", f"{output_dir} does not say how much is free; {wanted}")
    found = f"{size_text(free)} free in {output_dir}; {wanted}"
    fix = "free some space (task=clean shows what takes it), or set output_dir to another disk"
    if free < plan.disk.checkpoint_bytes:
        return Finding("disk", "fail", found, fix)
    return Finding("disk", "warn", found, fix) if free < plan.disk.disk_bytes else Finding("disk", "ok", found)


def writing_problem(folder: Path) -> str | None:
    """Returns why nothing can be written or locked in a folder that may not exist yet; None if it can.

    It is tried, since permissions say nothing of quotas and of disks that are mounted read-only.
    """
    place = nearest_existing(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".recipe_exp-doctor-") as stream:
            stream.write(b"x" * 4096)
            stream.flush()
            flush_to_disk(Path(stream.name))
    except OSError as error:
        return f"{place} cannot be written ({error.strerror or error})"
    with tempfile.TemporaryDirectory(dir=place, prefix=".recipe_exp-doctor-") as inside:
        try:
            with file_lock(Path(inside) / "lock", timeout_seconds=0.0):
                return None
        except OSError as error:
            return f"{place} has no file locks ({error.strerror or error}), so two processes could write one run"


def network_file_system(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """Returns the type of the file system that a path lies on if it is shared over a network, else None.

    Args:
        path: need not exist.
        mounts: what is mounted where, in the format of `/proc/mounts`.
    """
    target = nearest_existing(path).resolve()
    found: tuple[int, str] = (-1, "")
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        _, mounted, kind, *_ = [*line.split(), "", "", ""]
        place = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), mounted))
        # The last one mounted at a place hides those before.
        if target.is_relative_to(place) and len(place.parts) >= found[0]:
            found = len(place.parts), kind
    kind = found[1]
    is_shared = kind in _NETWORK_FILE_SYSTEMS or (kind.startswith("fuse.") and kind not in _LOCAL_IN_USER_SPACE)
    return kind if is_shared else None


def nearest_existing(path: Path) -> Path:
    """Returns the folder, or the nearest one above it that exists."""
    path = path.expanduser().absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
