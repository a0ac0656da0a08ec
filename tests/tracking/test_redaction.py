from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.tracking.redaction import redact, redact_value, strip_credentials

secrets = st.text(string.ascii_letters + string.digits, min_size=8, max_size=40).map(lambda s: f"Zq{s}9")


@given(
    secret=secrets,
    template=st.sampled_from(
        [
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
            "https://{}@github.com/x/y.git",
            "https://hooks.slack.com/services/T0/B0/{}",
            "https://discord.com/api/webhooks/123/{}",
            "https://ntfy.sh/{}",
            "Authorization: Bearer {}abcdef",
            "notify_webhook_url: https://example.org/{}",
            "callApi(accessToken='{}')",
            "-----BEGIN RSA PRIVATE KEY-----\n+{}\n+{}\n-----END RSA PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\n{}",
            "hf_{}abcdefghijkl",
            "ghp_{}abcdefghijklmnopqrst",
            "sk-{}abcdefghijkl",
            "xoxb-{}-abc",
        ]
    ),
)
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
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@given(st.text())
def test_redaction_is_stable_on_any_text(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


def test_the_rest_of_the_text_stays() -> None:
    assert redact("seed=1 HF_TOKEN=abcdef lr=2") == "seed=1 HF_TOKEN=*** lr=2"
    assert redact("http://me:pw@host:5000/x") == "http://me:***@host:5000/x"
    assert redact("https://hooks.slack.com/services/T/B/x rest") == "https://hooks.slack.com/services/*** rest"


def test_a_value_is_judged_by_its_name() -> None:
    assert redact_value("hub_token", "two words") == "***"
    assert redact_value("data.prompt", "two words") == "two words"
    assert redact_value("tracking.uri", "http://a:b@c") == "http://a:***@c"


def test_credentials_are_cut_from_a_uri() -> None:
    assert strip_credentials("http://a:b@host:1/p") == "http://host:1/p"
    assert strip_credentials("sqlite:////a/b@c/d.db") == "sqlite:////a/b@c/d.db"
