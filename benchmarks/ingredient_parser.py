"""Measure the ingredient parser against human labels: `ingredient_parser.py --labels FILE`.

FILE holds one JSON object a line: `sentence`, `quantity`, `unit` and `name`, each field its tokens joined by
spaces in order, as in `{"sentence": "500g/1lb 2oz nettles", "quantity": "500 1 2", "unit": "g lb oz", ...}`.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from zlib import crc32

from recipe_exp.recipes import Ingredient, canonical_unit, parse_ingredient, singular

# "2 1/2" is two and a half, but "150 1/4" comes from 150ml/1/4 pint.
_FIRST_NUMBER = re.compile(r"(\d) (\d+/\d+)(?: |$)|(\d+/\d+|\d*\.?\d+)")
_NUMBER_WORDS = {"half": Fraction(1, 2), "one": Fraction(1), "two": Fraction(2)}
_TOKENS = re.compile(r"\w+")


def first_quantity(label: str) -> Fraction | None:
    """Return the first number of a label, of a range its lower end; None for none and for `few`."""
    if label.casefold() in _NUMBER_WORDS:
        return _NUMBER_WORDS[label.casefold()]
    match = _FIRST_NUMBER.match(label)
    if not match:
        return None
    return int(match[1]) + Fraction(match[2]) if match[1] else Fraction(match[3])


def first_unit(label: str) -> str | None:
    """Return the first kitchen unit of a label by its canonical name, past qualifiers such as `heaped`."""
    words = label.split()
    for index, word in enumerate(words):
        unit = canonical_unit(" ".join(words[index : index + 2])) or canonical_unit(word)
        if unit:
            return unit
    return words[0] if words else None


def token_f1(expected: Iterable[str], found: Iterable[str]) -> float:
    """Return the harmonic mean of precision and recall over the tokens as multisets."""
    expected_counts, found_counts = Counter(expected), Counter(found)
    common = (expected_counts & found_counts).total()
    total = expected_counts.total() + found_counts.total()
    return 2 * common / total if total else 1.0


def half_of(sentence: str) -> str:
    """Return to which half a sentence belongs, by its hash: one to work on, one to report on."""
    return "held_out" if crc32(sentence.encode()) % 2 else "development"


def measure(labels: Sequence[dict[str, str]]) -> list[tuple[str, float, int]]:
    """Return (what, value, number of lines) for every row of the table."""
    start, used = time.perf_counter(), time.process_time()
    parsed = [parse_ingredient(label["sentence"]) for label in labels]
    seconds, used = time.perf_counter() - start, time.process_time() - used
    pairs = list(zip(labels, parsed, strict=True))
    num_units = [pair for pair in pairs if pair[0]["unit"]]
    return [
        (
            "first quantity, share right",
            _share(first_quantity(a["quantity"]) == b.quantity for a, b in pairs),
            len(pairs),
        ),
        ("first unit, share right", _share(first_unit(a["unit"]) == b.unit for a, b in pairs), len(pairs)),
        (
            "first unit where labelled, share right",
            _share(first_unit(a["unit"]) == b.unit for a, b in num_units),
            len(num_units),
        ),
        ("name, token F1, case ignored", _mean_f1(pairs, singulars=False), len(pairs)),
        ("name, token F1, case and number ignored", _mean_f1(pairs, singulars=True), len(pairs)),
        ("lines per second", len(pairs) / seconds, len(pairs)),
        ("lines per second of one processor", len(pairs) / used, len(pairs)),
    ]


def _share(outcomes: Iterable[bool]) -> float:
    values = list(outcomes)
    return sum(values) / max(len(values), 1)


def _mean_f1(pairs: Sequence[tuple[dict[str, str], Ingredient]], *, singulars: bool) -> float:
    def tokens(name: str) -> list[str]:
        words = _TOKENS.findall(name.casefold())
        return [singular(word) for word in words] if singulars else words

    return sum(token_f1(tokens(label["name"]), tokens(found.name)) for label, found in pairs) / max(len(pairs), 1)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True, help="JSONL file with human labels")
    parser.add_argument("--half", choices=["all", "development", "held_out"], default="all", help="which of them")
    arguments = parser.parse_args()
    with arguments.labels.open(encoding="utf-8") as file:
        labels = [json.loads(line) for line in file if line.strip()]
    if arguments.half != "all":
        labels = [label for label in labels if half_of(label["sentence"]) == arguments.half]
    for what, value, count in measure(labels):
        number = f"{value:,.0f}" if value > 1 else f"{value:.4f}"
        print(f"{what:<42} {number:>8}   {count:>6} lines")


if __name__ == "__main__":
    main()
