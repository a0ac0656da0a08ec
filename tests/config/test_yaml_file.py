from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipe_exp.config import yaml_file
from recipe_exp.errors import ConfigError

HERE = Path("here.yaml")


def mistake_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        yaml_file.parse(text, HERE)
    (line,) = caught.value.mistakes
    return line


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=30,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), PLAIN, max_size=5))
def test_plain_values_are_read_as_they_were_written(data: dict[str, Any]) -> None:
    assert yaml_file.parse(yaml.safe_dump(data), HERE) == data


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet=st.sampled_from("abc:[]{}&*!<>|-?,#'\"\n \t%@\0\x1b\ufeff0189.e+~"), max_size=60))
def test_any_text_is_a_mapping_or_one_line(text: str) -> None:
    try:
        assert isinstance(yaml_file.parse(text, HERE), dict)
    except ConfigError as error:
        (line,) = error.mistakes
        assert line.startswith("here.yaml")
        assert line.isprintable()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nseed: 2\n", "here.yaml:2: cannot be read as YAML: the key seed stands here twice"),
        ("a: [1, 2", "here.yaml:1: cannot be read as YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\n---\nb: 2\n", "here.yaml:2: cannot be read as YAML: expected a single document"),
        ("a: !!python/object/apply:os.system [id]", "here.yaml:1: cannot be read as YAML: tags such as python/object/"),
        ("a: !!binary aGk=", "here.yaml:1: cannot be read as YAML: tags such as binary are not used here"),
        ("a: !mine x", "here.yaml:1: cannot be read as YAML: tags such as !mine are not used here"),
        ("? [a]\n: 1", "here.yaml:1: cannot be read as YAML: a key must be plain text"),
        ("null: 1", "here.yaml:1: cannot be read as YAML: a key must be plain text"),
        ("a: &a [*a]", "here.yaml:1: cannot be read as YAML: an alias stands for what it is a part of"),
        ("a: *b", "here.yaml:1: cannot be read as YAML: found undefined alias 'b'"),
        (f"a: {'9' * 5000}", "here.yaml: cannot be read as YAML: a number has too many digits"),
        ("a: " + "[" * 100_000, "here.yaml:1: cannot be read as YAML: nested over 32 levels deep"),
        ("a: [" + "x," * 50_000 + "]", "here.yaml:1: cannot be read as YAML: over 20,000 values"),
        ("a: 1\nb: '\x1b'", "here.yaml:2: cannot be read as YAML: the character U+001B is no text"),
        ("- a", "here.yaml: holds a list"),
        ("a", "here.yaml: holds a single value"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_refused_is_named_with_its_line(text: str, expected: str) -> None:
    assert mistake_of(text).startswith(expected)


def repeating(template: str, first: str) -> str:
    """Each line stands for ten of the line before it."""
    lines = [first]
    for inner, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} {template.format(', '.join([f'*{inner}'] * 10))}")
    return "\n".join(lines)


def test_aliases_are_counted_as_often_as_they_repeat() -> None:
    assert yaml_file.parse("a: &a [1, 2]\nb: [*a, *a]\n", HERE)["b"] == [[1, 2], [1, 2]]
    assert "over 20,000 values, aliases counted" in mistake_of(repeating("[{}]", "a: &a [x]"))
    assert "over 20,000 values, aliases counted" in mistake_of(repeating("{{<<: [{}]}}", "a: &a {x: 1}"))
    assert "over 20,000 values" in mistake_of(f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 100)}]\n")


def test_empty_text_has_no_keys() -> None:
    assert yaml_file.parse("", HERE) == yaml_file.parse("# nothing\n", HERE) == yaml_file.parse("null", HERE) == {}


def test_file_that_is_no_text_of_bounded_size_is_one_line(tmp_path: Path) -> None:
    large, latin, marked, pipe = (tmp_path / name for name in ("large", "latin", "marked", "pipe"))
    large.write_bytes(b"#" * (yaml_file.MAX_FILE_BYTES + 1))
    latin.write_bytes("a: é".encode("latin-1"))
    marked.write_bytes("\ufeffa: é".encode())
    os.mkfifo(pipe)
    assert yaml_file.read_text(marked) == "a: é"
    for path, reason in {
        large: "cannot be read: is larger than 2.0 MiB",
        latin: "is not UTF-8; save it as UTF-8 text",
        pipe: "cannot be read: is no regular file",
        tmp_path: "cannot be read: is no regular file",
        tmp_path / "none": "cannot be read: No such file or directory",
    }.items():
        with pytest.raises(ConfigError) as caught:
            yaml_file.read_text(path)
        assert str(caught.value) == f"{path}: {reason}"
