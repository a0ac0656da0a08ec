from __future__ import annotations

import subprocess
import sys
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recipe_exp.recipes import ascii_fractions, clean_line, normalise_title
from recipe_exp.recipes.text import _UNUSUAL, _repair, _settle


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("½ cup", "1/2 cup"),
        ("1½ cups", "1 1/2 cups"),
        ("1 ½ cups", "1 1/2 cups"),
        ("1\u00a0½", "1 1/2"),
        ("1⁄2", "1/2"),
        ("1 1⁄2", "1 1/2"),
        ("1¹⁄₂ cups", "1 1/2 cups"),
        ("½½", "1/2 1/2"),
        ("⅟8", "1/8"),
        ("¼-½ tsp", "1/4-1/2 tsp"),
        ("1\n½", "1\n1/2"),
        ("E=mc² at 180 °C", "E=mc² at 180 °C"),
        ("plain 1/2", "plain 1/2"),
    ],
)
def test_fractions_become_ascii_and_stand_apart_from_numbers(text: str, expected: str) -> None:
    assert ascii_fractions(text) == expected


def test_every_vulgar_fraction_of_unicode_is_covered() -> None:
    vulgar = [chr(i) for i in range(0x110000) if "VULGAR FRACTION" in unicodedata.name(chr(i), "")]
    assert len(vulgar) >= 19
    for char in vulgar:
        assert ascii_fractions(char) == unicodedata.normalize("NFKC", char).replace("\u2044", "/")


@given(st.text(st.sampled_from("1½¾⅟⁄/ ²₂\na"), max_size=12) | st.text(max_size=20))
def test_ascii_fractions_is_idempotent_and_leaves_no_fraction_slash(text: str) -> None:
    converted = ascii_fractions(text)
    assert ascii_fractions(converted) == converted
    assert "\u2044" not in converted


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_text_is_left_alone_by_ascii_fractions(text: str) -> None:
    assert ascii_fractions(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("salt &amp; pepper", "salt & pepper"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("&frac12; cup", "1/2 cup"),
        ("creÌ€me brÃ»lÃ©e", "crème brûlée"),
        ("cre\u0300me", "crème"),
        ("  two\t\n words ", "two words"),
        ("zero\u200bwidth\ufeff \x07bell", "zerowidth bell"),
        ("lone\ud800surrogate", "lone\ufffdsurrogate"),
        ("paired \ud83c\udf4b surrogates", "paired \U0001f34b surrogates"),
        ("1½\u00a0cups", "1 1/2 cups"),
        ("", ""),
    ],
)
def test_clean_line_repairs(text: str, expected: str) -> None:
    assert clean_line(text) == expected


@settings(max_examples=150)
@given(st.text(max_size=30) | st.text(st.sampled_from("&amp;lt#38 ½1é\u0301\u200bÃ©"), max_size=20))
@example("&amp;amp;amp;amp;frac12;")
@example("&#¼")
def test_clean_line_is_idempotent_single_spaced_and_nfc(text: str) -> None:
    cleaned = clean_line(text)
    assert clean_line(cleaned) == cleaned
    assert cleaned == " ".join(cleaned.split())
    assert unicodedata.is_normalized("NFC", cleaned)
    assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in cleaned)


LATIN = st.characters(min_codepoint=32, max_codepoint=0x24F) | st.sampled_from("‘’“”–—…•™€°½¼ \u00a0Ââ€™ÃŒœ")


@settings(max_examples=500)
@given(st.text(LATIN, max_size=12) | st.lists(LATIN | st.sampled_from("ab 1,"), max_size=12).map(" a".join))
def test_what_is_taken_for_usual_is_what_ftfy_would_leave(text: str) -> None:
    text = " ".join(text.split())
    if not _UNUSUAL.search(text) and "&" not in text:
        assert _settle(text) == _repair(text)


def test_a_usual_character_is_usual_beside_every_other() -> None:
    usual = [chr(code) for code in range(0xA1, 0x2200) if not _UNUSUAL.search(chr(code))]
    texts = [
        " ".join(f"{before}{char}{chr(after)} x" for after in range(33, 127)) for char in usual for before in " aZ1.("
    ]
    assert len(usual) > 400
    assert [text for text in texts if _settle(" ".join(text.split())) != _repair(" ".join(text.split()))] == []


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("  Grandma's  APPLE-Pie!! ", "grandma s apple pie"),
        ("Grandma’s Apple Pie", "grandma s apple pie"),
        ("Crème Brûlée", "crème brûlée"),
        ("STRASSE", normalise_title("Straße")),
        ("***", ""),
    ],
)
def test_normalise_title(title: str, expected: str) -> None:
    assert normalise_title(title) == expected


@given(st.text(max_size=30))
def test_normalise_title_ignores_case_and_composition_and_is_idempotent(title: str) -> None:
    key = normalise_title(title)
    assert normalise_title(key) == key
    assert normalise_title(unicodedata.normalize("NFD", title)) == normalise_title(unicodedata.normalize("NFC", title))


def test_importing_recipes_does_not_load_ftfy() -> None:
    code = "import sys, recipe_exp.recipes; sys.exit('ftfy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
