"""Plots as SVG: lines and points on even or logarithmic axes, with intervals, and parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from recipe_exp.reports.page import Line, Parallel, Plot, Plots

_WIDTH, _HEIGHT = 360, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 40
_WIDE, _HIGH = 760, 250
_SIDE = 60
_COLOURS = ("#2f6f5e", "#c8963e", "#b5533c", "#7a6c9d", "#5d8aa8", "#8c8c83", "#4c8f3c", "#a14d7e")
_OTHER = "#8a96a0"
_INK, _SOFT, _GRID, _BAND = "#22261f", "#61665c", "#e2e0d8", "#f1ead8"
_WORST, _BEST = (226, 224, 216), (47, 111, 94)
_TEXT = f'font-size="11" font-family="system-ui,sans-serif" fill="{_SOFT}"'
_HALO = 'stroke="#fff" stroke-width="3" paint-order="stroke"'
_LARGEST = 1e100
_MAX_TICKS = 5
_MAX_LABEL = 16


def plots_as_html(block: Plots) -> str:
    """Returns the plots with titles and notes, and the list of their lines' names if it is wanted."""
    figures = "".join(map(_figure, block.plots))
    names = _names(block) if block.has_legend else []
    items = "".join(
        f'<li><svg viewBox="0 0 10 10" aria-hidden="true"><rect width="10" height="10" rx="2" '
        f'fill="{colour_of(number)}"/></svg>{escape(name)}</li>'
        for number, name in enumerate(names)
    )
    legend = f'<ul class="legend">{items}</ul>' if names else ""
    return f'{legend}<div class="plots">{figures}</div>'


def plot_as_svg(plot: Plot | Parallel) -> str:
    """Returns a plot as a document of its own."""
    return _parallel(plot) if isinstance(plot, Parallel) else _plot(plot)


def colour_of(number: int) -> str:
    """Returns the colour of a line by its place."""
    return _COLOURS[number % len(_COLOURS)]


def _figure(plot: Plot | Parallel) -> str:
    wide = ' class="wide-figure"' if isinstance(plot, Parallel) else ""
    caption = f"<figcaption><b>{escape(plot.title)}</b><span>{escape(plot.note)}</span></figcaption>"
    return f"<figure{wide}>{caption}{plot_as_svg(plot)}</figure>"


def _names(block: Plots) -> list[str]:
    return list(dict.fromkeys(line.name for plot in block.plots if isinstance(plot, Plot) for line in plot.lines))


@dataclass(frozen=True)
class _Scale:
    """From values to places."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (
            (map(math.log, (self.low, self.high, value))) if self.is_log else (self.low, self.high, value)
        )
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def _plot(plot: Plot) -> str:
    finite = [point for line in plot.lines for point in line.points if _is_drawn(point)]
    if not finite:
        return _document(
            [f'<text x="{_WIDTH / 2}" y="{_HEIGHT / 2}" {_TEXT} text-anchor="middle">no value</text>'], plot.title
        )
    x = _x_scale(plot, [point[0] for point in finite])
    y = _y_scale(plot, [point[1] for point in finite])
    drawn = [*_band(plot, y), *_y_ticks(y), *_x_ticks(plot, x, [point[0] for point in finite])]
    # What stands out is drawn last, over the others.
    for number, line in sorted(enumerate(plot.lines), key=lambda numbered: numbered[1].is_main):
        single = _COLOURS[0] if line.is_main else _OTHER
        drawn += _line(line, colour_of(number) if line.is_joined else single, x, y)
    drawn.append(
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" {_TEXT} text-anchor="end">{escape(plot.x_name)}</text>'
    )
    return _document(drawn, plot.title)


def _is_drawn(values: tuple[float, float]) -> bool:
    """What is not finite, or off every scale, leaves a gap."""
    return all(abs(value) < _LARGEST for value in values)


def _document(drawn: Sequence[str], title: str, width: int = _WIDTH, height: int = _HEIGHT) -> str:
    start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
    return f'{start} aria-label="{escape(title)}">{"".join(drawn)}</svg>'


def _x_scale(plot: Plot, values: Sequence[float]) -> _Scale:
    low, high = min(values), max(values)
    if plot.x_labels:
        low, high = -0.5, len(plot.x_labels) - 0.5
    elif plot.x_is_log:
        margin = (high / low) ** 0.06 if high > low else 2.0
        low, high = low / margin, high * margin
    else:
        margin = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = low - margin, high + margin
    return _Scale(low, high, _LEFT, _WIDTH - _RIGHT, plot.x_is_log and not plot.x_labels)


def _y_scale(plot: Plot, values: Sequence[float]) -> _Scale:
    ends = [end for line in plot.lines for interval in line.intervals for end in interval if _is_drawn(interval)]
    every = [*values, *ends, *(plot.band or ())]
    margin = 0.06 * (max(every) - min(every)) or abs(max(every)) * 0.1 or 1.0
    return _Scale(min(every) - margin, max(every) + margin, _HEIGHT - _BOTTOM, _TOP)


def _band(plot: Plot, y: _Scale) -> Iterator[str]:
    if plot.band is not None:
        low, high = (y(end) for end in plot.band)
        width, height = _WIDTH - _LEFT - _RIGHT, max(low - high, 1.0)
        yield f'<rect x="{_LEFT}" y="{high:.1f}" width="{width}" height="{height:.1f}" fill="{_BAND}"/>'


def _y_ticks(y: _Scale) -> Iterator[str]:
    for value in even_ticks(y.low, y.high):
        place = y(value)
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{place:.1f}" y2="{place:.1f}" stroke="{_GRID}"/>'
        yield f'<text x="{_LEFT - 6}" y="{place + 4:.1f}" {_TEXT} text-anchor="end">{value:g}</text>'


def _x_ticks(plot: Plot, x: _Scale, values: Sequence[float]) -> Iterator[str]:
    for value, label in _x_marks(plot, x, values):
        place = x(value)
        yield f'<text x="{place:.1f}" y="{_HEIGHT - _BOTTOM + 16}" {_TEXT} text-anchor="middle">{escape(label)}</text>'


def _x_marks(plot: Plot, x: _Scale, values: Sequence[float]) -> list[tuple[float, str]]:
    if plot.x_labels:
        step = -(-len(plot.x_labels) // _MAX_TICKS)
        return [(float(n), label[:_MAX_LABEL]) for n, label in enumerate(plot.x_labels) if n % step == 0]
    different = sorted(set(values))
    # A few values that were chosen are marks themselves.
    if len(different) <= _MAX_TICKS:
        return [(value, f"{value:g}") for value in different]
    marks = log_ticks(x.low, x.high) if x.is_log else even_ticks(x.low, x.high)
    return [(value, f"{value:g}") for value in marks]


def even_ticks(low: float, high: float) -> list[float]:
    """Returns a few round values between two ends."""
    raw = (high - low) / _MAX_TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step)
    last = math.floor(high / step)
    return [float(f"{number * step:.6g}") for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Returns powers of ten between two ends, or, where there are few, their simple multiples."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [float(f"{factor}e{exponent}") for exponent in exponents for factor in factors]
        within = [value for value in found if low <= value <= high]
        if len(within) >= _MAX_TICKS - 2:
            step = -(-len(within) // _MAX_TICKS)
            return within[::step]
    return within


def _line(line: Line, colour: str, x: _Scale, y: _Scale) -> Iterator[str]:
    points = [(place, x(point[0]), y(point[1])) for place, point in enumerate(line.points) if _is_drawn(point)]
    if line.is_joined and len(points) > 1:
        path = " ".join(f"{across:.1f},{up:.1f}" for _, across, up in points)
        style = f'fill="none" stroke="{colour}" stroke-width="{2.5 if line.is_main else 1.5}"'
        yield f'<polyline points="{path}" {style}><title>{escape(line.name)}</title></polyline>'
    for place, across, up in points:
        if place < len(line.intervals) and _is_drawn(line.intervals[place]):
            low, high = (y(end) for end in line.intervals[place])
            ends = f'x1="{across:.1f}" x2="{across:.1f}" y1="{low:.1f}" y2="{high:.1f}"'
            yield f'<line {ends} stroke="{colour}" stroke-width="1.5"/>'
        if not line.is_joined or len(points) == 1:
            said = f"<title>{escape(f'{line.name}: {line.points[place][1]:.6g}')}</title>"
            circle = f'cx="{across:.1f}" cy="{up:.1f}" r="{5 if line.is_main else 4}"'
            yield f'<circle {circle} fill="{colour}" stroke="#fff">{said}</circle>'


def _parallel(plot: Parallel) -> str:
    step = (_WIDE - 2 * _SIDE) / max(len(plot.columns) - 1, 1)
    drawn = []
    # The best is drawn last, over the others.
    for number in sorted(range(len(plot.names)), key=lambda n: plot.merits[n]):
        corners = [
            f"{_SIDE + place * step:.1f},{_up(column.positions[number]):.1f}"
            for place, column in enumerate(plot.columns)
        ]
        merit = plot.merits[number]
        style = f'stroke="{_shade(merit)}" stroke-width="{1.2 + 1.8 * merit:.2f}" fill="none"'
        drawn.append(
            f'<polyline points="{" ".join(corners)}" {style}><title>{escape(plot.names[number])}</title></polyline>'
        )
    for number, column in enumerate(plot.columns):
        across = _SIDE + number * step
        drawn.append(f'<line x1="{across:.1f}" x2="{across:.1f}" y1="{_up(0):.1f}" y2="{_up(1):.1f}" stroke="{_INK}"/>')
        drawn.append(
            f'<text x="{across:.1f}" y="{_HIGH - 8}" {_TEXT} text-anchor="middle">{escape(column.name)}</text>'
        )
        for position, label in column.marks:
            place = f'x="{across + 5:.1f}" y="{_up(position) + 4:.1f}"'
            drawn.append(f"<text {place} {_TEXT} {_HALO}>{escape(label[:_MAX_LABEL])}</text>")
    return _document(drawn, plot.title, _WIDE, _HIGH)


def _up(share: float) -> float:
    return _HIGH - 34 - share * (_HIGH - 48)


def _shade(merit: float) -> str:
    mixed = (round(worst + (best - worst) * merit) for worst, best in zip(_WORST, _BEST, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)
