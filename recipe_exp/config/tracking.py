"""`tracking.`: where the record of a run goes."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, field_validator

from recipe_exp.config.base import Section, Strings, Text
from recipe_exp.secrets import is_secret_name

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class TrackingConfig(Section):
    """Where the record of a run goes. The journal in the run folder is always written."""

    enabled: bool = True
    """Send the journal to MLflow. False keeps it in the run folder, from where `task=sync` can send it later."""
    uri: Text | None = None
    """MLflow tracking URI; null uses a sqlite database under `output_dir`."""
    experiment: Annotated[str, Field(min_length=1)] = "recipes"
    """Name of the MLflow experiment."""
    system_metrics: bool = True
    """Record CPU, memory and GPU use."""
    upload_checkpoints: Literal["best", "none"] = "best"
    """Send the best checkpoint once, at the end; on the same disk it is hard-linked."""
    max_upload_gb: Annotated[float, Field(gt=0.0, le=1e6)] = 5.0
    """Largest best checkpoint that is uploaded, in 10^9 bytes. Of a larger one the tracker is told folder and machine.
    A hard link on the same disk is no upload."""
    flush_timeout_seconds: Annotated[float, Field(ge=0.0, le=1e6)] = 60.0
    """Longest wait for the upload at the end of a run, in seconds. A tracker that does not answer, or answers with
    errors, is waited for five seconds; a run that was stopped by a signal waits ten at most, and Ctrl-C ends the wait.
    The upload goes on without the run for ten minutes; `task=sync` sends what is left."""
    notify: Strings = ()
    """Names of environment variables that hold where to send start, end, failure, interruption, better checkpoints (one
    a minute at most) and progress: an apprise URL (mail, SMS, ...) or a webhook of Discord or Slack. Needs the extra
    `notify`."""
    notify_every_minutes: Annotated[float, Field(gt=0.0, le=1e6)] | None = 60.0
    """Minutes between two messages on the progress; null sends none."""

    @field_validator("notify")
    @classmethod
    def _refuse_addresses(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        # An address is a secret, and a configuration is stored.
        if any(_VARIABLE.fullmatch(name) is None for name in names):
            raise ValueError(
                "must be names of environment variables, such as [DISCORD_WEBHOOK]; set the addresses there or in .env"
            )
        return names

    @field_validator("uri", mode="before")
    @classmethod
    def _refuse_password(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if not _has_port_or_none(value):
            raise ValueError("is no address of a tracker; write http://HOST:PORT or sqlite:///FILE")
        if _has_credentials(value):
            raise ValueError(
                "credentials in a URI would be stored with the run; "
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment or .env"
            )
        return value


def _has_port_or_none(uri: str) -> bool:
    try:
        return urlsplit(uri).port != 0
    except ValueError:  # half an IPv6 address, or a port out of range
        return False


def _has_credentials(uri: str) -> bool:
    parts = urlsplit(uri)
    # Databases are often entered by a name alone; to a web server a lone name is a token.
    has_user = bool(parts.password) or (parts.username is not None and parts.scheme in ("http", "https"))
    return has_user or any(is_secret_name(name) for name, _ in parse_qsl(parts.query))
