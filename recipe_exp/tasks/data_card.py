"""Where data cards are written."""

from __future__ import annotations

from pathlib import Path

from recipe_exp.data.cache import TokenCache
from recipe_exp.files import write_atomically
from recipe_exp.reports.data_card import DATA_CARD_FILES, render

DATA_CARD_JSON, _, DATA_CARD_HTML = DATA_CARD_FILES


def write_data_card(cache: TokenCache, folder: Path) -> None:
    """Writes the data card of a token cache into a folder, each file as a whole; the folder is made if it is missing.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in render(cache.prepared, cache.card).items():
        write_atomically(folder / name, text.encode())
