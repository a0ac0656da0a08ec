"""Secrets are cut out of every text that leaves the process: logs, records, patches and the tracker."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

MASK = "***"

_SHAPES = re.compile(
    r"""
      \bhf_[A-Za-z0-9]{16,}                                  # Hugging Face
    | \b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{20,}             # GitHub
    | \bgithub_pat_[A-Za-z0-9_]{20,}
    | \bglpat-[A-Za-z0-9_-]{16,}                             # GitLab
    | \bxox[abeoprs]-[A-Za-z0-9-]{10,}                       # Slack
    | \bxapp-[A-Za-z0-9-]{10,}
    | \b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}                      # model services
    | \b(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{10,}          # payment services
    | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b                          # AWS
    | \bAIza[A-Za-z0-9_-]{30,}                               # Google
    | \bya29\.[A-Za-z0-9_-]{20,}
    | \bdapi[0-9a-f]{32}                                     # Databricks
    | \bnpm_[A-Za-z0-9]{30,}
    | \bpypi-[A-Za-z0-9_-]{30,}
    | \b\d{8,10}:[A-Za-z0-9_-]{35}\b                         # Telegram bot
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*   # JSON web token
    """,
    re.VERBOSE,
)
# The body ends at the END line, or at the end of a text that was cut off in the middle of a key.
_PRIVATE_KEY = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_URI_CREDENTIALS = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^\s/@:'\"]*)(?P<rest>:[^\s/'\"]*)?@")
_WEBHOOK = re.compile(
    r"""(?P<service>https?://
        (?:hooks\.slack\.com/(?:services|workflows|triggers)/
        |(?:[a-z]+\.)?discord(?:app)?\.com/api/(?:v\d+/)?webhooks/
        |[a-z0-9.-]*webhook\.office\.com/
        |[a-z0-9.-]*\.logic\.azure\.com[:0-9]*/
        |hooks\.zapier\.com/hooks/
        |api\.telegram\.org/bot
        |ntfy\.sh/
        |chat\.googleapis\.com/v1/spaces/)
        )[^\s'"<>)\]}]+""",
    re.VERBOSE | re.IGNORECASE,
)
# A digit tells a credential from prose such as "basic understanding".
_AUTHORIZATION = re.compile(
    r"(?P<kind>\b(?:Bearer|Basic|Token)\s+)(?=[^\s\d]*\d)(?P<value>[A-Za-z0-9+/=._~-]{12,})", re.IGNORECASE
)

_SECRET_NAME = (
    r"(?:(?:[A-Za-z0-9_.-]*[_.-])?"
    r"(?:token|secrets?|password|passwd|passphrase|pwd|api_?key|key|credentials?|webhook(?:_url)?)"
    r"|[A-Za-z]*(?:token|secret|password|apikey))"
)
# A line that is one unquoted assignment (.env, YAML, shell, patches of them): the value ends with the line.
_LINE = re.compile(
    rf"""^(?P<name>[ \t]*[+-]?[ \t]*(?:export[ \t]+)?(?P<bare>{_SECRET_NAME}))
        (?P<sign>[ \t]*[:=][ \t]*)
        (?P<value>[^\s"'].*)$""",
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_ASSIGNMENT = re.compile(
    rf"""(?<![A-Za-z0-9_])(?P<name>["']?(?P<bare>{_SECRET_NAME})["']?)
        (?P<sign>[ \t]*[:=][ \t]*)
        (?P<value>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|[^\s'",;&)\]}}]+)""",
    re.VERBOSE | re.IGNORECASE,
)
# A tokenizer's own vocabulary and a bare `key`/`Key` are words of this field, not secrets.
_HARMLESS_NAME = re.compile(
    r"(?:.*(?:^|[_.-])(?:pad|eos|bos|unk|sep|cls|mask|decoder_start|additional_special|special)_token|key)",
    re.IGNORECASE,
)
_HARMLESS_VALUE = re.compile(
    r"""["']?(?:none|null|true|false|str|int|float|bool|bytes|\d{1,6}(?:\.\d+)?|\*+|)["']?
    |["']?\$\{?[A-Za-z_].*|os\.(?:environ|getenv)\b.*|getenv\b.*""",
    re.VERBOSE | re.IGNORECASE,
)


def redact(text: str) -> str:
    """`text` with its secrets replaced by `***`; applying it again changes nothing.

    Covers credentials in URIs, webhook addresses, values of names such as `*_TOKEN`, `*_SECRET`, `*_KEY` and
    `PASSWORD` (in shell, YAML, JSON and Python notation), authorization headers, private key blocks and the
    known shapes of tokens. It rather masks too much than too little.
    """
    text = _PRIVATE_KEY.sub(rf"\g<1>{MASK}\g<2>", text)
    text = _WEBHOOK.sub(rf"\g<service>{MASK}", text)
    text = _URI_CREDENTIALS.sub(_mask_credentials, text)
    text = _SHAPES.sub(MASK, text)
    text = _AUTHORIZATION.sub(rf"\g<kind>{MASK}", text)
    text = _LINE.sub(_mask_assignment, text)
    return _ASSIGNMENT.sub(_mask_assignment, text)


def redact_value(name: str, value: str) -> str:
    """`value` as it may be stored under `name`: masked whole if the name is that of a secret."""
    masked = redact(f"{name}={value}")
    prefix = f"{name}="
    return masked.removeprefix(prefix) if masked.startswith(prefix) else redact(value)


def strip_credentials(uri: str) -> str:
    """`uri` without user name and password."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _mask_credentials(match: re.Match[str]) -> str:
    # A user name alone is a secret too where it is a token, as in https://TOKEN@host; git@host is not.
    if match["rest"]:
        return f"{match['scheme']}{match['user']}:{MASK}@"
    user = match["user"] if match["user"] in ("", "git") else MASK
    return f"{match['scheme']}{user}@"


def _mask_assignment(match: re.Match[str]) -> str:
    value = match["value"]
    if _HARMLESS_NAME.fullmatch(match["bare"]) or _HARMLESS_VALUE.fullmatch(value):
        return match[0]
    quote = value[0] if value[0] in "\"'" else ""
    return f"{match['name']}{match['sign']}{quote}{MASK}{quote}"
