"""ByT5's bytes as a tokenizer that a file can hold: transformers has it in Python only.

Every byte is a piece, so line breaks, fractions and braces survive by themselves, and nothing is unknown.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from recipe_exp.data.tokens.vocabulary import CONTROL_PIECES, EOS, UNK
from recipe_exp.files import read_regular_file

BYTE_CLASS = "ByT5Tokenizer"
"""The class that the tokenizer_config.json of a ByT5 names."""

_NUM_SENTINELS = 125
_MAX_BYTES = 2**20
# A text's own `</s>` or `<0x41>` would be found among the pieces, if it were not cut after its first byte.
_CUT_PIECES = {"type": "Split", "pattern": {"String": "<"}, "behavior": "Isolated", "invert": False}


def byte_tokenizer() -> Tokenizer:
    """Returns the tokenizer of every ByT5: three control pieces, 256 bytes, 125 sentinels, and an end to each text."""
    bytes_of_text = [f"<0x{byte:02X}>" for byte in range(256)]
    sentinels = [f"<extra_id_{number}>" for number in range(_NUM_SENTINELS)]
    pieces = [*CONTROL_PIECES, *bytes_of_text, *sentinels]
    eos_id = CONTROL_PIECES.index(EOS)
    eos = {"SpecialToken": {"id": EOS, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added_token(number, piece) for number, piece in enumerate(pieces) if piece not in bytes_of_text
        ],
        "normalizer": {"type": "Sequence", "normalizers": []},
        "pre_tokenizer": _CUT_PIECES,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, eos],
            "pair": [first, eos, second, eos],
            "special_tokens": {EOS: {"id": EOS, "ids": [eos_id], "tokens": [EOS]}},
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "Unigram",
            "unk_id": CONTROL_PIECES.index(UNK),
            "vocab": [[piece, 0.0] for piece in pieces],
            "byte_fallback": True,
        },
    }
    return Tokenizer.from_str(json.dumps(spec))


def is_of_bytes(spec: dict[str, Any]) -> bool:
    """Returns whether a serialised tokenizer is that of `byte_tokenizer`."""
    model = spec["model"]
    return bool(model.get("byte_fallback")) and spec["pre_tokenizer"] == _CUT_PIECES


def reads_bytes(folder: Path) -> bool:
    """Returns whether a folder is of a ByT5 as it is published: without a tokenizer's file, which bytes do not need."""
    path = folder / "tokenizer_config.json"
    try:
        content = json.loads(read_regular_file(path, _MAX_BYTES)) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("tokenizer_class") == BYTE_CLASS


def _added_token(number: int, piece: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": piece, **flags, "special": True}
