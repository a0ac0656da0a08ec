from __future__ import annotations

import itertools
import json
import pickle
import re
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from recipe_exp.data.sample import sample_recipes
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.data.tokens.vocabulary import train_unigram
from recipe_exp.errors import ModelError
from recipe_exp.recipes import Recipe, ascii_fractions, clean_line, render_markdown

SAMPLES = [render_markdown(recipe) for recipe in itertools.islice(sample_recipes(), 300)]
FOREIGN = "Crème brûlée: 1 pièce de beurre à 200 °C, jalapeño, 50 µl"
REAL = Path(__file__).parents[4] / "shared" / "data" / "t5_format_tokenizer"

CARELESS = "1½ cups flour\n\n- 2 ½ cups  </s> salt\n3. Mix <extra_id_7> at 350 °C.\n"

VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅟↉"


def train() -> Tokenizer:
    return train_unigram([*SAMPLES, FOREIGN], 900)


@pytest.fixture(scope="module")
def bare() -> Tokenizer:
    """A tokenizer as T5's is: line breaks become spaces, sentinels are whole."""
    return train()


@pytest.fixture(scope="module")
def tokenizer(bare: Tokenizer) -> RecipeTokenizer:
    return RecipeTokenizer.from_tokenizer(bare)


@pytest.fixture(scope="module")
def real() -> RecipeTokenizer:
    if not (REAL / "tokenizer.json").is_file():
        pytest.skip("needs a real tokenizer of T5's format in ../shared/data/t5_format_tokenizer")
    return RecipeTokenizer.from_pretrained(REAL)


@pytest.fixture(scope="module", params=["tokenizer", "real"])
def codec(request: pytest.FixtureRequest) -> RecipeTokenizer:
    found: RecipeTokenizer = request.getfixturevalue(request.param)
    return found


def round_trip(tokenizer: RecipeTokenizer, text: str) -> str:
    return tokenizer.decode(tokenizer.encode(text))


def documented(text: str) -> str:
    """What docs/data.md says that a tokenizer makes of a text whose characters its vocabulary has."""
    lines = (ascii_fractions(line).translate(INVISIBLE).translate(ALIKE) for line in text.split("\n"))
    return "\n".join(" ".join(unicodedata.normalize("NFKC", line).split()) for line in lines)


CONTROLS = [*range(0x01, 0x09), 0x0B, *range(0x0E, 0x20), 0x7F, 0x8F, 0x9F]
INVISIBLE = {**dict.fromkeys(CONTROLS), **dict.fromkeys(map(ord, "\u200b\u200c\u200d\u200e\u200f\ufeff\ufffd▁"), " ")}
ALIKE = {0x2044: "/"}
# What may stay behind its base character where the two are one letter to a reader.
ATTACHED = re.compile("[\u200c\u200d\uff9e\uff9f]")

USED = {*"".join(SAMPLES), *FOREIGN}
# Seldom do twenty characters out of all of Unicode have a piece each, so half of the texts are made of these.
EXPRESSIBLE = [char for char in map(chr, range(0x20, 0xD800)) if {*unicodedata.normalize("NFKC", char)} <= USED]
TELLING = 'ab 1½⅓¼⁄²₂/\n\t\r\u00a0\u2028\u200b\u200d▁<>{}"*-\x01\x0b'
PIECES = [
    "</s>",
    "<pad>",
    "<unk>",
    "<extra_id_0>",
    "<extra_id_7>",
    "<extra_id_99>",
    "＜/s＞",
    "<",
    "s>",
    "\n",
    " ",
    "½",
]
unicode_texts = st.text(max_size=40) | st.text(
    st.sampled_from(TELLING) | st.sampled_from(EXPRESSIBLE) | st.characters(exclude_categories=["Cs"]), max_size=30
)
expressible_texts = st.text(st.sampled_from(TELLING) | st.sampled_from(EXPRESSIBLE), max_size=40)
texts_with_pieces = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=10).map("".join)


# What clean_line leaves of any text in the characters that the vocabulary has, in the shape of a recipe.
LETTERS = "abcdefgXYZ0123456789 .,;:'()-/*+&%#\"!?éûµ°<>_"
letters = st.sampled_from(LETTERS)
# Some of these letters in a row are what a wrong encoding made of another one, which cleaning brings back.
lines = (
    st.text(letters, min_size=1, max_size=30)
    .map(clean_line)
    .filter(lambda line: bool(line) and set(line) <= {*LETTERS})
)
recipes = st.builds(
    Recipe,
    lines,
    st.lists(lines, min_size=1, max_size=4).map(tuple),
    st.lists(lines, min_size=1, max_size=4).map(tuple),
)


class TestRoundTrip:
    def test_sample_recipes_come_back_exactly(self, tokenizer: RecipeTokenizer) -> None:
        assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(SAMPLES)] == SAMPLES

    @given(recipes)
    @example(Recipe("</s>", ("1 1/2 cups <extra_id_99>",), ("<unk><pad>",)))
    def test_clean_recipes_come_back_in_nfkc(self, tokenizer: RecipeTokenizer, recipe: Recipe) -> None:
        text = render_markdown(recipe)
        assert round_trip(tokenizer, text) == unicodedata.normalize("NFKC", text)

    @given(unicode_texts | expressible_texts | texts_with_pieces)
    @example("1½ {salt} ~ 2⅓")
    @example("½\u0301 cup")
    def test_any_text_comes_back_normalised(self, codec: RecipeTokenizer, text: str) -> None:
        ids = codec.encode(text)
        assume(not codec.count_unknown(ids))
        assert codec.decode(ids) == codec.normalise(text)

    @given(unicode_texts | expressible_texts | texts_with_pieces)
    @example("{1½}\n\n2⅓ cups\n</s>")
    @example("1\x01½")
    def test_normalising_any_text_is_what_the_documentation_says(self, codec: RecipeTokenizer, text: str) -> None:
        assume(not codec.count_unknown(codec.encode(text)))
        composed = unicodedata.normalize("NFC", text)
        assume(not ATTACHED.search(text) and not any(unicodedata.category(char)[0] == "M" for char in composed))
        assert round_trip(codec, text) == documented(text)

    @given(unicode_texts | texts_with_pieces)
    @example("豆\n\r\n{\n\u2028")
    def test_every_text_keeps_its_number_of_line_breaks(self, codec: RecipeTokenizer, text: str) -> None:
        ids = codec.encode(text)
        assert ids.count(codec.newline_id) == codec.decode(ids).count("\n") == text.count("\n")

    @given(st.text(st.sampled_from(f"ab 0123½⅓¹²₂⁄/.-\n\t{VULGAR}"), max_size=30))
    @example("⅐²/₂")
    @example("²/₂¼")
    def test_normalising_is_fractions_in_ascii_nfkc_and_single_spaces(
        self, tokenizer: RecipeTokenizer, text: str
    ) -> None:
        expected = [
            " ".join(unicodedata.normalize("NFKC", ascii_fractions(line)).replace("\u2044", "/").split())
            for line in text.split("\n")
        ]
        assert tokenizer.normalise(text) == "\n".join(expected)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("1 ½ cups", "1 1/2 cups"),
            ("1½ cups", "1 1/2 cups"),
            ("½ cup", "1/2 cup"),
            ("(¾ cup)", "(3/4 cup)"),
            ("1\u20442 cup", "1/2 cup"),
            ("2¹\u2044₂ cups", "2 1/2 cups"),
            ("\n\na \n  b\n", "\n\na\nb\n"),
            ("a\r\nb\tc", "a\nb c"),
            ("", ""),
        ],
    )
    def test_quantities_and_line_breaks_survive(self, codec: RecipeTokenizer, text: str, expected: str) -> None:
        assert round_trip(codec, text) == expected

    def test_of_a_mark_that_a_letter_cannot_take_in_only_the_map_of_t5_makes_nothing(
        self, tokenizer: RecipeTokenizer, real: RecipeTokenizer
    ) -> None:
        assert tokenizer.normalise("½\u0301 e\u0301") == "1/2\u0301 é"
        assert real.normalise("½\u0301 e\u0301") == "1/2 é"

    def test_braces_have_a_piece_or_are_counted_as_unknown(
        self, tokenizer: RecipeTokenizer, real: RecipeTokenizer
    ) -> None:
        assert round_trip(tokenizer, "{1½} cups\n{a}") == "{1 1/2} cups\n{a}"
        ids = real.encode("{1½} cups\n{a}")
        assert real.count_unknown(ids) == 4
        assert real.decode(ids).replace(" ", "") == "11/2cups\na"

    @pytest.mark.parametrize("fraction", VULGAR)
    def test_every_vulgar_fraction_is_kept_apart_from_a_whole_number(
        self, tokenizer: RecipeTokenizer, fraction: str
    ) -> None:
        assert round_trip(tokenizer, f"1{fraction} cups") == f"{ascii_fractions('1' + fraction)} cups"

    def test_what_a_network_writes_around_line_breaks_is_tidied(self, tokenizer: RecipeTokenizer) -> None:
        newline = tokenizer.newline_id
        flour, salt = (tokenizer.encode(word)[:-1] for word in ("flour", "salt"))
        assert tokenizer.decode([tokenizer.pad_id, newline, *flour, newline, newline, *salt]) == "\nflour\n\nsalt"


class TestIds:
    def test_only_the_spare_sentinel_changes(self, bare: Tokenizer, tokenizer: RecipeTokenizer) -> None:
        before = bare.get_vocab()
        newline_id = before.pop("<extra_id_99>")
        assert tokenizer.newline_id == newline_id == tokenizer.vocab_size - 100
        after = json.loads(serialised(tokenizer))["model"]["vocab"]
        assert {piece: index for index, (piece, _) in enumerate(after)} == {**before, "\n": newline_id}

    def test_texts_of_one_line_get_the_ids_they_had(self, bare: Tokenizer, tokenizer: RecipeTokenizer) -> None:
        for line in {line for text in SAMPLES for line in text.split("\n") if line}:
            assert tokenizer.encode(line) == bare.encode(line).ids

    def test_each_line_break_is_one_id(self, tokenizer: RecipeTokenizer) -> None:
        ids = tokenizer.encode(SAMPLES[0])
        assert ids.count(tokenizer.newline_id) == SAMPLES[0].count("\n")

    def test_control_ids_are_those_of_t5(self, tokenizer: RecipeTokenizer) -> None:
        assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2)

    @pytest.mark.parametrize(
        "text", ["</s>", "<pad>", "a <unk> b", "<extra_id_5>", "x</s>y", "＜/s＞", "<extra_id_99>"]
    )
    def test_control_pieces_inside_a_text_are_text(self, tokenizer: RecipeTokenizer, text: str) -> None:
        *inside, last = tokenizer.encode(text)
        assert last == tokenizer.eos_id
        assert not {0, 1, 2} & set(inside)
        assert max(inside) < tokenizer.newline_id
        assert tokenizer.decode(inside) == unicodedata.normalize("NFKC", text)

    @given(texts_with_pieces)
    @example("</s>")
    @example("a <extra_id_0> b")
    def test_no_text_gets_the_id_of_a_control_piece_or_a_sentinel(self, codec: RecipeTokenizer, text: str) -> None:
        *inside, last = codec.encode(text)
        assert last == codec.eos_id
        assert not {codec.pad_id, codec.eos_id} & {*inside}
        assert all(index <= codec.newline_id for index in inside)

    def test_nothing_is_cut_or_padded_whatever_the_tokenizer_was_set_to(self) -> None:
        limited = train()
        limited.enable_truncation(5)
        limited.enable_padding(length=50)
        ids = RecipeTokenizer.from_tokenizer(limited).encode_batch(["flour", SAMPLES[0]])
        assert len(ids[0]) == 2
        assert len(ids[1]) > 50

    def test_a_batch_is_encoded_like_each_of_its_texts(self, tokenizer: RecipeTokenizer) -> None:
        assert tokenizer.encode_batch(SAMPLES[:5]) == [tokenizer.encode(text) for text in SAMPLES[:5]]
        assert tokenizer.encode_batch([]) == []

    def test_what_the_vocabulary_lacks_is_unknown_and_counted(self, tokenizer: RecipeTokenizer) -> None:
        ids = tokenizer.encode("flour 豆 and 腐")
        assert tokenizer.count_unknown(ids) == 2
        assert tokenizer.decode(ids).split() == ["flour", "and"]
        assert tokenizer.count_unknown(tokenizer.encode(SAMPLES[0])) == 0

    def test_control_pieces_and_ids_beyond_the_vocabulary_decode_to_nothing(self, tokenizer: RecipeTokenizer) -> None:
        ids = [0, *tokenizer.encode("salt"), 1, 0, tokenizer.vocab_size - 1, tokenizer.vocab_size + 20]
        assert tokenizer.decode(ids) == "salt"


def serialised(tokenizer: RecipeTokenizer) -> str:
    return tokenizer.__reduce__()[1][0].to_str()


class TestIdentity:
    def test_curing_twice_is_curing_once(self, tokenizer: RecipeTokenizer) -> None:
        again = RecipeTokenizer.from_tokenizer(Tokenizer.from_str(serialised(tokenizer)))
        assert serialised(again) == serialised(tokenizer)

    def test_the_fingerprint_is_the_same_for_the_same_tokenizer_only(self, tokenizer: RecipeTokenizer) -> None:
        other = RecipeTokenizer.from_tokenizer(train_unigram(SAMPLES, 700))
        assert re.fullmatch(r"[0-9a-f]{64}", tokenizer.fingerprint)
        assert RecipeTokenizer.from_tokenizer(train()).fingerprint == tokenizer.fingerprint
        assert other.fingerprint != tokenizer.fingerprint

    def test_rules_for_whitespace_that_change_no_id_change_no_fingerprint(self, tokenizer: RecipeTokenizer) -> None:
        variant = train()
        steps = [normalizers.Nmt(), normalizers.NFKC()]
        variant.normalizer = normalizers.Sequence(steps)
        words = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
        variant.pre_tokenizer = pre_tokenizers.Sequence(words)
        assert RecipeTokenizer.from_tokenizer(variant).fingerprint == tokenizer.fingerprint

    def test_its_own_treatment_of_characters_is_kept(self) -> None:
        lowering = train()
        steps = [normalizers.Lowercase(), normalizers.Replace("&", "and")]
        lowering.normalizer = normalizers.Sequence(steps)
        assert RecipeTokenizer.from_tokenizer(lowering).normalise("Salt & 1½") == "salt and 1 1/2"

    def test_a_copy_in_another_process_still_reads_control_pieces_as_text(self, tokenizer: RecipeTokenizer) -> None:
        copy = pickle.loads(pickle.dumps(tokenizer))
        assert copy.encode(CARELESS) == tokenizer.encode(CARELESS)
        assert copy.fingerprint == tokenizer.fingerprint


class TestFiles:
    def test_what_was_saved_is_what_is_loaded(self, tokenizer: RecipeTokenizer, tmp_path: Path) -> None:
        tokenizer.save(tmp_path / "run" / "model")
        loaded = RecipeTokenizer.from_pretrained(tmp_path / "run" / "model")
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.encode(CARELESS) == tokenizer.encode(CARELESS)

    @pytest.mark.parametrize("with_config", [False, True])
    def test_plain_transformers_does_the_same(
        self, tokenizer: RecipeTokenizer, tmp_path: Path, with_config: bool
    ) -> None:
        from transformers import AutoTokenizer, T5Config

        if with_config:
            for name in ("saved", "saved again"):
                T5Config(vocab_size=tokenizer.vocab_size).save_pretrained(tmp_path / name)
        tokenizer.save(tmp_path / "saved")
        AutoTokenizer.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "saved again")
        for folder in (tmp_path / "saved", tmp_path / "saved again"):
            plain = AutoTokenizer.from_pretrained(folder)
            assert (plain.pad_token_id, plain.eos_token_id, plain.unk_token_id) == (0, 1, 2)
            assert len(plain) == tokenizer.vocab_size
            assert set(plain(SAMPLES[0])) == {"input_ids", "attention_mask"}
            for text in (*SAMPLES[:20], CARELESS):
                ids = tokenizer.encode(text)
                assert plain(text).input_ids == ids
                assert plain.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)
            assert RecipeTokenizer.from_pretrained(folder).fingerprint == tokenizer.fingerprint

    def test_a_folder_of_an_uncured_tokenizer_is_cured(
        self, bare: Tokenizer, tokenizer: RecipeTokenizer, tmp_path: Path
    ) -> None:
        bare.save(str(tmp_path / "tokenizer.json"))
        assert RecipeTokenizer.from_pretrained(str(tmp_path)).fingerprint == tokenizer.fingerprint

    def test_a_model_that_is_nowhere_is_an_error_of_one_line_with_the_remedy(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ModelError, match=r"set model\.name to a local folder") as caught:
            RecipeTokenizer.from_pretrained("nobody/no-such-model")
        assert str(caught.value).startswith("model.name=nobody/no-such-model: ")
        assert "\n" not in str(caught.value)

    def test_the_revision_reaches_the_hub_after_the_cache(
        self, bare: Tokenizer, tokenizer: RecipeTokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        asked: list[tuple[object, ...]] = []

        def answer(
            name: str, *, revision: str | None, local_files_only: bool, trust_remote_code: bool
        ) -> PreTrainedTokenizerFast:
            assert not trust_remote_code
            asked.append((name, revision, local_files_only))
            if local_files_only:
                raise OSError("not in the cache")
            return PreTrainedTokenizerFast(tokenizer_object=bare)

        monkeypatch.setattr(AutoTokenizer, "from_pretrained", answer)
        monkeypatch.setattr("recipe_exp.data.tokens.tokenizer.hub_is_reachable", lambda: True)
        loaded = RecipeTokenizer.from_pretrained("someone/model", revision="v2")
        assert asked == [("someone/model", "v2", True), ("someone/model", "v2", False)]
        assert loaded.fingerprint == tokenizer.fingerprint

    def test_a_folder_without_a_tokenizer_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=re.escape(f"model.name={tmp_path}: holds no tokenizer")):
            RecipeTokenizer.from_pretrained(tmp_path)

    def test_a_damaged_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text('{"model": ')
        with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read"):
            RecipeTokenizer.from_pretrained(tmp_path)


class TestOtherFormats:
    def test_another_type_of_model(self) -> None:
        with pytest.raises(ModelError, match=r"of type BPE; expected a Unigram tokenizer"):
            RecipeTokenizer.from_tokenizer(Tokenizer(models.BPE()))

    def test_other_control_pieces(self) -> None:
        other = Tokenizer(models.Unigram([("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0)], 2))
        with pytest.raises(ModelError, match=r"begins with <s> <pad> </s> instead of <pad> </s> <unk>"):
            RecipeTokenizer.from_tokenizer(other)

    def test_no_sentinel_to_spare(self) -> None:
        other = Tokenizer(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0)], 2))
        other.pre_tokenizer = pre_tokenizers.Metaspace()
        other.decoder = decoders.Metaspace()
        with pytest.raises(ModelError, match=r"no .*<extra_id_99> or .* to stand for the line break"):
            RecipeTokenizer.from_tokenizer(other)

    def test_words_marked_otherwise(self) -> None:
        other = train()
        other.pre_tokenizer = pre_tokenizers.Whitespace()
        with pytest.raises(ModelError, match="does not mark the start of words"):
            RecipeTokenizer.from_tokenizer(other)


def as_mt5(bare: Tokenizer, *, has_sentinels: bool) -> Tokenizer:
    """A tokenizer with every byte among its pieces, and sentinels as mT5 spells them or none."""
    spec = json.loads(bare.to_str())
    vocabulary = spec["model"]["vocab"]
    of_bytes = [[f"<0x{byte:02X}>", 0.0] for byte in range(256)]
    sentinels = [[f"▁{piece}", score] for piece, score in vocabulary[-100:]] if has_sentinels else []
    spec["model"]["vocab"] = [*vocabulary[:3], *of_bytes, *vocabulary[3:-100], *sentinels]
    spec["added_tokens"] = spec["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(spec))


@pytest.fixture(scope="module", params=[True, False])
def multilingual(request: pytest.FixtureRequest, bare: Tokenizer) -> RecipeTokenizer:
    return RecipeTokenizer.from_tokenizer(as_mt5(bare, has_sentinels=request.param))


class TestBytesAmongPieces:
    def test_the_line_break_takes_a_piece_that_no_text_reaches(self, bare: Tokenizer) -> None:
        for has_sentinels, spare in ((True, "▁<extra_id_99>"), (False, "<0x0A>")):
            before = as_mt5(bare, has_sentinels=has_sentinels)
            cured = RecipeTokenizer.from_tokenizer(before)
            assert cured.newline_id == before.token_to_id(spare)
            assert cured.vocab_size == before.get_vocab_size()

    @given(unicode_texts | texts_with_pieces)
    @example("語 and 🍲\n\n<0x41> ▁<extra_id_5> </s>")
    def test_nothing_is_unknown_and_every_text_comes_back(self, multilingual: RecipeTokenizer, text: str) -> None:
        *inside, last = multilingual.encode(text)
        assert last == multilingual.eos_id
        assert not {multilingual.pad_id, multilingual.eos_id, multilingual.unk_id} & {*inside}
        assert multilingual.decode([*inside, last]) == multilingual.normalise(text)

    def test_saved_and_cured_again_it_is_itself(self, multilingual: RecipeTokenizer, tmp_path: Path) -> None:
        from transformers import AutoTokenizer

        multilingual.save(tmp_path)
        assert RecipeTokenizer.from_pretrained(tmp_path).fingerprint == multilingual.fingerprint
        plain = AutoTokenizer.from_pretrained(tmp_path)
        for text in (*SAMPLES[:3], "語 🍲\n<0x41> <extra_id_5></s>"):
            assert plain(text)["input_ids"] == multilingual.encode(text)
            decoded = plain.decode(multilingual.encode(text), skip_special_tokens=True)
            assert decoded == multilingual.decode(multilingual.encode(text))

    @pytest.mark.parametrize("config", [{"tokenizer_class": "T5Tokenizer", "extra_ids": 0}, {}])
    def test_a_sentencepiece_file_alone_gives_its_own_ids(self, tmp_path: Path, config: dict[str, object]) -> None:
        lines = [line for text in SAMPLES for line in text.split("\n") if line]
        with (tmp_path / "spiece.model").open("wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=file,
                vocab_size=800,
                byte_fallback=True,
                pad_id=0,
                eos_id=1,
                unk_id=2,
                bos_id=-1,
                minloglevel=2,
                num_threads=1,
                user_defined_symbols=[f"▁<extra_id_{number}>" for number in reversed(range(100))],
            )
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "mt5"}))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
        ours = RecipeTokenizer.from_pretrained(tmp_path)
        assert ours.newline_id == theirs.piece_to_id("▁<extra_id_99>")
        for line in [*lines[:500], "🍲 and 語"]:
            assert ours.encode(line) == [*theirs.encode(line), ours.eos_id]

    def test_sentinels_decode_to_nothing(self, bare: Tokenizer) -> None:
        cured = RecipeTokenizer.from_tokenizer(as_mt5(bare, has_sentinels=True))
        assert cured.decode([*cured.encode("salt"), cured.vocab_size - 1]) == "salt"


class TestRealTokenizer:
    def test_titles_get_the_ids_they_had(self, real: RecipeTokenizer) -> None:
        bare = Tokenizer.from_file(str(REAL / "tokenizer.json"))
        bare.no_truncation()
        titles = [text.split("\n")[0] for text in SAMPLES]
        assert real.encode_batch(titles) == [bare.encode(title).ids for title in titles]

    def test_sample_recipes_come_back_exactly(self, real: RecipeTokenizer) -> None:
        assert [real.decode(ids) for ids in real.encode_batch(SAMPLES)] == SAMPLES
        assert real.newline_id == 32_000
        assert real.vocab_size == 32_100

    @pytest.mark.parametrize("fraction", VULGAR)
    def test_its_own_normaliser_knows_every_vulgar_fraction(self, real: RecipeTokenizer, fraction: str) -> None:
        assert round_trip(real, f"1 {fraction} cups") == f"{ascii_fractions('1 ' + fraction)} cups"

    def test_transformers_own_class_for_t5_leads_to_the_same(self, real: RecipeTokenizer) -> None:
        from transformers import AutoTokenizer

        rebuilt = AutoTokenizer.from_pretrained(REAL, tokenizer_type="t5").backend_tokenizer
        assert RecipeTokenizer.from_tokenizer(rebuilt).fingerprint == real.fingerprint
