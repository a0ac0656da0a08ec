"""Numbers as a terminal shows them."""

from __future__ import annotations


def show_number(value: float) -> str:
    """Returns a metric's value in as many digits as tell two runs apart."""
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.4f}" if abs(value) < 100 else f"{value:,.1f}"
