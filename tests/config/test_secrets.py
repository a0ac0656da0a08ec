from __future__ import annotations

import pytest

from recipe_exp.config.secrets import find_secret, hide_secrets, is_secret_name

SECRETS = {
    "hf_" + "aB3d" * 8: "a token",
    "ghp_" + "aB3d" * 8: "a token",
    "xoxb-" + "1234567890-abc": "a token",
    "AKIA" + "ABCDEFGHIJKLMNOP": "a token",
    "https://hooks.slack.com/services/T0/B0/abc": "a webhook",
    "https://discord.com/api/webhooks/1/abc": "a webhook",
    "https://me:swordfish@tracker/": "a password in a URI",
    "-----BEGIN RSA PRIVATE KEY-----\nabc": "a private key",
}


@pytest.mark.parametrize(("text", "kind"), SECRETS.items())
def test_secret_is_found_and_hidden_inside_a_text(text: str, kind: str) -> None:
    assert find_secret(f"see {text} there") == kind
    assert text not in hide_secrets(f"see {text} there")
    assert hide_secrets(f"see {text}").startswith("see ")


@pytest.mark.parametrize(
    "text",
    [
        *("", "google/flan-t5-base", "title=Pancakes; ingredients=flour, eggs", "sqlite:///runs.db", "s3://bucket/x"),
        *("http://localhost:5000", "postgresql://me@host/db", "risk-free", "hf_short", "a:b@c", "3fa85f64-5717-4562"),
    ],
)
def test_ordinary_text_is_no_secret(text: str) -> None:
    assert find_secret(text) is None


def test_user_name_in_a_uri_is_hidden_too() -> None:
    assert hide_secrets("postgresql://me@host/db") == "postgresql://...@host/db"


def test_what_is_given_to_the_name_of_a_secret_is_hidden() -> None:
    assert hide_secrets("{password: swordfish, rank: 3}") == "{password: ..., rank: 3}"
    assert hide_secrets('{"hf_token": "swordfish"}') == '{"hf_token": ...}'
    assert hide_secrets("max_source_tokens=3") == "max_source_tokens=3"


@pytest.mark.parametrize("name", ["hf_token", "tracking.password", "api_key", "API_KEY", "x.webhook_url", "token"])
def test_name_of_a_secret(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["data.max_source_tokens", "hardware.micro_batch_tokens", "key", "tokenizer", "compass"]
)
def test_name_of_no_secret(name: str) -> None:
    assert not is_secret_name(name)
