"""One table of secrets: what is refused, what is masked, and what is left alone."""

from __future__ import annotations

import io
import string
import subprocess
import sys
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recipe_exp.secrets import (
    RedactedStream,
    find_secret,
    is_secret_name,
    redact,
    redact_command,
    redact_value,
    strip_credentials,
)

SECRETS = {
    "hf_" + "aB3d" * 8: "a token",
    "ghp_" + "aB3d" * 8: "a token",
    "xoxb-" + "1234567890-abc": "a token",
    "AKIA" + "ABCDEFGHIJKLMNOP": "a token",
    "sk-proj-" + "aB3d" * 8: "a token",
    "https://hooks.slack.com/services/T0/B0/abc": "a webhook",
    "https://discord.com/api/webhooks/1/abc": "a webhook",
    "discord://1234567/" + "aB3d" * 8: "a webhook",
    "https://me:swordfish@tracker/": "a password in a URI",
    "postgresql://me:sword/fish@host/db": "a password in a URI",
    "https://swordfish@tracker/": "a token in a URI",
    "Authorization: Bearer " + "aB3d" * 4: "an authorization header",
    "-----BEGIN RSA PRIVATE KEY-----\nabc": "a private key",
    "HF_TOKEN=swordfish": "a value under the name of a secret",
    '{"client_secret": "swordfish"}': "a value under the name of a secret",
    "{password: swordfish}": "a value under the name of a secret",
    "--api-key swordfish": "a value under the name of a secret",
    "password: |\n  swordfish": "a value under the name of a secret",
}


@pytest.mark.parametrize(("text", "kind"), SECRETS.items())
def test_secret_is_found_and_masked_inside_a_text(text: str, kind: str) -> None:
    assert find_secret(f"see\n{text}") == kind
    masked = redact(f"see\n{text}")
    assert text not in masked
    assert "swordfish" not in masked
    assert "aB3d" not in masked
    assert masked.startswith("see\n")
    assert find_secret(masked) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "google/flan-t5-base", "title=Pancakes; ingredients=flour, eggs", "sqlite:///runs.db", "s3://bucket/x"),
        *("http://localhost:5000", "postgresql://me@host/db", "risk-free", "hf_short", "a:b@c", "3fa85f64-5717-4562"),
        *("sk-learning-rate-experiment-2026", "Grandma's secret: butter", "token: subword", "Token: {title}"),
        *("http://localhost:5000/#/experiments/1?by=me@home", "data.max_source_tokens=256", "key: best results"),
    ],
)
def test_ordinary_text_is_no_secret(text: str) -> None:
    assert find_secret(text) is None


@pytest.mark.parametrize(
    "name",
    ["hf_token", "tracking.password", "api_key", "API_KEY", "x.webhook_url", "token", "accessToken", "--hf-token"],
)
def test_name_of_a_secret(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["data.max_source_tokens", "hardware.micro_batch_tokens", "key", "tokenizer", "compass", "pad_token", "author"],
)
def test_name_of_no_secret(name: str) -> None:
    assert not is_secret_name(name)


generated = st.text(string.ascii_letters + string.digits, min_size=8, max_size=40).map(lambda s: f"Zq{s}9")
TEMPLATES = [
    "HF_TOKEN={}",
    "export AWS_SECRET_ACCESS_KEY={}",
    "MLFLOW_TRACKING_PASSWORD='{}'",
    '+    api_key: "{}"',
    '{{"client_secret": "{}", "other": 1}}',
    "password = {} and more words",
    "-SMTP_PASSWORD={}",
    "python -m recipe_exp +hub.token={} seed=1",
    "http://user:{}@host:5000/path",
    "postgresql://user:{}@host/db",
    "postgresql://user:a/{}@b@host/db",
    "https://{}@github.com/x/y.git",
    "https://hooks.slack.com/services/T0/B0/{}",
    "https://discord.com/api/webhooks/123/{}",
    "https://ntfy.sh/{}",
    "tgram://{}/chat",
    "Authorization: Bearer {}abcdef",
    "notify_webhook_url: https://example.org/{}",
    "callApi(accessToken='{}')",
    "-----BEGIN RSA PRIVATE KEY-----\n+{}\n+{}\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\n{}",
    "hf_{}abcdefghijkl",
    "ghp_{}abcdefghijklmnopqrst",
    "sk-{}abcdefghijkl",
    "xoxb-{}-abc",
    "connect(password=b'{}')",
    "client = Client(token=SecretStr('{}'), retries=3)",
    "def connect(host, token: str = '{}', retries: int = 3): ...",
    "token = os.getenv('HF_TOKEN', '{}')",
    "image --password {} --rank 3",
    "machine host login me password {}",
    "+password: >-\n+  {}\n+  more\n+rank: 3",
    "TOKEN = (\n    '{}'\n)",
    'password = """{}\nmore"""',
    "password='{}",
    "A" * 100 + "_TOKEN={}",
    "see {{password: {} and more, rank: 3}}",
]


@given(secret=generated, template=st.sampled_from(TEMPLATES))
def test_a_secret_never_survives(secret: str, template: str) -> None:
    text = template.replace("{}", secret).replace("{{", "{").replace("}}", "}")
    masked = redact(f"before\n{text}\nafter")
    assert secret not in masked
    assert "***" in masked
    assert masked.startswith("before\n")
    assert masked.endswith("after") or "PRIVATE KEY" in text
    assert redact(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "data.max_source_tokens=256",
        "train/target_tokens_per_second: 5013.2",
        'eos_token = "</s>"',
        "pad_token: <pad>",
        "tokenizer=t5-small",
        "token: str",
        "token: str | None = None",
        "def connect(host: str, token: str, retries: int) -> None:",
        "token = None",
        'token = os.environ["HF_TOKEN"]',
        "uri: ${oc.env:TOKEN}",
        "for key, value in items:",
        "key: step",
        "a basic understanding of turkey=bird",
        "git@github.com:someone/something.git",
        "ssh://git@host/path",
        "sqlite:////data/outputs/mlflow.db",
        "write to someone@example.org, see http://example.org/a?b=c@d",
        "task-specific-objectives and risk-management-of-things",
        "--max-source-tokens 3 --token --quiet",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@given(st.text())
def test_redaction_is_stable_on_any_text(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


# Texts of the pieces that the table looks for, where rules meet each other.
pieces = [
    "token",
    "_",
    "password",
    "=",
    ": ",
    '"',
    "'",
    "\n",
    "  ",
    "+",
    "-",
    "abc1",
    "{",
    "}",
    "(",
    ")",
    ",",
    "***",
    "|",
]


@example('token"=token""token')
@given(st.lists(st.sampled_from([*pieces, "http://", "@", "hf_" + "a1" * 9, "Bearer ", ":"]), max_size=25).map("".join))
def test_redaction_is_stable_where_rules_meet(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


def test_the_rest_of_the_text_stays() -> None:
    assert redact("seed=1 HF_TOKEN=abcdef lr=2") == "seed=1 HF_TOKEN=*** lr=2"
    assert redact("http://me:pw@host:5000/x") == "http://me:***@host:5000/x"
    assert redact("https://hooks.slack.com/services/T/B/x rest") == "https://hooks.slack.com/services/*** rest"
    assert redact("postgresql://me@host/db") == "postgresql://***@host/db"
    assert redact("{password: swordfish, rank: 3}") == "{password: ***, rank: 3}"
    assert redact('{"hf_token": "swordfish"}') == '{"hf_token": "***"}'
    assert redact("max_source_tokens=3") == "max_source_tokens=3"
    assert redact("+secrets:\n+  a: b\n+other: 3") == "+secrets:\n+  ***\n+other: 3"


def test_a_value_is_judged_by_its_name() -> None:
    assert redact_value("hub_token", "two words") == "***"
    assert redact_value("hub_token", "None") == "None"
    assert redact_value("data.prompt", "two words") == "two words"
    assert redact_value("tracking.uri", "http://a:b@c") == "http://a:***@c"


def test_a_secret_in_the_word_after_its_flag_is_masked() -> None:
    words = [
        "python",
        "train.py",
        "--hf-token",
        "opaque",
        "--password=opaque",
        "+x.key",
        "seed=1",
        "--token",
        "--rank",
        "3",
    ]
    masked = [*words[:3], "***", "--password=***", *words[5:]]
    assert redact_command(words) == masked


def test_credentials_are_cut_from_a_uri() -> None:
    assert strip_credentials("http://a:b@host:1/p") == "http://host:1/p"
    assert strip_credentials("sqlite:////a/b@c/d.db") == "sqlite:////a/b@c/d.db"


# The values of this process's own secrets


def test_a_value_of_the_environment_is_found_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", 'open/"sesame" 7')
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:kl4atu-barada@host/db")
    assert find_secret('it said open/"sesame" 7 and left') == "the value of MLFLOW_TRACKING_PASSWORD"
    assert redact("kl4atu-barada was refused") == "*** was refused"
    assert (
        redact('open/"sesame" 7, open%2F%22sesame%22%207, {"said": "open/\\"sesame\\" 7"}')
        == '***, ***, {"said": "***"}'
    )


def test_short_values_and_plain_words_of_the_environment_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "recipes")
    monkeypatch.setenv("SOME_PASSWORD", "pancakes")
    assert redact("recipes for pancakes") == "recipes for pancakes"
    assert find_secret("recipes for pancakes") is None


@pytest.mark.parametrize(
    "piece",
    [
        "-",
        "a-",
        "a.",
        "eyJ-",
        "sk-",
        "://x:",
        " ",
        "+",
        "token=",
        "token='",
        "login a password ",
        "http://",
        "a",
        "\n token:\n",
    ],
)
def test_time_grows_with_the_length_only(piece: str) -> None:
    text = (piece * 100_000)[:100_000]
    started = time.process_time()
    redact(text)
    find_secret(text)
    assert time.process_time() - started < 5.0


# What a process prints

BROKEN = """
import sys, threading
from recipe_exp.secrets import redact_traces
redact_traces()
def fail():
    try:
        raise ValueError("it was " + sys.argv[1])
    except ValueError as error:
        raise RuntimeError("password=" + sys.argv[1]) from error
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""


def test_traces_are_whole_but_for_their_secrets() -> None:
    token = "hf_" + "aB3d" * 8
    done = subprocess.run([sys.executable, "-c", BROKEN, token], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("Traceback (most recent call last)") == 4
    assert done.stderr.count("ValueError: it was ***\n") == 2
    assert done.stderr.count("RuntimeError: password=***\n") == 2
    assert token not in done.stderr


def test_a_log_gets_whole_lines_without_secrets() -> None:
    log = io.StringIO()
    stream = RedactedStream(log)
    for part in ("the password: swo", "rdfish\nnext", " line\nand hf_", "aB3d" * 8, "\n"):
        print(part, end="", file=stream)
    assert log.getvalue() == "the password: ***\nnext line\nand ***\n"
