"""Takes the markup of pages and of markdown out of a line: tags, emphasis, links, pictures."""

from __future__ import annotations

import re

from recipe_exp.recipes.text import clean_line

# Only names of HTML elements make a tag: `<10 minutes` and `<3` are text.
_BLOCK = (
    "address|article|aside|blockquote|br|caption|dd|details|div|dl|dt|fieldset|figcaption|figure|footer|form|h[1-6]|header"
    "|hr|li|main|nav|ol|p|pre|section|summary|table|tbody|td|tfoot|th|thead|tr|ul"
)
_INLINE = (
    "a|abbr|acronym|amp-img|b|bdi|bdo|big|button|center|cite|code|data|del|dfn|em|font|i|iframe|img|input|ins|kbd|label"
    "|mark|meta|noscript|picture|q|s|samp|script|small|source|span|strike|strong|style|sub|sup|svg|time|tt|u|var|video|wbr"
)
_ATTRIBUTES = r"(?:\s[^<>]*+|/)?>"
_BLOCK_TAG = re.compile(rf"</?(?:{_BLOCK}){_ATTRIBUTES}", re.IGNORECASE)
_INLINE_TAG = re.compile(rf"</?(?:{_INLINE}){_ATTRIBUTES}|<!--[^>]*+>", re.IGNORECASE)

_PICTURE = re.compile(r"!\[[^\[\]]*+\]\([^()]*+\)")
_LINK = re.compile(r"\[([^\[\]]++)\]\([^()]*+\)")
_STARS = re.compile(r"(?<![\w*])(\*{1,3})(?=[^\s*])([^*]*[^\s*])\1(?![\w*])")
_UNDERSCORES = re.compile(r"(?<![\w_])(_{1,3})(?=[^\s_])([^_]*[^\s_])\1(?![\w_])")
_CODE = re.compile(r"(?<![\w`])`([^`]++)`(?![\w`])")
_HEADING = re.compile(r"#{1,6}\s+(?=\S)")

# One layer of markup can hold another; text needing more layers than this is not a recipe.
_MAX_PASSES = 8


def plain_lines(text: str) -> tuple[str, ...]:
    """Return the clean lines of a text without its markup: what block elements set apart, one line each.

    Tags and comments of HTML, pictures and the addresses of links go, the text of links, emphasis and headings stays.
    Asterisks and underscores that mark nothing stay as well. Taking the markup out of plain lines changes nothing.
    """
    line = clean_line(text)
    if not _may_hold_markup(line):
        return (line,) if line else ()
    lines = [line]
    for _ in range(_MAX_PASSES):
        found = [part for line in lines for part in _one_layer_less(line)]
        if found == lines:
            break
        lines = found
    return tuple(lines)


def _may_hold_markup(line: str) -> bool:
    return "<" in line or "*" in line or "_" in line or "](" in line or "`" in line or line.startswith("#")


def _one_layer_less(line: str) -> list[str]:
    if not _may_hold_markup(line):
        return [line]
    parts = _BLOCK_TAG.split(line) if "<" in line else [line]
    cleaned = (clean_line(_without_inline_markup(part)) for part in parts)
    return [part for part in cleaned if part]


def _without_inline_markup(line: str) -> str:
    if "<" in line:
        line = _INLINE_TAG.sub("", line)
    if "](" in line:
        line = _LINK.sub(r"\1", _PICTURE.sub("", line))
    if "*" in line:
        line = _STARS.sub(r"\2", line)
    if "_" in line:
        line = _UNDERSCORES.sub(r"\2", line)
    if "`" in line:
        line = _CODE.sub(r"\1", line)
    return _HEADING.sub("", line, count=1) if line.startswith("#") else line
