"""What training uses of the machine, sampled from outside of it by the uploader."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipe_exp.tracking.events import Metrics, encode_event

SAMPLE_EVERY_SECONDS = 10.0


class SystemSampler:
    """Appends a sample of a process tree's use of the machine to a file every ten seconds, in a thread.

    Names: `system/cpu_percent` (100 is one core), `system/memory_megabytes` (resident, of the tree),
    `system/machine_memory_percent`, and of each GPU `system/gpu_N_utilization_percent`,
    `system/gpu_N_memory_megabytes` and `system/gpu_N_power_watts`. The step is the number of seconds since the
    run was created, so samples of a continued run lie after the earlier ones.

    Args:
        path: the file; each line is a metrics event.
        process_id: root of the tree; this process, which is in it, is left out.
        created: when the run was created, in seconds since the epoch.
        is_over: whether training has ended; what its process does then is no part of the run.
    """

    def __init__(
        self, path: Path, process_id: int, created: float, is_over: Callable[[], bool] = lambda: False
    ) -> None:
        self._path = path
        self._process_id = process_id
        self._created = created
        self._is_over = is_over
        self._cpu_seconds: dict[int, float] = {}
        self._sampled_at = time.monotonic()
        self._gpus = _open_gpus()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)

    def start(self) -> None:
        """Begin sampling."""
        self._measure_tree()
        self._thread.start()

    def stop(self) -> None:
        """End sampling; what was sampled is in the file."""
        self._stopped.set()
        self._thread.join(timeout=SAMPLE_EVERY_SECONDS)

    def sample(self) -> dict[str, float | str]:
        """The use since the last sample."""
        import psutil

        cpu_percent, memory_bytes = self._measure_tree()
        values: dict[str, float | str] = {
            "system/cpu_percent": round(cpu_percent, 1),
            "system/memory_megabytes": round(memory_bytes / 1e6, 1),
            "system/machine_memory_percent": float(psutil.virtual_memory().percent),
        }
        for index, gpu in enumerate(self._gpus):
            values.update({f"system/gpu_{index}_{name}": value for name, value in _measure_gpu(gpu).items()})
        return values

    def _run(self) -> None:
        while not self._stopped.wait(SAMPLE_EVERY_SECONDS) and not self._is_over():
            # Sampling is a convenience: a full disk or a driver's failure ends it, never the upload.
            with contextlib.suppress(OSError):
                self._append()

    def _append(self) -> None:
        now = round(time.time(), 3)
        step = max(0, round(now - self._created))
        event = Metrics(time=now, step=step, metrics=self.sample())
        with self._path.open("ab") as stream:
            if stream.tell() and not _ends_with_line_break(self._path):
                stream.write(b"\n")
            stream.write(encode_event(event))

    def _measure_tree(self) -> tuple[float, float]:
        """CPU use in percent since the last call, and resident memory in bytes."""
        cpu_seconds: dict[int, float] = {}
        memory_bytes = 0.0
        for process in self._processes():
            with contextlib.suppress(Exception):  # it ended between being listed and being asked
                with process.oneshot():
                    times = process.cpu_times()
                    memory_bytes += process.memory_info().rss
                cpu_seconds[process.pid] = times.user + times.system
        now = time.monotonic()
        elapsed = max(now - self._sampled_at, 1e-3)
        used = sum(max(0.0, seconds - self._cpu_seconds.get(pid, 0.0)) for pid, seconds in cpu_seconds.items())
        self._cpu_seconds, self._sampled_at = cpu_seconds, now
        return 100.0 * used / elapsed, memory_bytes

    def _processes(self) -> list[Any]:
        import psutil

        try:
            root = psutil.Process(self._process_id)
            tree = [root, *root.children(recursive=True)]
        except psutil.Error:
            return []
        return [process for process in tree if process.pid != os.getpid()]


def _ends_with_line_break(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"


def _open_gpus() -> list[Any]:
    """Handles of the machine's NVIDIA GPUs; none without a driver or its Python binding."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # the binding raises its own errors, and it may not be there to import them from
        return []


def _measure_gpu(handle: Any) -> dict[str, float]:
    import pynvml

    values: dict[str, float] = {}
    with contextlib.suppress(pynvml.NVMLError):
        values["utilization_percent"] = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    with contextlib.suppress(pynvml.NVMLError):
        values["memory_megabytes"] = round(pynvml.nvmlDeviceGetMemoryInfo(handle).used / 1e6, 1)
    with contextlib.suppress(pynvml.NVMLError):
        values["power_watts"] = round(pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3, 1)
    return values
