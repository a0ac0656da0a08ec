"""Secrets: refused where they would be stored, cut out of every text that leaves the process. One table for both.

What counts as a secret: the known shapes of tokens, webhooks, credentials in URIs, authorization headers and private
keys; whatever is given to the name of a secret (`HF_TOKEN=...`, `password: ...`, `--api-key ...`); and the values that
this process's environment holds under such names, wherever they turn up.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import TextIO
from urllib.parse import quote, urlsplit, urlunsplit

MASK = "***"
_MAX_PASSES = 8

# Every repetition has a bound or cannot give back what it took, so that the time grows with the text's length only.
_TOKENS = r"""
      \bhf_[A-Za-z0-9]{16,}                                       # Hugging Face
    | \bapi_org_[A-Za-z0-9]{16,}
    | \bgh[oprsu]_[A-Za-z0-9]{20,}                                # GitHub
    | \bgithub_pat_[A-Za-z0-9_]{20,}
    | \bglpat-[A-Za-z0-9_-]{16,}                                  # GitLab
    | \bxox[abeoprs]-[A-Za-z0-9-]{10,}                            # Slack
    | \bxapp-[A-Za-z0-9-]{10,}
    | \b(?:sk|pk|rk)-(?=[A-Za-z0-9_-]{0,200}[A-Za-z0-9]{16})[A-Za-z0-9_-]{16,}     # model services
    | \b(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{10,}               # payment services
    | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b                               # AWS
    | \bAIza[A-Za-z0-9_-]{30,}                                    # Google
    | \bya29\.[A-Za-z0-9_-]{20,}
    | \bGOCSPX-[A-Za-z0-9_-]{20,}
    | \bdapi[0-9a-f]{32}                                          # Databricks
    | \bnpm_[A-Za-z0-9]{30,}
    | \bpypi-AgE[A-Za-z0-9_-]{20,}
    | \bSG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,}              # SendGrid
    | \b\d{8,10}:[A-Za-z0-9_-]{35}\b                              # Telegram bot
    | \beyJ[A-Za-z0-9_-]{8,2000}\.[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]*+   # JSON web token
"""
_WEBHOOKS = r"""(?P<service>
        https?://(?:hooks\.slack\.com/(?:services|workflows|triggers)/
        |(?:[a-z]{1,20}\.)?discord(?:app)?\.com/api/(?:v\d{1,3}/)?webhooks/
        |[a-z0-9.-]{0,60}webhook\.office\.com/
        |[a-z0-9.-]{0,60}\.logic\.azure\.com[:0-9]{0,6}/
        |hooks\.zapier\.com/
        |api\.telegram\.org/bot
        |ntfy\.sh/
        |chat\.googleapis\.com/v1/spaces/)
        # addresses of notification services, as apprise writes them
        |\b(?:discord|slack|tgram|twilio|pover|pbul|gchat|msteams|workflows|sendgrid|mailgun|vonage|plivo|gotify|mmost
        |zulip|ntfy)s?://
        )[^\s'"<>)\]}]+"""
# What stands between the colon and the slash is a port where it is a number, else a password that holds a slash.
_URI_PASSWORD = r"(?P<before>\b[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/@:'\"]{0,256}:)(?!\d{1,5}[/?#])[^\s'\"]{1,512}@"
# To a web server a lone user name is a token; git's is not, and databases are entered by a name.
_URI_TOKEN = r"(?P<before>\bhttps?://)(?!git@)[^\s/@:'\"]{1,512}@"
_URI_USER = r"(?P<before>\b[A-Za-z][A-Za-z0-9+.-]{0,30}://)(?!git@)[^\s/@:'\"]{1,512}@"
# A digit tells a credential from prose such as "basic understanding".
_AUTHORIZATION = r"(?P<before>\b(?:Bearer|Basic|Token)\s{1,10})(?=[^\s\d]{0,500}\d)[A-Za-z0-9+/=._~-]{12,}"
# The body ends at the END line, or at the end of a text that was cut off in the middle of a key.
_PRIVATE_KEY = (
    r"(?P<before>-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----).*?(?P<after>-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)"
)
_LOGIN = r"(?P<before>\blogin[ \t]{1,9}\S{1,99}\s{1,9}password[ \t]{1,9})\S+"

# Words at the end of a secret's name: some wherever they stand (`accessToken`), others only as a word of their own.
_NAME = (
    r"(?:token|secret|password|apikey|(?<![A-Za-z0-9])"
    r"(?:secrets|passwd|passphrase|passcode|pwd|api[_-]?keys?|key|credentials?|webhook(?:[_-]ur[il])?|auth))"
)
_SECRET_NAME = re.compile(rf"(?P<word>{_NAME})[\"']?\s*$", re.IGNORECASE)
_PLAIN_WORDS = ("token", "secret", "secrets", "key", "auth")
"""Words of this field and of prose; alone they need a value that looks like one of a secret."""
# A tokenizer's own vocabulary and a bare `key` are no secrets.
_HARMLESS_BEFORE = re.compile(
    r"(?:^|[^A-Za-z0-9])(?:pad|eos|bos|unk|sep|cls|mask|decoder_start|additional_special|special)[_.-]$", re.IGNORECASE
)
_PART_OF_A_NAME = re.compile(r"[A-Za-z0-9_-]$")
_HARMLESS_VALUE = re.compile(
    r"""(?:none|null|true|false|\*+|)
    |(?:str|int|float|bool|bytes|None|SecretStr|Optional\[\w{1,30}\])(?:[ ]?\|[ ]?\w{1,30}){0,4}(?:\s?=\s?None)?,?
    |\$\{?[A-Za-z_][\w.]*(?::[A-Za-z_]\w*)?\}?
    |(?:os\.)?(?:environ(?:\.get)?|getenv)[\[(]\s*["'][A-Za-z_]\w*["']?\s*[\])]?""",
    re.VERBOSE | re.IGNORECASE,
)
_PASSWORD_IN_VARIABLE = re.compile(r"://[^\s/@:]{0,256}:(?!\d{1,5}[/?#])([^\s]{8,512})@")
_COUNT = re.compile(r"\d{1,6}(?:\.\d+)?")

_STRING = r"""(?:\"{3}[^\0]*?(?:\"{3}|\Z)|'{3}[^\0]*?(?:'{3}|\Z)|"(?:[^"\\\n]|\\.)*+"|'(?:[^'\\\n]|\\.)*+')"""
# `token: str | None = ...`: the value is what stands behind the type.
_ANNOTATION = r":[ \t]{0,9}(?:str|bytes|int|Any|None|SecretStr|Optional\[\w{1,30}\])(?:[ ]?\|[ ]?\w{1,30}){0,4}[ ]?"
_ASSIGNMENT = re.compile(
    rf"""(?P<name>{_NAME})
    (?P<sign>["']?[ \t]*+(?:(?:{_ANNOTATION})?=>?|(?P<colon>:))[ \t]*+)
    (?P<value>[^\s'"]{{0,80}}?{_STRING}
        |(?(colon)[^\s,;}}\])"'][^,;}}\])"'\n]*+|[^\s"']+?(?=[)\]}},;.&]*+(?:[\s"']|$)))
        |["'][^\n]*+)""",
    re.VERBOSE | re.IGNORECASE,
)
# A line that is one unquoted assignment (.env, YAML, shell, patches of them): the value ends with the line.
_LINE = re.compile(
    rf"""^(?P<start>[ \t]*+[+-]?+[ \t]*+(?:export[ \t]++)?+)(?P<prefix>[A-Za-z0-9_.-]{{0,64}}?)(?P<name>{_NAME})
    (?P<sign>[ \t]*+[:=][ \t]*+)(?P<value>[^\s"'].*)$""",
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
# A value that begins on the next line: YAML's `|` and `>`, a bracket, a shell's backslash.
_BLOCK = re.compile(
    rf"""^(?P<head>(?P<indent>[+-]?+[ \t]*+)(?:export[ \t]++)?+["']?[A-Za-z0-9_.-]{{0,64}}?(?P<name>{_NAME})["']?
    [ \t]*+[:=][ \t]*+(?:[|>][0-9+-]{{0,2}}|[(\[{{\\])?[ \t]*\n)
    (?P<body>(?:[+-]?+[ \t]++\S.*(?:\n|\Z)){{1,200}})""",
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_FLAG = re.compile(
    rf"(?P<before>(?<![\w-])--?[A-Za-z0-9_-]{{0,40}}?{_NAME}[ \t]{{1,9}})(?!-)(?P<value>[^\s\"']+|{_STRING})",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _Shape:
    """A secret that is known by how it looks.

    Attributes:
        kind: as a message names it.
        pattern: the secret, and what stays of the text as the groups `before`, `service` and `after`.
        replacement: what is left of it.
        is_refused: whether a configuration may not hold it; False where only a record is masked.
    """

    kind: str
    pattern: re.Pattern[str]
    replacement: str = MASK
    is_refused: bool = True


_SHAPES = (
    _Shape("a private key", re.compile(_PRIVATE_KEY, re.DOTALL), rf"\g<before>{MASK}\g<after>"),
    _Shape("a webhook", re.compile(_WEBHOOKS, re.VERBOSE | re.IGNORECASE), rf"\g<service>{MASK}"),
    _Shape("a password in a URI", re.compile(_URI_PASSWORD), rf"\g<before>{MASK}@"),
    _Shape("a token in a URI", re.compile(_URI_TOKEN, re.IGNORECASE), rf"\g<before>{MASK}@"),
    _Shape("a user in a URI", re.compile(_URI_USER), rf"\g<before>{MASK}@", is_refused=False),
    _Shape("a token", re.compile(_TOKENS, re.VERBOSE)),
    _Shape("an authorization header", re.compile(_AUTHORIZATION, re.IGNORECASE), rf"\g<before>{MASK}"),
    _Shape("a password", re.compile(_LOGIN, re.IGNORECASE), rf"\g<before>{MASK}"),
)


def find_secret(text: str) -> str | None:
    """Returns what kind of secret a text holds, such as `a token`; None if it holds none.

    Prose such as `Grandma's secret: butter` is none; what `redact` masks beyond this is only masked.
    """
    for shape in _SHAPES:
        found = shape.pattern.finditer(text) if shape.is_refused else ()
        if any(match.expand(shape.replacement) != match[0] for match in found):
            return shape.kind
    for name, value in _secrets_of_the_environment():
        if value in text:
            return f"the value of {name}"
    is_assigned = any(
        _is_convincing(match) for pattern in (_LINE, _ASSIGNMENT, _FLAG) for match in pattern.finditer(text)
    )
    if is_assigned or _BLOCK.sub(_mask_block, text) != text:
        return "a value under the name of a secret"
    return None


@lru_cache(maxsize=4096)  # the environment's names are asked for again with every text
def is_secret_name(key: str) -> bool:
    """Returns whether what has this name is a secret: `hub_token` and `API_KEY` are, `max_source_tokens` is not."""
    match = _SECRET_NAME.search(key)
    return match is not None and not _is_harmless_name(match["word"], key[: match.start()])


def redact(text: str) -> str:
    """Returns the text with its secrets replaced by `***`; applying it again changes nothing.

    It rather masks too much than too little.
    """
    for _ in range(_MAX_PASSES):
        # What is masked may be the name of what comes next.
        masked = _mask_once(text)
        if masked == text:
            break
        text = masked
    return text


def _mask_once(text: str) -> str:
    text = redact_known(text)
    text = _BLOCK.sub(_mask_block, text)
    text = _LINE.sub(_mask_assignment, text)
    text = _ASSIGNMENT.sub(_mask_assignment, text)
    return _FLAG.sub(rf"\g<before>{MASK}", text)


def redact_known(text: str) -> str:
    """Returns the text without what is a secret whatever stands beside it: for messages such as `hub_token: no key`."""
    # The longest first: one may be a part of another.
    for value in sorted((value for _, value in _secrets_of_the_environment()), key=len, reverse=True):
        text = text.replace(value, MASK)
    for shape in _SHAPES:
        text = shape.pattern.sub(shape.replacement, text)
    return text


def redact_value(name: str, value: str) -> str:
    """Returns the value as it may be stored under this name: masked whole if the name is that of a secret."""
    return MASK if is_secret_name(name) and not _is_harmless_value(name, value) else redact(value)


def redact_command(words: Sequence[str]) -> list[str]:
    """Returns a command line, word by word, without its secrets; one may stand in the word after its flag."""
    shown: list[str] = []
    for position, word in enumerate(words):
        flag = words[position - 1] if position else ""
        is_value = flag.startswith("-") and "=" not in flag and is_secret_name(flag) and not word.startswith("-")
        shown.append(MASK if is_value else redact(word))
    return shown


def redact_traces() -> None:
    """Makes this process print the traces of errors that nothing catches without their secrets."""
    sys.excepthook = _print_trace
    threading.excepthook = lambda failed: _print_trace(failed.exc_type, failed.exc_value, failed.exc_traceback)


class RedactedStream(io.TextIOBase):
    """Writes whole lines to another stream, each without its secrets: for a process whose output is a log.

    Args:
        stream: where they go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._pending = ""

    def write(self, text: str) -> int:
        """Writes what ends with a line break, and keeps the rest for later."""
        whole, end, self._pending = (self._pending + text).rpartition("\n")
        self._stream.write(redact(whole) + end)
        self._stream.flush()
        return len(text)

    def fileno(self) -> int:
        """Returns the descriptor of the stream behind."""
        return self._stream.fileno()


def strip_credentials(uri: str) -> str:
    """Returns the URI without user name and password."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _print_trace(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if kind is not SystemExit:  # which ends a thread and is no error
        print(redact("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _secrets_of_the_environment() -> Iterator[tuple[str, str]]:
    """Yields (variable, secret), the secret also as it stands in URIs and in JSON.

    A short value or a plain word could stand in any text, so it counts only where its name stands beside it.
    """
    for name, content in os.environ.items():
        password = _PASSWORD_IN_VARIABLE.search(content) if "://" in content else None
        is_secret = name.endswith("_PASS") or (is_secret_name(name) and name not in ("PWD", "OLDPWD"))
        value = content if is_secret else password[1] if password else ""
        if len(value) >= 8 and not (value.isalpha() and value.islower() and len(value) < 12):
            for form in dict.fromkeys((value, quote(value, safe=""), json.dumps(value)[1:-1])):
                yield name, form


def _mask_assignment(match: re.Match[str]) -> str:
    if _is_harmless(match):
        return match[0]
    value = match["value"]
    quotes = value[0] if value[0] in "\"'" and value[-1] == value[0] and len(value) > 1 else ""
    return f"{match[0][: match.start('value') - match.start()]}{quotes}{MASK}{quotes}"


def _mask_block(match: re.Match[str]) -> str:
    """Masks the lines that are indented deeper than the name's."""
    if _is_harmless_name(match["name"], _text_before(match)):
        return match[0]
    depth = len(match["indent"])
    lines = match["body"].splitlines(keepends=True)
    is_inner = [len(line) - len(line.lstrip("+- \t")) > depth for line in lines]
    end = is_inner.index(False) if False in is_inner else len(lines)
    masked = [re.sub(r"^([+-]?[ \t]*).*", rf"\g<1>{MASK}", line) for line in lines[:end]]
    return "".join([match["head"], *masked, *lines[end:]])


def _is_harmless(match: re.Match[str]) -> bool:
    before = _text_before(match)
    return _is_harmless_name(match["name"], before) or _is_harmless_value(before + match["name"], match["value"])


def _text_before(match: re.Match[str]) -> str:
    start = match.start("name")
    return match.string[max(start - 40, 0) : start]


def _is_harmless_name(word: str, before: str) -> bool:
    if word.lower() == "key":
        return _PART_OF_A_NAME.search(before) is None
    return word.lower() == "token" and _HARMLESS_BEFORE.search(before) is not None


def _is_harmless_value(name: str, value: str) -> bool:
    bare = value.strip().strip("\"'").strip()
    if _HARMLESS_VALUE.fullmatch(bare) or _HARMLESS_VALUE.fullmatch(value.strip()):
        return True
    # A number given to a token or a key counts something.
    return name.lower().endswith(("token", "key")) and _COUNT.fullmatch(bare) is not None


def _is_convincing(match: re.Match[str]) -> bool:
    """Whether an assignment in a text holds a secret for certain enough to refuse the text."""
    value = match["value"].strip("\"' ")
    if len(value) < 4:
        return False
    if match.re is _FLAG:
        return True
    if _is_harmless(match):
        return False
    is_plain_word = match["name"].lower() in _PLAIN_WORDS and not _PART_OF_A_NAME.search(_text_before(match))
    return "=" in match["sign"] or not is_plain_word or (len(value) >= 6 and any(map(str.isdigit, value)))
