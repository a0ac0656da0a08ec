"""One execution of a run: its folder, its lock, its journal, its status. Closed whatever happens."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.relevance import flatten
from recipe_exp.tasks.naming import name_of
from recipe_exp.tracking import (
    PARENT_RUN_ID_VARIABLE,
    Journal,
    RunFolder,
    Status,
    UploaderHandle,
    collect_provenance,
    redact,
    start_uploader,
)

# What names or places a run would only clutter the tracker's table of differences.
_NO_PARAMETERS = {"task", "tags", "description", "run_name", "output_dir", "resume"}


@dataclass
class RunSession:
    """What the main process holds while a run executes.

    Attributes:
        folder: of the run.
        journal: events of the run.
        status: how the run ends if nothing else is said; becomes the record's status.
        is_synced: whether the tracker has everything; None without one.
        is_accepted: whether the execution has begun; before that a run to continue is left as it was.
    """

    folder: RunFolder
    journal: Journal
    status: Status = "failed"
    is_synced: bool | None = None
    is_accepted: bool = False

    def accept(self, config: ExperimentConfig) -> None:
        """Makes this the configuration of the run: nothing speaks against executing it."""
        config.to_yaml(self.folder.config_path)
        earlier = self.folder.read_record().get("executions", [])
        provenance = collect_provenance()
        execution = {"started": round(time.time(), 3), "command": _command(), "provenance": provenance}
        self.folder.update_record(error=None, provenance=provenance, executions=[*earlier, execution])
        self.is_accepted = True

    def record(self, **fields: Any) -> None:
        """Stores fields in run.json."""
        self.folder.update_record(**fields)


@contextmanager
def open_session(config: ExperimentConfig, existing: Path | None) -> Iterator[RunSession]:
    """Makes or reopens the run folder, locks it, and sends its journal to the tracker until the block ends.

    A run always ends with a true status: the session's, `failed` with the error's line when one escapes.

    Args:
        config: written to config.yaml and, flat, to the tracker.
        existing: a run to continue.

    Raises:
        CheckpointError: if the folder cannot be made or another process works in it.
    """
    folder = RunFolder.open(existing) if existing is not None else _create(config)
    with folder.lock():
        before: Status = folder.read_record().get("status", "failed")
        # The uploader notes where the journal ends now: what an earlier process wrote there ends nothing.
        uploader = _start_uploader(config, folder)
        session = RunSession(folder, Journal(folder))
        try:
            session.journal.status("running")
            if existing is None:
                session.accept(config)
            elif parent := os.environ.get(PARENT_RUN_ID_VARIABLE):
                session.record(parent_run_id=parent)
            _describe(config, session)
            yield session
        except BaseException as error:
            session.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            if not session.is_accepted:
                session.status = before
            elif session.status == "failed":
                session.record(error=redact(f"{type(error).__name__}: {error}").split("\n")[0])
            raise
        finally:
            _close(session, uploader, config.tracking.flush_timeout_seconds)


def _close(session: RunSession, uploader: UploaderHandle | None, timeout_seconds: float) -> None:
    """Ends the journal and the uploader, one even if the other cannot be."""
    try:
        session.journal.status(session.status)
        session.journal.close()
    finally:
        if uploader is not None:
            session.is_synced = uploader.finish(timeout_seconds)


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
    )


def _command() -> list[str]:
    return [redact(word) for word in ["python", "-m", "recipe_exp", *sys.argv[1:]]]


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
