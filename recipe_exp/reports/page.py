"""A page of findings, whatever it is written in: what `markdown` and `html` make a text of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Figure:
    """One number that stands out.

    Attributes:
        value: as it is read.
        label: what it counts.
        explanation: what that means, in half a sentence.
    """

    value: str
    label: str
    explanation: str


@dataclass(frozen=True)
class Figures:
    """Numbers beside each other."""

    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Points:
    """Sentences, one below the other."""

    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Shares:
    """What a whole is divided into, as one bar.

    Attributes:
        parts: label and size of each; those of size 0 are not shown.
    """

    parts: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Table:
    """Rows of cells.

    Attributes:
        columns: their headings.
        rows: a text for each column.
        num_texts: columns from the left that hold texts; the others hold numbers.
        title: above it; empty for none.
        note: below it; empty for none.
        is_folded: whether it is shown on request only, under its title.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_texts: int = 1
    title: str = ""
    note: str = ""
    is_folded: bool = False


@dataclass(frozen=True)
class Chart:
    """A histogram of one set of values beside that of another.

    Attributes:
        title: what is counted.
        note: what it says, in half a sentence.
        labels: of the bins.
        bars: share of the values in each bin.
        dots: the same for the other set; empty without one.
    """

    title: str
    note: str
    labels: tuple[str, ...]
    bars: tuple[float, ...]
    dots: tuple[float, ...] = ()


@dataclass(frozen=True)
class Charts:
    """Histograms beside each other.

    Attributes:
        charts: the histograms.
        bars_name: what the bars are of.
        dots_name: what the dots are of.
    """

    charts: tuple[Chart, ...]
    bars_name: str
    dots_name: str


@dataclass(frozen=True)
class Line:
    """Values that belong together.

    Attributes:
        name: what they are of.
        points: (x, y), in the order in which a line would join them.
        intervals: (low, high) of each y; empty without them.
        is_joined: whether a line joins the points.
        is_main: whether they stand out.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    intervals: tuple[tuple[float, float], ...] = ()
    is_joined: bool = True
    is_main: bool = False


@dataclass(frozen=True)
class Plot:
    """Values of one quantity over another.

    Attributes:
        title: what is shown.
        note: how it is to be read, in half a sentence.
        x_name: of the quantity along the bottom.
        y_name: of the quantity upwards.
        lines: the values.
        x_is_log: whether ratios of x count.
        x_labels: what stands at x = 0, 1, ...; empty where x is a number.
        band: (low, high) of y that is shaded; None for none.
    """

    title: str
    note: str
    x_name: str
    y_name: str
    lines: tuple[Line, ...]
    x_is_log: bool = False
    x_labels: tuple[str, ...] = ()
    band: tuple[float, float] | None = None


@dataclass(frozen=True)
class Column:
    """One upright of parallel coordinates: where each line crosses it, from 0 (bottom) to 1 (top), and its marks."""

    name: str
    positions: tuple[float, ...]
    marks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Parallel:
    """Parallel coordinates: one line for each thing through all its values.

    Attributes:
        title: what is shown.
        note: how it is to be read.
        names: of the lines.
        columns: the uprights, from left to right.
        merits: how good each line is, from 0 to 1; it decides the shade.
    """

    title: str
    note: str
    names: tuple[str, ...]
    columns: tuple[Column, ...]
    merits: tuple[float, ...]


@dataclass(frozen=True)
class Plots:
    """Plots beside each other.

    Attributes:
        plots: the plots.
        has_legend: whether the names of the lines are listed once, above them.
    """

    plots: tuple[Plot | Parallel, ...]
    has_legend: bool = False


@dataclass(frozen=True)
class Code:
    """A command to copy."""

    text: str


@dataclass(frozen=True)
class Card:
    """One record in full: paragraphs of a text under a heading."""

    title: str
    note: str
    lists: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Cards:
    """Records below each other."""

    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Track:
    """A named series of points, by increasing x."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Curve:
    """Series over the same axis.

    Attributes:
        title: what is measured.
        note: what it says, in half a sentence.
        lines: the series; the first two have colours of their own.
        level: a value to compare with, drawn across; None without one.
        level_name: what that is.
    """

    title: str
    note: str
    lines: tuple[Track, ...]
    level: float | None = None
    level_name: str = ""


@dataclass(frozen=True)
class Curves:
    """Curves beside each other, over `axis`."""

    curves: tuple[Curve, ...]
    axis: str


@dataclass(frozen=True)
class Range:
    """Where a value stands among others on a scale.

    Attributes:
        label: what is measured.
        note: which end is better.
        value: the value itself, as text.
        share: the value's place on its scale, in [0, 1].
        low: the lower end of its interval on the scale.
        high: the upper end.
        marks: places of others, in the order of `Ranges.marks`; None for one that is not there.
    """

    label: str
    note: str
    value: str
    share: float
    low: float
    high: float
    marks: tuple[float | None, ...]


@dataclass(frozen=True)
class Ranges:
    """Values with their intervals, each on its own scale, below each other.

    Attributes:
        name: whose values they are.
        marks: names of what they are compared with.
        ranges: the values.
    """

    name: str
    marks: tuple[str, ...]
    ranges: tuple[Range, ...]


@dataclass(frozen=True)
class Part:
    """A piece of a text, and what is wrong with it; empty for nothing."""

    text: str
    fault: str = ""


@dataclass(frozen=True)
class MarkedText:
    """A text with its faults marked.

    Attributes:
        title: its heading.
        note: what it scored.
        prompt: what it answers.
        faults: what is wrong with it as a whole.
        parts: the text.
        reference: what it is compared with.
    """

    title: str
    note: str
    prompt: str
    faults: tuple[str, ...]
    parts: tuple[Part, ...]
    reference: str


@dataclass(frozen=True)
class MarkedTexts:
    """Texts below each other, folded but for the first."""

    title: str
    texts: tuple[MarkedText, ...]


Block: TypeAlias = Figures | Points | Shares | Table | Charts | Plots | Code | Cards | Curves | Ranges | MarkedTexts


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: its heading.
        explanation: what is shown, and how it is to be read.
        blocks: what is shown.
    """

    title: str
    explanation: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """What is written.

    Attributes:
        title: its heading.
        lead: the whole of it in a sentence or two.
        sections: in order.
    """

    title: str
    lead: str
    sections: tuple[Section, ...]


def count_text(count: int) -> str:
    """Returns a number as it is read: `12,345`."""
    return f"{count:,}"


def share_text(share: float) -> str:
    """Returns a share of a whole as it is read: `12.3%`, `0.12%` or `0%`."""
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    if share < 0.0001:
        return "< 0.01%"
    # A share that is not quite the whole is not shown as the whole.
    return f"{min(share, 0.999):.1%}" if share >= 0.01 else f"{share:.2%}"
