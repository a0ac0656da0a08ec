from __future__ import annotations

import errno
import os
from collections import namedtuple
from pathlib import Path

import pytest

from recipe_exp.config.compose import compose
from recipe_exp.planning.device import planned_device
from recipe_exp.planning.plan import Plan
from recipe_exp.tasks.doctor import disk
from recipe_exp.tasks.plan import plan_run

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def plan() -> Plan:
    config = compose(["model=flan_t5_base", "training=full", "training.keep_best_n_checkpoints=3", "hardware=rtx5090"])
    return plan_run(config, planned_device(config.hardware))


def test_room_is_compared_with_checkpoints(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = []
    for free in (plan.disk.checkpoint_bytes - 1, plan.disk.disk_bytes - 1, plan.disk.disk_bytes):
        monkeypatch.setattr("shutil.disk_usage", lambda _path, free=free: Usage(10**15, 0, free))
        finding = disk.check_disk(tmp_path / "not" / "there", plan)
        statuses.append(finding.status)
        assert "5 at a time" in finding.text
    assert statuses == ["fail", "warn", "ok"]
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_writing_is_found_by_writing(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", refuse)
    finding = disk.check_disk(tmp_path, plan)
    assert finding.status == "fail"
    assert "quota" in finding.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_folder_that_is_read_only_is_found(tmp_path: Path, plan: Plan) -> None:
    tmp_path.chmod(0o555)
    assert disk.check_disk(tmp_path / "outputs", plan).status == "fail"


def test_a_disk_without_locks_is_found(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    finding = disk.check_disk(tmp_path, plan)
    assert finding.status == "fail"
    assert "has no file locks" in finding.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mounted", "kind"),
    [
        ("server:/export {place} nfs4 rw 0 0", "nfs4"),
        ("//server/share {place} cifs rw 0 0", "cifs"),
        ("mds@tcp:/scratch {place} lustre rw 0 0", "lustre"),
        ("sshfs#me@host: {place} fuse.sshfs rw 0 0", "fuse.sshfs"),
        ("/dev/sdb1 {place} ext4 rw 0 0", None),
        ("overlay {place} fuse.fuse-overlayfs rw 0 0", None),
        ("server:/export {place}else nfs4 rw 0 0", None),
        ("server:/export {place} nfs4 rw 0 0\n/dev/sdb1 {place} xfs rw 0 0", None),
        ("server:/export / nfs4 rw 0 0\n/dev/sdb1 {place} xfs rw 0 0", None),
        ("/dev/sdb1 {place} xfs rw 0 0\nserver:/export / nfs4 rw 0 0", None),
    ],
)
def test_network_disks_are_known_by_their_mount(tmp_path: Path, mounted: str, kind: str | None) -> None:
    home = tmp_path / "my home"
    home.mkdir()
    mounts = tmp_path / "mounts"
    place = str(home.resolve()).replace(" ", "\\040")
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\n{mounted.format(place=place)}\nhalf\n")
    assert disk.network_file_system(home / "not" / "there", mounts) == kind
    assert disk.network_file_system(Path("/"), mounts) == ("nfs4" if " / nfs4" in mounted else None)
