"""Runs one command line after the other, each in a child of a process that has the package loaded already.

`python arena.py [MODULE ...]` reads a case from each line of its standard input, as JSON, and answers with a line of
JSON what came of it. A case is what stands in the tables beside this file:

    command: the arguments.
    files: what lies in the sandbox before, by path; see `_write`. The command runs in `cwd/`, its home is `home/`, the
        folder of its options is `user/`, its temporary files are in `tmp/`; `outside/` is there to be escaped to.
    environment: variables beside the usual ones; null removes one.
    input: standard input; nothing by default.
    stays: the sandbox is that of the case before.

`<sandbox>` stands for the sandbox's path in texts, and `<fixtures>` for the folder of the tests' fixtures.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gzip
import importlib
import io
import json
import os
import resource
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
import traceback
import zipfile
from pathlib import Path
from typing import Any

from recipe_exp.__main__ import main

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
FOLDERS = ("cwd", "home", "user", "tmp", "outside")
GIB = 2**30
MAX_OUTPUT_BYTES = 1_000_000
LIMIT_SECONDS = 10.0
# However busy the machine is.
WALL_LIMIT_SECONDS = 240.0

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.mkdir": 0, "os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.symlink": 1, "os.link": 1, "os.chmod": 0}
EXECUTIONS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class", "os.fork")
_CAPABILITIES_OVER_FILES = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def serve() -> None:
    """Answers cases until the input ends."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    _quietly(lambda: main(["--cfg", "job"]))
    for line in sys.stdin:
        case = json.loads(line)
        sandbox = Path(case["folder"])
        if not case.get("stays"):
            _build(sandbox, case.get("files", {}))
        print(json.dumps(_run(sandbox, case)), flush=True)


# The sandbox


def _build(sandbox: Path, files: dict[str, Any]) -> None:
    for name in FOLDERS:
        (sandbox / name).mkdir(parents=True)
    for path, content in files.items():
        _write(sandbox, sandbox / path, content)


def _write(sandbox: Path, path: Path, content: Any) -> None:
    """Makes what a table describes.

    A text is a file's content, in which a lone surrogate stands for a byte that is no UTF-8. A mapping is
    `folder`, `fifo`, `socket`, `link: TARGET`, `copy: PATH`, `replace: [OLD, NEW]` in what was copied, `absent` for
    what
    was copied and is not wanted, or a file whose bytes `_bytes` knows; `mode` sets its permissions, and `remove` takes
    what was copied away first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict) and content.pop("remove", None):
        path.unlink(missing_ok=True)
    kind = next(iter(content)) if isinstance(content, dict) else "text"
    if kind == "absent":
        path.unlink()
    elif kind == "folder":
        path.mkdir(exist_ok=True)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        # The path of a socket is short; the folder's may not be.
        with socket.socket(socket.AF_UNIX) as server:
            os.chdir(path.parent)
            server.bind(path.name)
            os.chdir("/")
    elif kind == "link":
        path.symlink_to(_filled(sandbox, content["link"]))
    elif kind == "copy":
        source = Path(_filled(sandbox, content["copy"]))
        shutil.copytree(source, path) if source.is_dir() else shutil.copyfile(source, path)
    elif kind == "replace":
        text = path.read_text(encoding="utf-8")
        old, new = content["replace"]
        assert old in text, f"{path}: {old}"
        path.write_text(text.replace(old, _filled(sandbox, new), 1), encoding="utf-8")
    else:
        path.write_bytes(_bytes(sandbox, content))
    if isinstance(content, dict) and "mode" in content:
        path.chmod(int(str(content["mode"]), 8))


def _bytes(sandbox: Path, content: Any) -> bytes:
    if isinstance(content, str):
        return _filled(sandbox, content).encode("utf-8", "surrogateescape")
    if isinstance(content, list):
        return b"".join(_bytes(sandbox, part) for part in content)
    if "repeat" in content:
        return _bytes(sandbox, content["repeat"]) * content["times"]
    if "gzip" in content:
        return gzip.compress(_bytes(sandbox, content["gzip"]), mtime=0)[: content.get("keep")]
    if "zip" in content:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as stream:
            for name, inner in content["zip"].items():
                stream.writestr(name, _bytes(sandbox, inner))
        return archive.getvalue()
    if "encoded" in content:
        return _filled(sandbox, content["encoded"]).encode(content["as"])
    if "head_of" in content:
        return Path(_filled(sandbox, content["head_of"])).read_bytes()[: content["keep"]]
    return _bytes(sandbox, content["text"])


def _text(word: Any) -> str:
    """A word of a command line, which unlike a file may hold halves of characters."""
    if isinstance(word, str):
        return word
    return "".join(map(_text, word)) if isinstance(word, list) else _text(word["repeat"]) * word["times"]


def _filled(sandbox: Path, text: str) -> str:
    return text.replace("<sandbox>", str(sandbox)).replace("<fixtures>", str(FIXTURES))


def _listing(sandbox: Path) -> dict[str, tuple[int, int, int]]:
    """What lies in the sandbox, and how it would show that it was changed; folders show it by what is in them."""
    found = {}
    for folder, folders, names in os.walk(sandbox):
        for name in (*folders, *names):
            path = Path(folder, name)
            status = path.lstat()
            is_folder = stat.S_ISDIR(status.st_mode)
            seen = (0, 0) if is_folder else (status.st_size, status.st_mtime_ns)
            found[str(path.relative_to(sandbox))] = (status.st_mode, *seen)
    return found


# One command


def _run(sandbox: Path, case: dict[str, Any]) -> dict[str, Any]:
    before = _listing(sandbox)
    streams = {name: tempfile.TemporaryFile() for name in ("output", "errors", "audit")}  # noqa: SIM115
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _become(sandbox, case, streams)
    status, was_ended, seconds = _wait(child, case.get("seconds", LIMIT_SECONDS))
    answer: dict[str, Any] = {"exit_code": os.waitstatus_to_exitcode(status), "seconds": seconds, "hung": was_ended}
    for name, stream in streams.items():
        with stream:
            stream.seek(0)
            answer[name] = stream.read(MAX_OUTPUT_BYTES).decode("utf-8", "surrogateescape")
    after = _listing(sandbox)
    answer["changed"] = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return answer | json.loads(answer.pop("audit") or '{"writes": [], "executions": [], "loaded": []}')


def _wait(child: int, limit_seconds: float) -> tuple[int, bool, float]:
    """Returns the status, whether it had to be ended, and its seconds without those in which it waited for a CPU."""
    started, starved, next_look = time.monotonic(), _Starvation(child), 1.0
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        wall = time.monotonic() - started
        if found:
            return status, False, wall - starved.seconds
        if wall > next_look:
            starved.look()
            next_look = wall + 0.25
        if wall - starved.seconds > limit_seconds or wall > WALL_LIMIT_SECONDS:
            os.killpg(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1], True, wall - starved.seconds
        time.sleep(0.002)


class _Starvation:
    """How long the processes of a group were ready to run while the machine did something else."""

    def __init__(self, group: int) -> None:
        self._group = group
        self._by_process: dict[int, float] = {}

    @property
    def seconds(self) -> float:
        return sum(self._by_process.values())

    def look(self) -> None:
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if folder.name.isdigit() and os.getpgid(int(folder.name)) == self._group:
                    nanoseconds = int((folder / "schedstat").read_text().split()[1])
                    self._by_process[int(folder.name)] = nanoseconds / 1e9


def _become(sandbox: Path, case: dict[str, Any], streams: dict[str, Any]) -> None:
    """Is the child: runs the command as the program would, and never returns."""
    code = 70
    audit: dict[str, list[str]] = {"writes": [], "executions": []}
    try:
        os.setpgid(0, 0)
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _enter(sandbox, case, streams)
        command = case["command"]
        words = [command["repeat"]] * command["times"] if isinstance(command, dict) else command
        arguments = [_filled(sandbox, _text(word)) for word in words]
        _watch(audit)
        code = _call(arguments)
    finally:
        audit["loaded"] = sorted({name.partition(".")[0] for name in sys.modules})
        streams["audit"].write(json.dumps(audit).encode())
        streams["audit"].flush()
        os._exit(code)


def _call(arguments: list[str]) -> int:
    sys.argv = ["recipe_exp", *arguments]
    try:
        code = main(arguments)
        atexit._run_exitfuncs()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _enter(sandbox: Path, case: dict[str, Any], streams: dict[str, Any]) -> None:
    given = tempfile.TemporaryFile()  # noqa: SIM115
    given.write(_bytes(sandbox, case.get("input", "")))
    given.seek(0)
    for descriptor, stream in enumerate((given, streams["output"], streams["errors"])):
        os.dup2(stream.fileno(), descriptor)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(sandbox / "cwd")
    for name in ("RANK", "WORLD_SIZE", "XDG_CONFIG_HOME", "RECIPE_EXP_PARENT_RUN_ID"):
        os.environ.pop(name, None)
    os.environ |= {
        "HOME": str(sandbox / "home"),
        "TMPDIR": str(sandbox / "tmp"),
        "RECIPE_EXP_CONFIG_DIR": str(sandbox / "user"),
        "HF_HUB_OFFLINE": "1",
    }
    for name, value in case.get("environment", {}).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = _filled(sandbox, value)
    tempfile.tempdir = None
    sys.dont_write_bytecode = True
    memory = int(case.get("memory_gib", 3) * GIB)
    for what, limit in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_FSIZE, GIB // 4), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(what, (limit, limit))
    _give_up_power_over_files()


def _give_up_power_over_files() -> None:
    """Makes permissions count for root too."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice 32 capabilities
    _LIBC.capget(header, sets)
    mask = ~sum(1 << number for number in _CAPABILITIES_OVER_FILES) & 0xFFFFFFFF
    sets[0], sets[1], sets[2] = sets[0] & mask, sets[1] & mask, sets[2] & mask
    _LIBC.capset(header, sets)


def _watch(audit: dict[str, list[str]]) -> None:
    """Notes every attempt to change a file and to execute something, whoever makes it."""

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes | os.PathLike) and flags & WRITING:
                audit["writes"].append(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100
        elif event in CHANGES:
            path, folder = arguments[CHANGES[event]], arguments[-1]
            if isinstance(path, str | bytes | os.PathLike):
                # A name in a folder that is open, as `shutil.rmtree` removes it.
                is_open = event in ("os.remove", "os.rmdir", "os.mkdir") and isinstance(folder, int) and folder >= 0
                start = os.readlink(f"/proc/self/fd/{folder}") if is_open else ""  # noqa: PTH115
                audit["writes"].append(os.path.abspath(os.path.join(start, os.fsdecode(path))))  # noqa: PTH100, PTH118
        elif event in EXECUTIONS:
            audit["executions"].append(f"{event} {arguments!r}"[:500])

    sys.addaudithook(note)


def _quietly(function: Any) -> None:
    previous, sys.stdout = sys.stdout, io.StringIO()
    try:
        function()
    finally:
        sys.stdout = previous


if __name__ == "__main__":
    serve()
