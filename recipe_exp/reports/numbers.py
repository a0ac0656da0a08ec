"""Numbers as people read them."""

from __future__ import annotations


def show_number(value: float) -> str:
    """Returns a metric's value in as many digits as tell two runs apart."""
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.4f}" if abs(value) < 100 else f"{value:,.1f}"


def show_seconds(seconds: float) -> str:
    """Returns a duration as a person reads it, such as `12 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def show_plain(value: float) -> str:
    """Returns a number as it is typed on a command line: in three digits, `1e-05`, `0.003`, `16`."""
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e6 else f"{value:.3g}"
