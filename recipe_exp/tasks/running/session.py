"""One execution of a run: its folder, its lock, its journal, its status. Closed whatever happens."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.relevance import Difference, flatten
from recipe_exp.errors import CheckpointError, ExitCode, TrackingError
from recipe_exp.files import DISK_FAULTS
from recipe_exp.secrets import redact, redact_command
from recipe_exp.signals import Interrupted
from recipe_exp.tasks.running.naming import name_of
from recipe_exp.tracking import (
    PARENT_RUN_ID_VARIABLE,
    TRIAL_VARIABLE,
    Journal,
    Notifier,
    Progress,
    RunFolder,
    Status,
    UploaderHandle,
    collect_provenance,
    notices,
    provenance_changes,
    start_uploader,
)

# What names or places a run would only clutter the tracker's table of differences.
_NO_PARAMETERS = {
    *("task", "tags", "description", "run_name", "output_dir", "sweep"),
    *("resume", "resume_strict", "resume_allow", "resume_schedule"),
}
_SECONDS_AFTER_SIGNAL = 10.0


@dataclass
class RunSession:
    """What the main process holds while a run executes.

    Attributes:
        folder: of the run.
        journal: events of the run.
        status: how the run ends if nothing else is said; becomes the record's status.
        is_synced: whether the tracker has everything; None without one.
        is_accepted: whether the execution has begun; before that nothing is written into a run to continue.
        uploader: sends the journal to the tracker; None without one, and before the execution has begun.
        notifier: tells people what happens; None where nobody wants to be told.
        progress: returns how far the run is; None before its first step.
        stop_reason: why the run was stopped, as `run.json` has it; empty where nothing stopped it.
    """

    folder: RunFolder
    journal: Journal
    status: Status = "failed"
    is_synced: bool | None = None
    is_accepted: bool = False
    uploader: UploaderHandle | None = None
    notifier: Notifier | None = None
    progress: Callable[[], Progress | None] = lambda: None
    stop_reason: str = ""

    def accept(self, config: ExperimentConfig, differences: Sequence[Difference] = (), **fields: Any) -> list[str]:
        """Begins an execution: nothing speaks against it.

        Args:
            config: becomes the configuration of the run.
            differences: in what it goes on with other values than before.
            **fields: of run.json, stored together with the execution.

        Returns:
            In what packages and machine differ since the last execution.
        """
        record, provenance = self.folder.read_record(), collect_provenance()
        execution = {
            "started": round(time.time(), 3),
            "command": _command(),
            "provenance": provenance,
            "changes": [difference.to_dict() for difference in differences],
        }
        if parent := os.environ.get(PARENT_RUN_ID_VARIABLE):
            fields |= {"parent_run_id": parent, "trial": os.environ.get(TRIAL_VARIABLE)}
        config.to_yaml(self.folder.config_path)
        # The uploader notes where the journal ends now: what an earlier process wrote there ends nothing.
        self.uploader = _start_uploader(config, self.folder)
        self.is_accepted = True
        self.journal.status("running")
        executions = [*record.get("executions", []), execution]
        self.folder.update_record(error=None, provenance=provenance, executions=executions, **fields)
        _describe(config, self)
        if self.notifier is not None:
            command = resume_command(config, self.folder)
            self.notifier.leave_last_words(notices.killed(record["run_name"], command))
        return provenance_changes(record.get("provenance"), provenance)

    def record(self, **fields: Any) -> None:
        """Stores fields in run.json."""
        self.folder.update_record(**fields)

    def announce_end(self, config: ExperimentConfig) -> None:
        """Tells people how the execution ended."""
        if self.notifier is None:
            return
        record = self.folder.read_record()
        name, progress, command = record["run_name"], self.progress(), resume_command(config, self.folder)
        if self.status == "failed":
            has_checkpoint = self.folder.checkpoints_path.is_dir() and any(self.folder.checkpoints_path.iterdir())
            message = notices.failed(name, progress, record.get("error") or "", command if has_checkpoint else None)
        elif self.status == "finished" and progress is not None:
            seconds = time.time() - record["executions"][-1]["started"]
            is_early = self.stop_reason in ("early_stopping", "pruned")
            message = notices.finished(
                name, progress, seconds, record.get("best"), str(self.folder.model_path), is_early=is_early
            )
        else:
            message = notices.interrupted(name, progress, self.stop_reason, command)
        self.notifier.send(message)
        self.notifier.leave_last_words(None)


@contextmanager
def open_session(config: ExperimentConfig, existing: Path | None) -> Iterator[RunSession]:
    """Makes or reopens the run folder, locks it, and sends its journal to the tracker until the block ends.

    A run of its own is accepted at once, one that is continued when the caller finds nothing that speaks against it. A
    run always ends with a true status: the session's, `failed` with the error's line when one escapes.

    Args:
        config: written to config.yaml and, flat, to the tracker.
        existing: a run to continue.

    Raises:
        CheckpointError: if the folder cannot be made, another process works in it, or the disk refuses.
    """
    with _notifier(config.tracking.notify) as notifier, _execution(config, existing, notifier) as session:
        yield session


@contextmanager
def _execution(config: ExperimentConfig, existing: Path | None, notifier: Notifier | None) -> Iterator[RunSession]:
    folder = RunFolder.open(existing) if existing is not None else _create(config)
    with _nothing_unbegun(folder), _disk_faults_in_one_line(config, folder), folder.lock():
        before: Status = folder.read_record().get("status", "failed")
        session = RunSession(folder, Journal(folder), notifier=notifier)
        try:
            if existing is None:
                session.accept(config)
            yield session
        except BaseException as error:
            session.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            if isinstance(error, Interrupted):
                session.stop_reason = "sigint" if error.exit_code == ExitCode.SIGINT else "sigterm"
            # The disk that ended the run may refuse this too; what ended it is what the user has to know.
            with suppress(OSError, TrackingError):
                if not session.is_accepted:
                    session.status = before
                elif session.status == "failed":
                    session.record(error=redact(f"{type(error).__name__}: {error}").split("\n")[0])
            with suppress(OSError, TrackingError):
                _close(session, config)
            raise
        else:
            _close(session, config)


def _close(session: RunSession, config: ExperimentConfig) -> None:
    """Ends the journal and the uploader, one even if the other cannot be."""
    if not session.is_accepted:
        session.journal.close()
        return
    try:
        try:
            # A run has only finished when everything that it logged is on the disk.
            session.journal.sync()
        except OSError:
            session.status = "failed" if session.status == "finished" else session.status
            session.record(status=session.status)
            raise
        session.journal.status(session.status)
    finally:
        try:
            session.journal.close()
        finally:
            with suppress(OSError, CheckpointError):
                session.announce_end(config)
            if session.uploader is not None:
                session.is_synced = session.uploader.finish(_seconds_to_send(session, config))


def _seconds_to_send(session: RunSession, config: ExperimentConfig) -> float:
    """Who sends a signal may not wait long before it kills; the uploader goes on alone."""
    timeout = config.tracking.flush_timeout_seconds
    return min(timeout, _SECONDS_AFTER_SIGNAL) if session.stop_reason in ("sigint", "sigterm") else timeout


@contextmanager
def _notifier(names: Sequence[str]) -> Iterator[Notifier | None]:
    if not names:
        yield None
        return
    notifier = Notifier(names, warn=lambda line: print(line, file=sys.stderr))
    try:
        yield notifier
    finally:
        notifier.close()


@contextmanager
def _nothing_unbegun(folder: RunFolder) -> Iterator[None]:
    """Leaves no folder of a run that a signal ended before there was anything to continue."""
    try:
        yield
    except Interrupted:
        if not folder.config_path.is_file():
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


@contextmanager
def _disk_faults_in_one_line(config: ExperimentConfig, folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except (OSError, TrackingError) as error:
        command = resume_command(config, folder)
        if not folder.config_path.is_file() and not folder.checkpoints_path.is_dir():
            # Nothing has begun that could be continued.
            shutil.rmtree(folder.path, ignore_errors=True)
            command = "the same command"
        if not isinstance(error, OSError) or error.errno not in DISK_FAULTS:
            raise
        raise CheckpointError(
            f"{error.filename or folder.path}: {error.strerror}; make room on that disk, then continue with {command}"
        ) from error


def resume_command(config: ExperimentConfig, folder: RunFolder) -> str:
    """Returns the shell command that continues a run."""
    place = "" if config.output_dir == "outputs" else f" output_dir={shlex.quote(config.output_dir)}"
    return f"python -m recipe_exp resume={folder.run_id}{place}"


def _create(config: ExperimentConfig) -> RunFolder:
    return RunFolder.create(
        Path(config.output_dir),
        run_name=name_of(config),
        command=_command(),
        parent_run_id=os.environ.get(PARENT_RUN_ID_VARIABLE),
        trial=os.environ.get(TRIAL_VARIABLE),
    )


def _command() -> list[str]:
    return redact_command(["python", "-m", "recipe_exp", *sys.argv[1:]])


def _describe(config: ExperimentConfig, session: RunSession) -> None:
    session.journal.params(dict(flatten(config.model_dump(mode="json", exclude=_NO_PARAMETERS))))
    tags = {f"tag.{tag}": "true" for tag in config.tags}
    if config.description:
        tags["mlflow.note.content"] = config.description
    if tags:
        session.journal.tags(tags)
    session.journal.artifact(session.folder.config_path)


def _start_uploader(config: ExperimentConfig, folder: RunFolder) -> UploaderHandle | None:
    if not config.tracking.enabled:
        return None
    return start_uploader(folder, config.tracking.uri, config.tracking.experiment, config.tracking.system_metrics)
