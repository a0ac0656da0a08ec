"""The codec of recipes: T5's tokenizer, cured so that line breaks and quantities survive it.

T5's own turns a line break into a space and `1 ½` into `1 12`, because its normaliser writes a fraction with a
slash that its vocabulary lacks. The cure is part of the saved tokenizer, so `transformers` encodes and decodes
in the same way without this package.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer

from recipe_exp.data.hub import hub_is_reachable
from recipe_exp.data.remarks import without_remarks
from recipe_exp.data.tokens.byte_pairs import has_byte_pairs, with_plain_ends
from recipe_exp.data.tokens.byte_tokenizer import BYTE_CLASS, byte_tokenizer, is_of_bytes, reads_bytes
from recipe_exp.data.tokens.vocabulary import CONTROL_PIECES, EOS, PAD, UNK, WORD_START
from recipe_exp.errors import ModelError

NEWLINE = "\n"
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
_MAX_KNOWN_WORDS = 200_000
# Pieces that no text reaches; the first that is there stands for the line break. The sentinel that a text needs last,
# as it marks the hundredth gap in span corruption, as mT5 and as T5 spell it; then the byte of a line break.
_SPARE_PIECES = (f"{WORD_START}<extra_id_99>", "<extra_id_99>", "<0x0A>")
_SENTINEL = re.compile(rf"{WORD_START}?<extra_id_\d+>")
# All but the one that no character other than a line break is made of.
_BYTE_PIECES = frozenset(f"<0x{byte:02X}>" for byte in range(256)) - {"<0x0A>"}
_FORMAT = "expected a Unigram tokenizer.json of T5's format"

_FRACTION_SLASH = "\u2044"
_VULGAR = "".join(
    char
    for char in map(chr, [*range(0xBC, 0xBF), *range(0x2150, 0x2160), 0x2189])
    if unicodedata.decomposition(char).startswith("<fraction>")
)
_WHOLE_VULGAR = _VULGAR.replace("\u215f", "")  # "fraction numerator one" waits for its denominator
# Where NFKC would run a whole number and the fraction after it, or a fraction and the number after it, together.
_BESIDE_FRACTION = (
    rf"(?<=[0-9₀₁₂₃₄₅₆₇₈₉{_WHOLE_VULGAR}])\s*(?=[{_VULGAR}])"
    rf"|(?<=[{_WHOLE_VULGAR}])(?=[0-9])"
    rf"|(?<=[0-9{_WHOLE_VULGAR}])(?=[⁰¹²³⁴⁵⁶⁷⁸⁹]+[{_FRACTION_SLASH}/][₀₁₂₃₄₅₆₇₈₉]+)"
)


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


# Normaliser steps before and after the ones a tokenizer brings along; within a line, as lines are split before.
_BEFORE = [_replace({"Regex": _BESIDE_FRACTION}, " ")]
_AFTER = [
    _replace({"String": _FRACTION_SLASH}, "/"),
    _replace({"Regex": rf"[\s{WORD_START}]{{2,}}|[^\S ]|{WORD_START}"}, " "),  # leaves a single space alone: faster
    {"type": "Strip", "strip_left": True, "strip_right": True},
]
_DECOMPOSING = ("Precompiled", "NFKC", "NFKD")
_METASPACE = {"type": "Metaspace", "replacement": WORD_START, "prepend_scheme": "always", "split": True}
# The control pieces are in the vocabulary, where a text's own `</s>` would find them. No piece for text goes on
# after `<`, so to cut there keeps every other text's ids.
_CUT_CONTROL_PIECES = {"type": "Split", "pattern": {"String": "<"}, "behavior": "MergedWithPrevious", "invert": False}
_PRE_TOKENIZER = {"type": "Sequence", "pretokenizers": [_METASPACE, _CUT_CONTROL_PIECES]}
_TIDY_LINES = [{"type": "Fuse"}, _replace({"Regex": f" *{NEWLINE} *"}, NEWLINE)]
_DECODER = {"type": "Sequence", "decoders": [_METASPACE, *_TIDY_LINES]}
_DECODER_OF_BYTES = {"type": "Sequence", "decoders": [_METASPACE, {"type": "ByteFallback"}, *_TIDY_LINES]}
_TRANSFORMERS_CONFIG = {
    # The class that takes tokenizer.json as it is; T5's own rebuilds it and loses the cure.
    "tokenizer_class": "PreTrainedTokenizerFast",
    "pad_token": PAD,
    "eos_token": EOS,
    "unk_token": UNK,
    "model_input_names": ["input_ids", "attention_mask"],
    "split_special_tokens": True,
    "clean_up_tokenization_spaces": False,
}


class RecipeTokenizer:
    """Encodes recipes and prompts, and decodes what a network wrote.

    `decode(encode(text))` is `normalise(text)` wherever the vocabulary has every character. A string such as
    `</s>` inside a text is text.
    """

    def __init__(self, cured: Tokenizer) -> None:
        """Takes a tokenizer that carries the cure; `from_tokenizer` makes one."""
        self._backend = cured
        self._backend.no_truncation()
        self._backend.no_padding()
        # Not part of the serialised form, so every door sets it.
        self._backend.encode_special_tokens = True
        pieces = cured.get_vocab(with_added_tokens=True)
        self.pad_id, self.eos_id, self.unk_id = (int(pieces[piece]) for piece in CONTROL_PIECES)
        self._words = _WordIds(cured) if _keeps_plain_words(cured) else None

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> Self:
        """Returns the codec of any tokenizer of T5's format, cured or not; the ids of its pieces stay.

        Raises:
            ModelError: the tokenizer is not of T5's format, or has no sentinel to spare for the line break.
        """
        return cls(Tokenizer.from_str(json.dumps(_cure(json.loads(tokenizer.to_str())))))

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, revision: str | None = None) -> Self:
        """Returns the codec of a local folder or of a model on the hub.

        Args:
            name_or_folder: a folder with a `tokenizer.json` or `spiece.model`, or a model's name on the hub.
            revision: branch, tag or commit on the hub; None takes the default branch.

        Raises:
            ModelError: nothing can be read there, or it is not of T5's format.
        """
        file = Path(name_or_folder) / "tokenizer.json"
        try:
            # Read as it is: AutoTokenizer would rebuild it by the rules of the class that its config names.
            is_local = os.path.isfile(file)  # noqa: PTH113 - pathlib raises for a name that is too long
            tokenizer = _read_file(file) if is_local else _load_auto(str(name_or_folder), revision)
            return cls.from_tokenizer(tokenizer)
        except ModelError as error:
            raise ModelError(f"model.name={name_or_folder}: {error}") from error

    def __reduce__(self) -> tuple[type[Self], tuple[Tokenizer]]:
        # By way of the constructor, because a pickled Tokenizer forgets that control pieces in a text are text.
        return type(self), (self._backend,)

    @cached_property
    def newline_id(self) -> int:
        """Id of the line break."""
        newline_id = self._backend.token_to_id(NEWLINE)
        assert newline_id is not None, "the cure gives the line break an id"
        return newline_id

    @property
    def vocab_size(self) -> int:
        """Number of ids. A network's embedding may have more rows."""
        return int(self._backend.get_vocab_size())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides which ids a text gets, as 64 hexadecimal digits."""
        canonical = json.dumps(json.loads(self._backend.to_str()), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def normalise(self, text: str) -> str:
        """Returns the text as encoding and decoding leave it, apart from unknown characters.

        In each line: fractions in ASCII, NFKC (or what else the tokenizer brings along), single spaces and none
        at the ends. Line breaks other than `\\n` count as spaces.
        """
        normaliser = self._backend.normalizer
        return NEWLINE.join(normaliser.normalize_str(line) for line in text.split(NEWLINE))

    def is_normal(self, text: str) -> bool:
        """Whether `normalise` returns the text as it is."""
        if self._words is None:
            return self.normalise(text) == text
        if _is_made_of_plain_lines(text):
            return True
        return all(_is_plain(line) or self.normalise(line) == line for line in text.split(NEWLINE))

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, with the end-of-sequence id and never cut."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, with the end-of-sequence id and never cut."""
        if self._words is None:
            return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts))]
        return [self._encode_lines(text, self._words) for text in texts]

    def _encode_lines(self, text: str, words: _WordIds) -> list[int]:
        """Puts the ids of words together, which takes a tenth of the time: lines and words do not know each other."""
        ids: list[int] = []
        for number, line in enumerate(text.split(NEWLINE)):
            if number:
                ids.append(self.newline_id)
            if _is_plain(line):
                for word in line.split(" ") if line else ():
                    ids += words[word]
            else:
                ids += self._backend.encode(line).ids[:-1]
        ids.append(self.eos_id)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of the ids, without control pieces and sentinels."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def count_unknown(self, ids: Sequence[int]) -> int:
        """Returns how many of the ids stand for something that the vocabulary cannot express."""
        return ids.count(self.unk_id)

    def save(self, folder: str | Path) -> None:
        """Writes what `transformers.AutoTokenizer` and `from_pretrained` load; creates the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self._backend.to_str(pretty=True), encoding="utf-8")
        text = json.dumps(_TRANSFORMERS_CONFIG, indent=2) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


class _WordIds(dict[str, list[int]]):
    """The ids of each word that was met, as far as memory is spent on them."""

    def __init__(self, backend: Tokenizer) -> None:
        super().__init__()
        self._backend = backend

    def __missing__(self, word: str) -> list[int]:
        ids: list[int] = self._backend.encode(word).ids[:-1]
        if len(self) >= _MAX_KNOWN_WORDS:
            self.clear()
        self[word] = ids
        return ids


def _is_plain(line: str) -> bool:
    """Whether normalising leaves the line as it is, and it is made of words between single spaces."""
    return line.isascii() and line.isprintable() and "  " not in line and not line.startswith(" ") and line[-1:] != " "


def _is_made_of_plain_lines(text: str) -> bool:
    """Whether every line of a text that begins and ends with none is plain; takes the time of one of them."""
    return (
        text.isascii()
        and not any(spaces in text for spaces in ("  ", " \n", "\n "))
        and text[:1] != " "
        and text[-1:] != " "
        and text.replace(NEWLINE, "").isprintable()
    )


def _keeps_plain_words(backend: Tokenizer) -> bool:
    """Whether the tokenizer leaves ASCII as it is and adds no piece that could reach from one word to the next."""
    if backend.token_to_id(NEWLINE) is None:  # every byte is a piece, so words and lines are none
        return False
    is_kept = all(backend.normalizer.normalize_str(text) == text for text in (*_PRINTABLE, _PRINTABLE))
    added = backend.get_added_tokens_decoder().values()
    return is_kept and all(token.special or token.content == NEWLINE for token in added)


def _read_file(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing more specific
        raise ModelError(f"tokenizer.json cannot be read ({error}); copy it from its source again") from error


def _load_auto(name: str, revision: str | None) -> Tokenizer:
    """Returns the tokenizer that transformers finds: in the folder or the hub's cache, else on the hub."""
    folder = Path(name)
    if os.path.isdir(folder) and reads_bytes(folder):  # noqa: PTH112 - as above
        return byte_tokenizer()
    if os.path.isdir(folder) and not (folder / "spiece.model").is_file():  # noqa: PTH112 - as above
        # transformers would make up an empty tokenizer.
        raise ModelError("holds no tokenizer; it needs a tokenizer.json or a spiece.model")
    failure: Exception | None = None
    # The cache comes first: without a network, transformers asks the hub for most of a minute before it looks there.
    for local_files_only in (True, False):
        if not local_files_only and not hub_is_reachable():
            break
        try:
            found = _found_by_transformers(name, revision=revision, local_files_only=local_files_only)
        except (OSError, ValueError) as error:
            failure = error
            if os.path.exists(name):  # noqa: PTH110 - as above
                break
        else:
            return _backend_of(found)
    if os.path.exists(name):  # noqa: PTH110 - as above
        raise ModelError("holds no tokenizer; it needs a tokenizer.json or a spiece.model") from failure
    raise ModelError(
        "not a local folder, not in the hub's cache, and the hub does not know it or cannot be reached;"
        " set model.name to a local folder that holds tokenizer.json, or connect once to fill the cache"
    ) from failure


def _found_by_transformers(name: str, **where: Any) -> Any:
    # Takes seconds to import, and a folder with a tokenizer.json never needs it.
    from transformers import AutoTokenizer, T5Tokenizer

    with without_remarks():
        try:
            # Told so, transformers does not ask at the terminal whether it may execute the folder's code.
            return AutoTokenizer.from_pretrained(name, trust_remote_code=False, **where)
        except ValueError:
            # A folder of mT5 that holds its SentencePiece file alone is known to T5's own class only.
            return T5Tokenizer.from_pretrained(name, **where)


def _backend_of(found: Any) -> Tokenizer:
    if type(found).__name__ == BYTE_CLASS:
        return byte_tokenizer()
    backend: Tokenizer | None = getattr(found, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"its tokenizer is a {type(found).__name__}, which has no tokenizer.json; {_FORMAT}")
    return backend


def _cure(spec: dict[str, Any]) -> dict[str, Any]:
    """Returns a serialised tokenizer with the cure; that of a cured one is itself, and bytes need none."""
    if is_of_bytes(spec):
        return spec
    if has_byte_pairs(spec):
        return with_plain_ends(spec)
    _check_format(spec)
    newline_id = _free_newline_id(spec)
    vocabulary = [list(entry) for entry in spec["model"]["vocab"]]
    vocabulary[newline_id] = [NEWLINE, 0.0]
    # SentencePiece falls back on bytes where it has them; what transformers makes of its file does not.
    has_bytes = {piece for piece, _ in vocabulary} >= _BYTE_PIECES
    return {
        "version": spec["version"],
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(spec, vocabulary, newline_id),
        "normalizer": {"type": "Sequence", "normalizers": [*_BEFORE, *_own_normalisers(spec), *_AFTER]},
        "pre_tokenizer": _PRE_TOKENIZER,
        "post_processor": _post_processor(),
        "decoder": _DECODER_OF_BYTES if has_bytes else _DECODER,
        "model": {**spec["model"], "vocab": vocabulary, "byte_fallback": has_bytes},
    }


def _check_format(spec: dict[str, Any]) -> None:
    model = spec["model"]
    if model["type"] != "Unigram":
        raise ModelError(f"its tokenizer is of type {model['type']}; {_FORMAT}")
    first = tuple(piece for piece, _ in model["vocab"][: len(CONTROL_PIECES)])
    if first != CONTROL_PIECES or model["unk_id"] != CONTROL_PIECES.index(UNK):
        raise ModelError(
            f"its tokenizer begins with {' '.join(first)} instead of {' '.join(CONTROL_PIECES)}; {_FORMAT}"
        )
    if WORD_START not in json.dumps(spec["pre_tokenizer"], ensure_ascii=False):
        raise ModelError(f"its tokenizer does not mark the start of words by {WORD_START}; {_FORMAT}")


def _free_newline_id(spec: dict[str, Any]) -> int:
    ids = {piece: index for index, (piece, _) in enumerate(spec["model"]["vocab"])}
    for piece in (NEWLINE, *_SPARE_PIECES):
        if piece in ids:
            return ids[piece]
    raise ModelError(f"its vocabulary has no {' or '.join(_SPARE_PIECES)} to stand for the line break; {_FORMAT}")


def _added_tokens(spec: dict[str, Any], vocabulary: list[list[Any]], newline_id: int) -> list[dict[str, Any]]:
    """Returns the control pieces, sentinels, the line break and what else the tokenizer adds, by id."""
    added = {token["id"]: token for token in spec["added_tokens"]}
    for index, (piece, _) in enumerate(vocabulary):
        if index < len(CONTROL_PIECES) or _SENTINEL.fullmatch(piece):
            added[index] = _added_token(index, piece, special=True)
    added[newline_id] = _added_token(newline_id, NEWLINE, special=False)
    return [added[index] for index in sorted(added)]


def _added_token(index: int, piece: str, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": piece, **flags, "special": special}


def _own_normalisers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the tokenizer's own treatment of characters, without the cure's and any for whitespace."""
    own = [step for step in _flatten(spec["normalizer"]) if step not in (*_BEFORE, *_AFTER) and not _is_for_space(step)]
    return own if any(step["type"] in _DECOMPOSING for step in own) else [*own, {"type": "NFKC"}]


def _flatten(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    if step is None:
        return []
    return [inner for each in step["normalizers"] for inner in _flatten(each)] if step["type"] == "Sequence" else [step]


def _is_for_space(step: dict[str, Any]) -> bool:
    """Whether the step only shortens whitespace, which the cure does for every tokenizer alike."""
    if step["type"] != "Replace":
        return bool(step["type"] == "Strip")
    (pattern,) = step["pattern"].values()
    return step["content"] in (" ", WORD_START) and re.fullmatch(r"( |\\s)(\+|\{2,\})?", pattern) is not None


def _post_processor() -> dict[str, Any]:
    """Returns what ends each sequence with the end-of-sequence piece."""
    eos = {"SpecialToken": {"id": EOS, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [first, eos],
        "pair": [first, eos, second, eos],
        "special_tokens": {EOS: {"id": EOS, "ids": [CONTROL_PIECES.index(EOS)], "tokens": [EOS]}},
    }
