"""A disk that refuses, as a forked child of the fault tests sees it.

`Disk` says what is refused, `install` makes it so: calls that matter to files are replaced before the command runs. A
refused write leaves half of what was to be written, as a disk does that fills up on the way.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import re
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Refusal:
    """Calls that fail.

    Attributes:
        call: `open` for writing, `write`, `fsync`, `rename`, `mkdir`, `link`, or `tensors` for a file of tensors.
        pattern: searched in the path; of a `rename` in the path that it starts from.
        after: how many such calls succeed before.
        times: how many fail then; None fails all the others.
        error: name of the error number.
    """

    call: str
    pattern: str
    after: int = 0
    times: int | None = None
    error: str = "ENOSPC"


@dataclass(frozen=True)
class Disk:
    """What a disk refuses.

    Attributes:
        refusals: one by one.
        max_file_bytes: the kernel's limit of the size of a file, at which it raises EFBIG; None leaves it.
    """

    refusals: Sequence[Refusal] = ()
    max_file_bytes: int | None = None


class _Counted:
    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        self.pattern = re.compile(refusal.pattern)
        self.count = 0

    def error_of(self, call: str, path: str) -> OSError | None:
        """The error of this call, None if it is to succeed; counts it."""
        refusal = self.refusal
        if call != refusal.call or self.pattern.search(path) is None:
            return None
        self.count += 1
        last = None if refusal.times is None else refusal.after + refusal.times
        if self.count <= refusal.after or (last is not None and self.count > last):
            return None
        number = getattr(errno, refusal.error)
        # The kernel knows a name where one is given, and only a descriptor where something is written.
        return OSError(number, os.strerror(number), *([] if call in ("write", "fsync") else [path]))


class FaultyDisk:
    """Replaces functions of `os`, `io` and safetensors by ones that may refuse."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        self._counted = [_Counted(refusal) for refusal in refusals]
        self._torn: dict[int, OSError] = {}

    def install(self) -> None:
        """From here on."""
        for name, call, position in (
            ("mkdir", "mkdir", 0),
            ("rename", "rename", 0),
            ("replace", "rename", 0),
            ("link", "link", 1),
        ):
            setattr(os, name, self._refusing(getattr(os, name), call, position))
        os.fsync = self._refusing(os.fsync, "fsync", 0)  # type: ignore[assignment]
        self._replace_writes()
        self._replace_opens()
        self._replace_tensors()

    def error_of(self, call: str, path: Any) -> OSError | None:
        """The error of a call, None if it is to succeed."""
        if isinstance(path, int):
            with contextlib.suppress(OSError):
                path = Path(f"/proc/self/fd/{path}").readlink()
        errors = [counted.error_of(call, os.fsdecode(path)) for counted in self._counted if not isinstance(path, int)]
        return next((error for error in errors if error is not None), None)

    def write(self, descriptor: int, content: Any, function: Callable[[Any], int]) -> int:
        """Writes; what is refused is written by half, which succeeds, and the rest fails."""
        error = self._torn.pop(descriptor, None)
        if error is not None:
            raise error
        error = self.error_of("write", descriptor)
        if error is None:
            return function(content)
        self._torn[descriptor] = error
        return function(bytes(content)[: len(content) // 2])

    def _refusing(self, function: Callable[..., Any], call: str, position: int) -> Callable[..., Any]:
        def called(*arguments: Any, **keywords: Any) -> Any:
            if call == "mkdir" and Path(arguments[position]).exists():
                return function(*arguments, **keywords)
            error = self.error_of(call, arguments[position])
            if error is not None:
                raise error
            return function(*arguments, **keywords)

        return called

    def _replace_writes(self) -> None:
        write, send = os.write, os.sendfile

        def told_write(descriptor: int, content: Any) -> int:
            return self.write(descriptor, content, lambda part: write(descriptor, part))

        def told_send(target: int, *arguments: Any) -> int:
            error = self.error_of("write", target)
            if error is not None:
                raise error
            return send(target, *arguments)

        os.write, os.sendfile = told_write, told_send  # type: ignore[assignment]

    def _replace_opens(self) -> None:
        opener, descriptor_of = io.open, os.open

        def told_open(file: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
            if not set(mode) & set("wax+") or isinstance(file, int):
                return opener(file, mode, *arguments, **keywords)
            error = self.error_of("open", file)
            if error is not None:
                raise error
            if not any(counted.refusal.call == "write" for counted in self._counted):
                return opener(file, mode, *arguments, **keywords)
            return self._stream(file, mode, keywords)

        def told_descriptor(path: Any, flags: int, *arguments: Any, **keywords: Any) -> int:
            error = self.error_of("open", path) if flags & (os.O_WRONLY | os.O_RDWR) else None
            if error is not None:
                raise error
            return descriptor_of(path, flags, *arguments, **keywords)

        builtins.open = io.open = told_open  # type: ignore[assignment]
        os.open = told_descriptor

    def _stream(self, file: Any, mode: str, keywords: dict[str, Any]) -> Any:
        disk = self

        class Raw(io.FileIO):
            def write(self, content: Any) -> int:
                return disk.write(self.fileno(), content, super().write)

        raw = Raw(file, mode.replace("b", "").replace("t", ""))
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding=keywords.get("encoding"), newline=keywords.get("newline"))

    def _replace_tensors(self) -> None:
        import safetensors.torch
        from safetensors import SafetensorError

        serialize = safetensors.torch.serialize_file

        def told(tensors: Any, path: Any, *arguments: Any, **keywords: Any) -> None:
            error = self.error_of("tensors", path)
            if error is not None:
                Path(path).write_bytes(b"half of it")
                text = f"Error while serializing: I/O error: {error.strerror} (os error {error.errno})"
                raise SafetensorError(text)
            serialize(tensors, path, *arguments, **keywords)

        safetensors.torch.serialize_file = told


def install(refusals: Sequence[dict[str, Any]], max_file_bytes: int | None) -> None:
    """Makes this process see such a disk; the arguments are the fields of a `Disk` as plain data."""
    if refusals:
        FaultyDisk([Refusal(**fields) for fields in refusals]).install()
    if max_file_bytes is not None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, hard))
