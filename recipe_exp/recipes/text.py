"""Text of one line: fractions in ASCII, repair of what scraping broke, and the key of a title."""

from __future__ import annotations

import html
import re
import unicodedata

_VULGAR_FRACTIONS = {
    "¼": "1/4",
    "½": "1/2",
    "¾": "3/4",
    "⅐": "1/7",
    "⅑": "1/9",
    "⅒": "1/10",
    "⅓": "1/3",
    "⅔": "2/3",
    "⅕": "1/5",
    "⅖": "2/5",
    "⅗": "3/5",
    "⅘": "4/5",
    "⅙": "1/6",
    "⅚": "5/6",
    "⅛": "1/8",
    "⅜": "3/8",
    "⅝": "5/8",
    "⅞": "7/8",
    "↉": "0/3",
    "⅟": "1/",
}
_VULGAR = "".join(_VULGAR_FRACTIONS)
_COMPLETE_VULGAR = _VULGAR.replace("⅟", "")
_TO_ASCII = str.maketrans({**_VULGAR_FRACTIONS, "\u2044": "/"})

_RAISED_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉", "01234567890123456789")
_RAISED_FRACTION = re.compile(r"([0-9]?)([⁰¹²³⁴⁵⁶⁷⁸⁹]+)[\u2044/]([₀₁₂₃₄₅₆₇₈₉]+)")
_HAS_FRACTION = re.compile(f"[{_VULGAR}\u2044₀-₉]")
_BEFORE_VULGAR = re.compile(rf"(?<=[0-9₀-₉{_COMPLETE_VULGAR}])[^\S\r\n]*(?=[{_VULGAR}])")
_AFTER_VULGAR = re.compile(rf"(?<=[{_COMPLETE_VULGAR}])(?=[0-9])")

# Between ASCII characters these are what they seem to be: mojibake always has two other characters side by side, or a
# C1 control, `Â`, `Ã`, `Œ` or `œ`. The Latin letters left out besides stand for several each.
_USUAL = (
    "\u00a1-\u00ac\u00ae-\u00c1\u00c4-\u0131\u0134-\u0148\u014a-\u0151\u0154-\u01c3\u01cd-\u01f0\u01f4-\u024f"
    "\u2010-\u2015\u2018\u2019\u201c\u201d\u2022\u2026\u2032\u2033\u20ac\u2122"
) + _COMPLETE_VULGAR
_UNUSUAL = re.compile(rf"[^ -~{_USUAL}]|[^ -~][^ -~]")
_CURLY_QUOTES = (("\u2019", "'"), ("\u2018", "'"), ("\u201c", '"'), ("\u201d", '"'))

# The two joiners carry meaning in several scripts; every other invisible character only breaks tokens.
_JOINERS = "\u200c\u200d"
_INVISIBLE = frozenset({"Cc", "Cf"})
# Each pass can uncover one more layer of escaping; text needing more than this is not a recipe.
_MAX_CLEANING_PASSES = 8

_NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]+")


def ascii_fractions(text: str) -> str:
    """Return the text with vulgar fractions and U+2044 written in ASCII.

    A fraction next to a number is set off by one space (`1½` and `1 ½` become `1 1/2`), because T5's
    normaliser would otherwise read one and a half as twelve. Everything else stays as it is.
    """
    if text.isascii() or not _HAS_FRACTION.search(text):
        return text
    text = _RAISED_FRACTION.sub(_lower_fraction, text)
    text = _BEFORE_VULGAR.sub(" ", text)
    text = _AFTER_VULGAR.sub(" ", text)
    return text.translate(_TO_ASCII)


def clean_line(text: str) -> str:
    """Return one line of clean text: no escapes, no mojibake, NFC, straight quotes, single spaces, ASCII fractions.

    HTML entities are decoded however often they were escaped, wrong encodings repaired by ftfy, control
    and zero-width characters removed, lone surrogates replaced by U+FFFD. Cleaning a clean line changes nothing.
    """
    text = " ".join(text.split())
    if text.isascii() and "&" not in text and text.isprintable():
        return text
    for _ in range(_MAX_CLEANING_PASSES):
        unescaped = _unescape(text)
        if not _UNUSUAL.search(unescaped):
            settled = _settle(unescaped)
            # A fraction in ASCII may complete an entity.
            if "&" not in settled or _unescape(settled) == settled:
                return settled
            text = settled
            continue
        repaired = _repair(unescaped)
        if repaired == text:
            break
        text = repaired
    return text


def normalise_title(title: str) -> str:
    """Return the key by which two spellings of one title are the same: casefolded words, single spaces.

    Every run of punctuation and whitespace counts as one space; accents are kept. A title without any
    letter or digit has the empty key.
    """
    if title.isascii():
        return _NOT_ALPHANUMERIC.sub(" ", title.casefold()).strip()
    folded = unicodedata.normalize("NFKD", title).casefold()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", folded).casefold())
    return " ".join("".join(char if _in_word(char) else " " for char in folded).split())


def _lower_fraction(match: re.Match[str]) -> str:
    whole, numerator, denominator = match.groups()
    space = " " if whole else ""
    return f"{whole}{space}{numerator.translate(_RAISED_DIGITS)}/{denominator.translate(_RAISED_DIGITS)}"


def _settle(text: str) -> str:
    """Return what `_repair` returns for text in which ftfy would find nothing to repair."""
    for curly, straight in _CURLY_QUOTES:
        text = text.replace(curly, straight)
    return " ".join(ascii_fractions(text).split())


def _repair(text: str) -> str:
    # ftfy takes a tenth of a second to import and most files never need it.
    import ftfy

    text = ftfy.fix_text(text, unescape_html=False, normalization="NFC")
    text = " ".join(text.split())
    text = "".join(char for char in text if char in _JOINERS or unicodedata.category(char) not in _INVISIBLE)
    text = ascii_fractions(unicodedata.normalize("NFC", text))
    return " ".join(text.split())


def _unescape(text: str) -> str:
    """Decode entities until none is left; every pass that changes the text also shortens it."""
    while "&" in text:
        unescaped = html.unescape(text)
        if unescaped == text:
            break
        text = unescaped
    return text


def _in_word(char: str) -> bool:
    return char.isalnum() or unicodedata.category(char).startswith("M")
