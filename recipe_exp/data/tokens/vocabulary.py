"""A tokenizer of T5's format for a network that starts from random weights, the same for the same texts.

The pieces come from merging the most frequent pair of neighbours (byte pair encoding, Sennrich et al. 2016) until
as many pieces are in use as fit; a unigram model (Kudo 2018) of their frequencies then splits text. Unigram training
proper depends on thread timing in one library and leaves the words of a small corpus in pieces in another.
"""

from __future__ import annotations

import heapq
import itertools
import math
import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from recipe_exp.errors import DataError
from recipe_exp.recipes.text import ascii_fractions

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
CONTROL_PIECES = (PAD, EOS, UNK)
"""The first pieces in the order of their ids, as in every T5 vocabulary."""
SENTINELS = tuple(f"<extra_id_{number}>" for number in reversed(range(100)))
"""The last pieces in the order of their ids, as in every T5 vocabulary."""
WORD_START = "▁"

# Prompts are written by hand, so no ASCII character may be unknown because the texts happen to lack it.
_ALPHABET = frozenset(string.ascii_letters + string.digits + string.punctuation + WORD_START)
# Rarer words teach no piece that frequent ones do not; merging takes time for every distinct word.
_MAX_DISTINCT_WORDS = 30_000
# Millions of recipes hold millions of words that occur once; of more than so many, the rarer half is forgotten.
_MAX_COUNTED_WORDS = 2**18
_TEXTS_AT_ONCE = 4096
# A unit within which pieces are merged. A digit is one of its own, so that every number is spelt the same way.
_UNIT = re.compile(rf"{WORD_START}?(?:[^\W\d_]+|\d|([^\w{WORD_START}]|_)\1*)|{WORD_START}")
# A piece that the texts never need whole is scored as if it had been seen this often.
_UNUSED_COUNT = 0.5
# Fewer digits than any platform's logarithm agrees on.
_SCORE_DECIMALS = 4


def train_unigram(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Returns a tokenizer of T5's format for the texts: a function of its arguments to the last byte.

    Ids are those of `CONTROL_PIECES`, then pieces by falling score, then `SENTINELS`. Every character of the
    texts and of printable ASCII is a piece. Text is normalised by NFKC and T5's rules for whitespace and control
    characters. Made for `RecipeTokenizer`, which also keeps line breaks and writes fractions in ASCII.

    Args:
        texts: what to learn from; read once.
        vocab_size: number of ids. There are fewer if the texts do not hold as many pieces.

    Raises:
        DataError: the texts are empty, or their characters alone do not fit.
    """
    words, seen = _count_words(texts)
    if not words:
        raise DataError("there is no text to train a tokenizer on; check data.path and what was rejected")
    characters = sorted(_ALPHABET | seen)
    room = vocab_size - len(CONTROL_PIECES) - len(SENTINELS) - len(characters)
    if room < 0:
        raise DataError(
            f"model.shape.vocab_size={vocab_size}: the texts use {len(characters)} different characters,"
            f" so at least {vocab_size - room} pieces are needed"
        )
    counts = _Merger(_count_units(words)).merge(room)
    return _build_tokenizer(_score({**dict.fromkeys(characters, 0), **counts}))


def t5_normaliser() -> normalizers.Normalizer:
    """Returns T5's normaliser `nmt_nfkc`: NFKC, one space for any whitespace, no control characters."""
    steps = [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    return normalizers.Sequence(steps)


def _count_words(texts: Iterable[str]) -> tuple[Counter[str], set[str]]:
    """Returns how often each word occurs, normalised and with the mark of a word's start, and all their characters.

    Memory does not grow with the texts: where words are too many, those that were rare until then are forgotten, as in
    lossy counting (Manku and Motwani 2002).
    """
    normaliser = t5_normaliser()
    words: Counter[str] = Counter()
    characters: set[str] = set()
    remaining = iter(texts)
    while some := list(itertools.islice(remaining, _TEXTS_AT_ONCE)):
        for text, count in Counter(itertools.chain.from_iterable(map(str.split, some))).items():
            for word in normaliser.normalize_str(ascii_fractions(text).replace(WORD_START, " ")).split():
                words[WORD_START + word] += count
                characters.update(word)
        if len(words) > _MAX_COUNTED_WORDS:
            words = Counter(dict(_most_frequent(words, _MAX_COUNTED_WORDS // 2)))
    return words, characters


def _most_frequent(words: Counter[str], number: int) -> list[tuple[str, int]]:
    return heapq.nsmallest(number, words.items(), key=lambda item: (-item[1], item[0]))


def _count_units(words: Counter[str]) -> dict[str, int]:
    units: Counter[str] = Counter()
    for word, count in _most_frequent(words, _MAX_DISTINCT_WORDS):
        for match in _UNIT.finditer(word):
            units[match[0]] += count
    return dict(sorted(units.items()))


class _Merger:
    """Merges neighbours within units, most frequent pair first, and knows how often each piece is in use."""

    def __init__(self, units: Mapping[str, int]) -> None:
        self._splits = [list(unit) for unit in units]
        self._counts = list(units.values())
        self._uses: Counter[str] = Counter()
        self._peaks: dict[str, int] = {}
        self._pairs: Counter[tuple[str, str]] = Counter()
        self._places: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        for index in range(len(self._splits)):
            self._add(index, 1)
        self._queue = [_priority(pair, count) for pair, count in self._pairs.items()]
        heapq.heapify(self._queue)

    def merge(self, room: int) -> dict[str, int]:
        """Returns characters and up to `room` longer pieces, each with how often the units use it.

        Pieces that only led to longer ones fill what room the others leave, the most frequent first: words
        that the texts lack are made of them.
        """
        in_use: set[str] = set()
        while len(in_use) < room and (pair := self._next_pair()):
            in_use.add(self._merge_pair(pair))
            in_use -= {piece for piece in pair if not self._uses[piece]}
        unused = sorted(self._peaks.keys() - in_use, key=lambda piece: (-self._peaks[piece], piece))
        longer = [*in_use, *unused][:room]
        characters = [piece for piece in self._uses if len(piece) == 1]
        return {piece: self._uses[piece] for piece in (*characters, *longer)}

    def _next_pair(self) -> tuple[str, str] | None:
        while self._queue:
            count, _, pair = heapq.heappop(self._queue)
            current = self._pairs[pair]
            if current == -count and current > 1:
                return pair
            if current > 1:
                heapq.heappush(self._queue, _priority(pair, current))
        return None

    def _merge_pair(self, pair: tuple[str, str]) -> str:
        piece = pair[0] + pair[1]
        touched: set[tuple[str, str]] = set()
        for index in list(self._places[pair]):
            self._add(index, -1)
            self._splits[index] = _merged(self._splits[index], pair)
            touched.update(self._add(index, 1))
        for neighbours in touched:
            heapq.heappush(self._queue, _priority(neighbours, self._pairs[neighbours]))
        self._peaks.setdefault(piece, self._uses[piece])
        return piece

    def _add(self, index: int, sign: int) -> Iterable[tuple[str, str]]:
        """Adds a unit to the counts or, with a sign of -1, takes it away; returns its pairs."""
        split, count = self._splits[index], sign * self._counts[index]
        pairs = list(itertools.pairwise(split))
        for piece in split:
            self._uses[piece] += count
        for pair in pairs:
            self._pairs[pair] += count
            (self._places[pair].add if sign > 0 else self._places[pair].discard)(index)
        return pairs


def _priority(pair: tuple[str, str], count: int) -> tuple[int, str, tuple[str, str]]:
    return -count, pair[0] + pair[1], pair


def _merged(split: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    pieces = iter(range(len(split)))
    for position in pieces:
        if tuple(split[position : position + 2]) == pair:
            merged.append(pair[0] + pair[1])
            next(pieces)
        else:
            merged.append(split[position])
    return merged


def _score(counts: Mapping[str, int]) -> Iterator[tuple[str, float]]:
    """Yields each piece with the logarithm of its share, most frequent first."""
    total = sum(max(count, _UNUSED_COUNT) for count in counts.values())
    for piece, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        yield piece, round(math.log(max(count, _UNUSED_COUNT) / total), _SCORE_DECIMALS)


def _build_tokenizer(pieces: Iterable[tuple[str, float]]) -> Tokenizer:
    control = [(piece, 0.0) for piece in CONTROL_PIECES]
    sentinels = [(piece, 0.0) for piece in SENTINELS]
    vocabulary = [*control, *pieces, *sentinels]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=CONTROL_PIECES.index(UNK), byte_fallback=False))
    tokenizer.normalizer = t5_normaliser()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(WORD_START, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(WORD_START, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}",
        pair=f"$A {EOS} $B {EOS}",
        special_tokens=[(EOS, CONTROL_PIECES.index(EOS))],
    )
    tokenizer.add_special_tokens([*CONTROL_PIECES, *SENTINELS])
    return tokenizer
