"""BART's tokenizer: byte pairs over every byte, so line breaks, fractions and braces survive by themselves."""

from __future__ import annotations

from typing import Any

from tokenizers import pre_tokenizers

from recipe_exp.data.tokens.vocabulary import EOS, PAD, UNK
from recipe_exp.errors import ModelError

BOS = "<s>"
_CONTROL_PIECES = (BOS, PAD, EOS, UNK)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def has_byte_pairs(spec: dict[str, Any]) -> bool:
    """Returns whether a serialised tokenizer merges bytes."""
    before = spec["pre_tokenizer"] or {}
    return spec["model"]["type"] == "BPE" and before.get("type") == "ByteLevel"


def with_plain_ends(spec: dict[str, Any]) -> dict[str, Any]:
    """Returns a serialised tokenizer of byte pairs that changes no character; its pieces keep their ids.

    Raises:
        ModelError: its control pieces are not BART's, or it lacks a byte.
    """
    ids = spec["model"]["vocab"]
    first = [piece for piece, index in sorted(ids.items(), key=lambda item: int(item[1]))[: len(_CONTROL_PIECES)]]
    if tuple(first) != _CONTROL_PIECES or not ids.keys() >= {*pre_tokenizers.ByteLevel.alphabet()}:
        raise ModelError(
            f"its tokenizer begins with {' '.join(first)} or lacks a byte; expected a byte-level tokenizer.json of "
            f"BART's format, which begins with {' '.join(_CONTROL_PIECES)}"
        )
    begin, end = ({"SpecialToken": {"id": piece, "type_id": 0}} for piece in (BOS, EOS))
    text, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "version": spec["version"],
        "truncation": None,
        "padding": None,
        "added_tokens": [token for token in spec["added_tokens"] if token["special"]],
        "normalizer": {"type": "Sequence", "normalizers": []},
        "pre_tokenizer": _BYTES,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, text, end],
            "pair": [begin, text, end, end, other, end],
            "special_tokens": {piece: {"id": piece, "ids": [ids[piece]], "tokens": [piece]} for piece in (BOS, EOS)},
        },
        "decoder": _BYTES,
        "model": spec["model"],
    }
