"""`tracking.`: where the record of a run goes."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, field_validator

from recipe_exp.config.base import Section
from recipe_exp.config.secrets import is_secret_name


class TrackingConfig(Section):
    """Where the record of a run goes. The journal in the run folder is always written."""

    enabled: bool = True
    """Send the journal to MLflow. False keeps it in the run folder, from where `task=sync` can send it later."""
    uri: str | None = None
    """MLflow tracking URI; null uses a sqlite database under `output_dir`."""
    experiment: Annotated[str, Field(min_length=1)] = "recipes"
    """Name of the MLflow experiment."""
    system_metrics: bool = True
    """Record CPU, memory and GPU use."""
    upload_checkpoints: Literal["best", "none"] = "best"
    """Send the best checkpoint once, at the end; on the same disk it is hard-linked."""
    flush_timeout_seconds: Annotated[float, Field(ge=0.0)] = 60.0
    """Longest wait for the upload at the end of a run; `task=sync` sends what is left."""

    @field_validator("uri", mode="before")
    @classmethod
    def _refuse_password(cls, value: object) -> object:
        if isinstance(value, str) and _has_credentials(value):
            raise ValueError(
                "credentials in a URI would be stored with the run; "
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment or .env"
            )
        return value


def _has_credentials(uri: str) -> bool:
    parts = urlsplit(uri)
    # Databases are often entered by a name alone; to a web server a lone name is a token.
    has_user = bool(parts.password) or (parts.username is not None and parts.scheme in ("http", "https"))
    return has_user or any(is_secret_name(name) for name, _ in parse_qsl(parts.query))
