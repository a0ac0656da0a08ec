from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from recipe_exp.sweeping.presence import SILENT_SECONDS, Presence

PRESENT = """
import sys
from pathlib import Path
from recipe_exp.sweeping.presence import Presence
with Presence(Path(sys.argv[1])) as presence:
    print(presence.name, flush=True)
    sys.stdin.read()
"""


def test_a_process_is_alive_until_it_leaves_or_is_killed(tmp_path: Path) -> None:
    with Presence(tmp_path) as here:
        assert here.is_alive(here.name)
        assert not here.is_alive(None)
        for kill in (True, False):
            command = [sys.executable, "-c", PRESENT, str(tmp_path)]
            other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert other.stdout is not None
            name = other.stdout.readline().strip()
            assert here.is_alive(name)
            if kill:
                other.kill()
            other.communicate(timeout=60)
            assert (tmp_path / "processes" / name).exists() is kill
            assert not here.is_alive(name)


def test_a_process_of_another_machine_counts_by_its_last_sign_of_life(tmp_path: Path) -> None:
    with Presence(tmp_path) as here:
        own = (tmp_path / "processes" / here.name).stat().st_mtime
        other = tmp_path / "processes" / "elsewhere.17.beef"
        other.touch()
        os.utime(other, (own, own - SILENT_SECONDS + 60.0))
        assert here.is_alive(other.name)
        os.utime(other, (own, own - SILENT_SECONDS - 60.0))
        assert not here.is_alive(other.name)
        other.unlink()
        assert not here.is_alive(other.name)


def test_signs_of_life_are_given_now_and_then(tmp_path: Path) -> None:
    with Presence(tmp_path) as here:
        path = tmp_path / "processes" / here.name
        os.utime(path, (0.0, 0.0))
        here.beat()
        assert path.stat().st_mtime == 0.0
        here._beaten = -1e9
        here.beat()
        assert path.stat().st_mtime > 0.0
