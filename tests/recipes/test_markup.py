from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.recipes.markup import plain_lines
from recipe_exp.recipes.text import clean_line


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "<p>Mix &amp; <b>bake</b>.</p><ol><li>Cut</li><li>Eat<br/>now</li></ol>",
            ("Mix & bake.", "Cut", "Eat", "now"),
        ),
        ("&lt;p&gt;Mix.&lt;/p&gt;", ("Mix.",)),
        ("&amp;lt;br&amp;gt;Mix.", ("Mix.",)),
        ("<a href='x?1'>2 eggs</a>, <span class=y>beaten</span>", ("2 eggs, beaten",)),
        ("Mix.<!-- a note -->", ("Mix.",)),
        ("bake for <10 minutes, > 5", ("bake for <10 minutes, > 5",)),
        ("I <3 this <really>", ("I <3 this <really>",)),
        ("**Soup** with *much* _love_ and ***care***", ("Soup with much love and care",)),
        ("__Soup__", ("Soup",)),
        ("snake_case_name 2*3*4 salt* and oil*", ("snake_case_name 2*3*4 salt* and oil*",)),
        ("1 cup milk* or cream*", ("1 cup milk* or cream*",)),
        ("[taco](/x_1_.md 'a') ![p](q) `code`", ("taco code",)),
        ("[a note] (and this)", ("[a note] (and this)",)),
        ("## Sauce", ("Sauce",)),
        ("#1 Soup", ("#1 Soup",)),
        ("<<b>b>x", ("x",)),
        ("  \u200b ", ()),
        ("<br>", ()),
        ("1½ cups\u00a0<i>flour</i>", ("1 1/2 cups flour",)),
    ],
)
def test_markup_goes_and_text_stays(text: str, lines: tuple[str, ...]) -> None:
    assert plain_lines(text) == lines


MARKUP = st.text(st.sampled_from("<>/bpli*_[]()!#`& 1½é-"), max_size=30)
PIECES = st.lists(
    st.sampled_from(
        ["<p>", "</p>", "<br/>", "&lt;b&gt;", "**", "*", "__", "_", "[a](b)", "![", "](", "1", " ", "x", "½", "# "]
    ),
    max_size=14,
).map("".join)


@settings(max_examples=300)
@given(st.text(max_size=40) | MARKUP | PIECES)
def test_plain_lines_are_clean_and_stay_as_they_are(text: str) -> None:
    lines = plain_lines(text)
    assert all(line == clean_line(line) and line for line in lines)
    assert [found for line in lines for found in plain_lines(line)] == list(lines)


@given(st.text(st.characters(exclude_characters="<>*_[]`#&\x1b"), max_size=40))
def test_text_without_markup_is_only_cleaned(text: str) -> None:
    cleaned = clean_line(text)
    assert plain_lines(text) == ((cleaned,) if cleaned else ())


@pytest.mark.parametrize(
    "piece", ["<", "<b", "<!--", "[", "[a](", "![", "*a ", "_a ", "`", "<p>", "&lt;", "# ", "*_[<"]
)
def test_no_text_takes_long(piece: str) -> None:
    started = time.perf_counter()
    plain_lines(piece * 20_000)
    assert time.perf_counter() - started < 5.0
