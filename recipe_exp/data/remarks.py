"""What transformers remarks while it reads a model or a tokenizer, kept off the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_remarks() -> Iterator[None]:
    """Lets transformers say nothing but errors; what cannot be read is said in one line by who asked for it."""
    # Takes seconds to import, and most data needs none of it.
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
