"""Secrets in a configuration: refused as values, since a configuration is stored, and never shown in a message."""

from __future__ import annotations

import re

HIDDEN = "..."

_WORDS = r"(?:token|password|passwd|passphrase|secret|webhook|webhook_url|api_?key|access_?key|credentials?)"
_NAME = re.compile(rf"(?:^|[_.-]){_WORDS}$", re.IGNORECASE)
_ASSIGNMENT = re.compile(rf"((?:^|[^A-Za-z]){_WORDS}[\"']?\s*[:=]\s*)[^,}}\]]+", re.IGNORECASE)
_SHAPES = {
    "a token": re.compile(
        r"""\bhf_[A-Za-z0-9]{16,}                      # Hugging Face
        | \bgh[oprsu]_[A-Za-z0-9]{20,}                 # GitHub
        | \bgithub_pat_[A-Za-z0-9_]{20,}
        | \bglpat-[A-Za-z0-9_-]{16,}                   # GitLab
        | \bxox[abeoprs]-[A-Za-z0-9-]{10,}             # Slack
        | \bsk-[A-Za-z0-9_-]{16,}                      # model services
        | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b                # AWS
        | \bAIza[A-Za-z0-9_-]{30,}                     # Google
        | \bdapi[0-9a-f]{32}                           # Databricks
        | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*  # JSON web token""",
        re.VERBOSE,
    ),
    "a webhook": re.compile(
        r"""https?://(?:hooks\.slack\.com/|(?:[a-z]+\.)?discord(?:app)?\.com/api/(?:v\d+/)?webhooks/
        |[a-z0-9.-]*webhook\.office\.com/|hooks\.zapier\.com/|api\.telegram\.org/bot)[^\s"'\])}]*""",
        re.VERBOSE | re.IGNORECASE,
    ),
    "a password in a URI": re.compile(r"://[^/\s:@]*:[^/\s@]+@"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*", re.DOTALL),
}
_CREDENTIALS = re.compile(r"://[^/\s]*@")


def is_secret_name(key: str) -> bool:
    """Returns whether a key of this name would hold a secret; `max_source_tokens` would not."""
    return _NAME.search(key) is not None


def find_secret(text: str) -> str | None:
    """Returns what kind of secret a text holds, None if it holds none."""
    return next((kind for kind, shape in _SHAPES.items() if shape.search(text)), None)


def hide_secrets(text: str) -> str:
    """Returns the text with every secret, user name in a URI and value of a secret's name replaced by `...`."""
    text = _ASSIGNMENT.sub(rf"\1{HIDDEN}", text)
    text = _CREDENTIALS.sub(f"://{HIDDEN}@", text)
    for shape in _SHAPES.values():
        text = shape.sub(HIDDEN, text)
    return text
