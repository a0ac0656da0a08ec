"""The data card: what was kept and why, and whether it can be trusted, on one page for people and as JSON."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

import msgspec

from recipe_exp.config.data import DataConfig
from recipe_exp.config.messages import in_one_line, show_path
from recipe_exp.data.duplicates.clusters import THRESHOLD
from recipe_exp.data.preparation.corpus_report import REJECTS_FILE, CorpusReport
from recipe_exp.data.preparation.prepared import PreparedData
from recipe_exp.data.preparation.sources import Origins
from recipe_exp.data.preparation.statistics import ClusterClass, Histogram, Part, Statistics
from recipe_exp.data.preparation.stored_record import StoredRecord, title_of
from recipe_exp.data.split import SPLITS, Split
from recipe_exp.data.tokens.cache_card import CacheCard, InexactCause, SplitCard
from recipe_exp.reports.html import as_html
from recipe_exp.reports.markdown import as_markdown
from recipe_exp.reports.page import (
    Block,
    Card,
    Cards,
    Chart,
    Charts,
    Figure,
    Figures,
    Page,
    Points,
    Section,
    Shares,
    Table,
    count_text,
    share_text,
)

DATA_CARD_FILES = ("data_card.json", "data_card.md", "data_card.html")
"""What `render` makes."""
DATA_CARD_VERSION = 1

_MAX_LINES = 60
_MAX_LINE_CHARACTERS = 400
_SPLIT_NAMES: Mapping[Split, str] = {"train": "training", "validation": "validation", "test": "test"}
_PART_NAMES: Mapping[Part, str] = {
    "title": "Words of the title",
    "ingredients": "Words of all ingredients",
    "instructions": "Words of all steps",
    "text": "Words of the whole recipe",
}


def render(data: PreparedData, cache: CacheCard) -> dict[str, str]:
    """Returns the texts of `DATA_CARD_FILES`, by name: a function of what is known of data and tokens alone."""
    page = _page(data, cache)
    return dict(zip(DATA_CARD_FILES, (_as_json(data, cache), as_markdown(page), as_html(page)), strict=True))


def _as_json(data: PreparedData, cache: CacheCard) -> str:
    facts = {
        "version": DATA_CARD_VERSION,
        "data_fingerprint": data.data_fingerprint,
        "cache_fingerprint": cache.fingerprint,
        "preparation": data.card.identity if data.card else None,
        "tokenization": cache.identity,
        "num_records": data.report.num_records,
        "report": data.report,
        "statistics": data.card.statistics if data.card else None,
        "tokens": cache.splits,
    }
    return msgspec.json.format(msgspec.json.encode(facts), indent=2).decode() + "\n"


def _page(data: PreparedData, cache: CacheCard) -> Page:
    report, statistics = data.report, data.card.statistics if data.card else None
    known = [] if statistics is None else _sections_on_preparation(report, statistics)
    examples = [] if statistics is None or not statistics.examples else [_examples(statistics)]
    sections = [_overview(report, statistics, cache), *known, _vocabulary(cache), _origin(data, cache), *examples]
    return Page("Data card", _lead(report, statistics), tuple(sections))


def _lead(report: CorpusReport, statistics: Statistics | None) -> str:
    num_kept = sum(report.num_examples.values())
    if statistics is None:
        return (
            f"{count_text(num_kept)} recipes, as they stand in the folder. It was edited since it was prepared, or "
            "comes without the card of its preparation, so only what can be counted is known."
        )
    share = share_text(num_kept / report.num_records if report.num_records else 0.0)
    return (
        f"{count_text(num_kept)} of the {count_text(report.num_records)} records that were read became recipes to "
        f"learn from and to be measured on ({share}). This page says what was kept and why."
    )


def _overview(report: CorpusReport, statistics: Statistics | None, cache: CacheCard) -> Section:
    explanations = {
        "train": "the only ones that are learnt from",
        "validation": "never learnt from; they choose the best checkpoint",
        "test": "never learnt from; kept for the last measurement",
    }
    figures = [
        Figure(count_text(report.num_examples[split]), f"{_SPLIT_NAMES[split]} recipes", explanations[split])
        for split in SPLITS
    ]
    blocks: list[Block] = [Figures(tuple(figures))]
    if statistics is not None:
        blocks.append(Shares(_fates(report)))
    blocks.append(Points(tuple(_verdicts(report, statistics, cache))))
    return Section("In short", "How many recipes there are, and what may stand against trusting them.", tuple(blocks))


def _fates(report: CorpusReport) -> tuple[tuple[str, int], ...]:
    return (
        ("kept", sum(report.num_examples.values())),
        ("duplicates", report.num_duplicates),
        ("unreadable or incomplete", report.num_rejected),
        ("near a held-out recipe", report.num_leaks),
        ("in other languages", report.num_other_language),
        ("of low quality", report.num_low_quality),
    )


def _verdicts(report: CorpusReport, statistics: Statistics | None, cache: CacheCard) -> list[str]:
    train, sentences = cache.splits["train"], []
    if statistics is not None:
        sentences = [
            f"{share_text(report.rejected_fraction)} of the records were unreadable or incomplete.",
            _split_verdict(report),
            *_length_verdict(statistics),
        ]
    return [
        *sentences,
        f"{share_text(train.truncated_target_fraction)} of the training recipes are longer than "
        f"data.max_target_tokens={cache.identity['max_target_tokens']}; the model never sees how those end.",
        f"{share_text(train.inexact_target_fraction)} of the training recipes do not come back from the tokenizer "
        "exactly as they were.",
    ]


def _split_verdict(report: CorpusReport) -> str:
    if not report.num_examples["validation"] + report.num_examples["test"]:
        return "Nothing is held out, so nothing can be measured on recipes that were not learnt from."
    left = "no similar pair is left"
    if report.closest:
        left = f"the highest similarity left is {report.closest[0].similarity:.2f}"
    return (
        f"No training recipe was found that is nearly the same as a held-out one (similarity {THRESHOLD:g} or more): "
        f"{count_text(report.num_leaks)} were taken out for it, and {left}."
    )


def _length_verdict(statistics: Statistics) -> list[str]:
    texts = [statistics.words[split]["text"] for split in SPLITS]
    held_out = _together(texts[1:])
    if not sum(texts[0].counts) or not sum(held_out.counts):
        return []
    return [f"A training recipe has {texts[0].mean:,.0f} words on average, a held-out one {held_out.mean:,.0f}."]


def _sections_on_preparation(report: CorpusReport, statistics: Statistics) -> list[Section]:
    return [
        _left_out(report, statistics),
        _origins(statistics),
        _clusters(report, statistics),
        _split(report),
        _sizes(statistics),
    ]


def _left_out(report: CorpusReport, statistics: Statistics) -> Section:
    rows = tuple(
        (
            in_one_line(one.reason),
            f"{show_path(one.first)}{f', near {show_path(one.beside)}' if one.beside else ''}",
            count_text(one.num_records),
            share_text(one.num_records / report.num_records),
        )
        for one in statistics.left_out
    )
    blank = f" {count_text(report.num_blank_lines)} blank lines are no records." if report.num_blank_lines else ""
    columns = ("reason", "the first one, as file and line", "records", "share")
    blocks: tuple[Block, ...] = (Table(columns, rows, num_texts=2),) if rows else (Points(("Nothing was left out.",)),)
    about = (
        f"Each record that is left out stands in {REJECTS_FILE} with its file, its line and the "
        f"reason. A share is one of all records that were read.{blank}"
    )
    return Section("What was left out, and why", about, blocks)


def _origins(statistics: Statistics) -> Section:
    files = _origin_table("By file", "file", statistics.files)
    sources = _origin_table("By source, as the records name it", "source", statistics.sources)
    about = (
        "How many records each place has, and how many of them are in one of the splits. A small share that was kept "
        "says that a place repeats what others hold, or cannot be read well."
    )
    return Section("Where the recipes come from", about, (files, sources) if sources.rows else (files,))


def _origin_table(title: str, column: str, origins: Origins) -> Table:
    places = [(show_path(one.name), one.num_records, one.num_kept) for one in origins.largest]
    if origins.num_others:
        places.append((f"{count_text(origins.num_others)} others", origins.num_other_records, origins.num_other_kept))
    rows = tuple(
        (name, count_text(num_records), count_text(num_kept), share_text(num_kept / num_records))
        for name, num_records, num_kept in places
    )
    return Table((column, "records read", "kept", "share kept"), rows, title=title)


def _clusters(report: CorpusReport, statistics: Statistics) -> Section:
    about = (
        "Records with the same title and ingredients, or with nearly the same text (Jaccard similarity of runs of four "
        f"words of {THRESHOLD:g} or more), form a cluster. {count_text(report.num_in_clusters)} records are in "
        f"{count_text(report.num_clusters)} clusters of two or more; {count_text(report.num_duplicates)} were left out "
        "because a better one that they are near to stays."
    )
    rows = tuple(
        (_class_name(one), count_text(one.num_clusters), count_text(one.num_records))
        for one in statistics.cluster_classes
    )
    tables = [Table(("records in a cluster", "clusters", "records in them"), rows, title="Clusters by size")]
    if statistics.largest_clusters:
        largest = tuple(
            ("; ".join(map(in_one_line, one.titles)), count_text(one.num_records), count_text(one.num_kept))
            for one in statistics.largest_clusters
        )
        note = "Of each one some titles, first of those that stay."
        tables.append(Table(("titles", "records", "kept"), largest, title="The largest clusters", note=note))
    return Section("Duplicates", about, tuple(tables))


def _class_name(one: ClusterClass) -> str:
    if one.smallest == 1:
        return "1, like no other"
    if one.largest is None:
        return f"{one.smallest:,} or more"
    return str(one.smallest) if one.smallest == one.largest else f"{one.smallest} to {one.largest}"


def _split(report: CorpusReport) -> Section:
    about = (
        "A recipe's own title decides by its hash whether it is learnt from or held out, so no other recipe ever moves "
        f"it. {count_text(report.num_leaks)} training recipes were left out because they are near a held-out one."
    )
    if not report.closest:
        return Section("The split", about, (Points(("No pair of similar recipes was found across the split.",)),))
    rows = tuple(
        (in_one_line(one.held_out), in_one_line(one.training), f"{one.similarity:.2f}") for one in report.closest
    )
    note = "Of pairs below a similarity of 0.7, chance decides which are found."
    table = Table(("held out", "in training", "similarity"), rows, 2, "The most similar pairs left across it", note)
    return Section("The split", about, (table,))


def _sizes(statistics: Statistics) -> Section:
    # Pairs of texts have no parts.
    parts = [part for part in _PART_NAMES if any(sum(statistics.words[split][part].counts) for split in SPLITS)]
    charts = tuple(
        _chart(_PART_NAMES[part], {split: statistics.words[split][part] for split in SPLITS}) for part in parts
    )
    quality = _chart("Quality", statistics.quality)
    about = (
        "How long the recipes are and how good: the share of recipes in each bin, whose least value stands below it. "
        "The last bin holds everything beyond. Where the dots leave the bars, held-out recipes are not like those that "
        "are learnt from."
    )
    blocks = (Charts((*charts, quality), "training", "validation and test"), _means(statistics))
    return Section("Lengths and quality", about, blocks)


def _chart(title: str, by_split: Mapping[Split, Histogram]) -> Chart:
    train, held_out = by_split["train"], _together([by_split[split] for split in SPLITS if split != "train"])
    last = len(train.counts) - 1
    edges = [f"{number * train.bin_width:g}" for number in range(last + 1)]
    labels = tuple(f"{edge}+" if number == last and train.bin_width >= 1 else edge for number, edge in enumerate(edges))
    note = f"{train.mean:,.1f} on average, {train.largest:,.0f} at most"
    if train.bin_width < 1:
        note = f"{train.mean:.2f} on average; 1 is the best"
    dots = _shares_of(held_out) if sum(held_out.counts) else ()
    return Chart(title, note, labels, _shares_of(train), dots)


def _together(histograms: list[Histogram]) -> Histogram:
    sizes = [sum(one.counts) for one in histograms]
    mean = sum(one.mean * size for one, size in zip(histograms, sizes, strict=True)) / max(sum(sizes), 1)
    counts = tuple(map(sum, zip(*(one.counts for one in histograms), strict=True)))
    return Histogram(histograms[0].bin_width, counts, mean, max(one.largest for one in histograms))


def _shares_of(histogram: Histogram) -> tuple[float, ...]:
    num_values = max(sum(histogram.counts), 1)
    return tuple(count / num_values for count in histogram.counts)


def _means(statistics: Statistics) -> Table:
    rows = []
    for split in SPLITS:
        words = statistics.words[split]
        cells = [f"{words[part].mean:,.1f}" if sum(words[part].counts) else "none" for part in _PART_NAMES]
        cells += [f"{words['text'].largest:,.0f}", f"{statistics.quality[split].mean:.2f}"]
        if sum(words["text"].counts):
            rows.append((_SPLIT_NAMES[split], *cells))
    columns = ("split", "title", "ingredients", "steps", "whole recipe", "longest recipe", "quality")
    return Table(columns, tuple(rows), title="Words on average", note="Quality is a score between 0 and 1.")


def _vocabulary(cache: CacheCard) -> Section:
    columns = ("split", "recipes", "tokens", "unknown tokens", "prompts cut", "recipes cut", "not given back exactly")
    rows = tuple(_token_row(split, cache.splits[split]) for split in SPLITS)
    about = (
        "What the model's tokenizer makes of the recipes. An unknown token stands for text that the vocabulary cannot "
        f"express. Prompts are cut at {cache.identity['max_source_tokens']} tokens and recipes at "
        f"{cache.identity['max_target_tokens']}. A recipe is given back exactly if decoding its tokens, before any "
        "cut, makes the same text again."
    )
    blocks: list[Block] = [Table(columns, rows)]
    causes = cache.splits["train"].inexact_causes
    if causes:
        shown = tuple((describe_cause(one), _outcome(one), count_text(one.count)) for one in causes)
        title = "What does not come back from the training recipes"
        blocks.append(Table(("character", "becomes", "times"), shown, 2, title))
    return Section("Vocabulary", about, tuple(blocks))


def _token_row(split: Split, card: SplitCard) -> tuple[str, ...]:
    fractions = (
        card.unknown_token_fraction,
        card.truncated_source_fraction,
        card.truncated_target_fraction,
        card.inexact_target_fraction,
    )
    counts = (card.num_examples, card.num_source_tokens + card.num_target_tokens)
    return (_SPLIT_NAMES[split], *map(count_text, counts), *map(share_text, fractions))


def describe_cause(cause: InexactCause) -> str:
    """Returns what a text does not survive by: `½ (vulgar fraction one half)`."""
    if cause.becomes is None:
        return cause.what
    name = unicodedata.name(cause.what, f"U+{ord(cause.what):04X}").lower()
    return f"{cause.what} ({name})" if cause.what.isprintable() else name


def _outcome(cause: InexactCause) -> str:
    if cause.becomes is None:
        return ""
    return in_one_line(cause.becomes) if cause.becomes.strip() else "nothing"


def _examples(statistics: Statistics) -> Section:
    about = "Training recipes that a hash of the title chose, so nobody did. They are as the model learns them."
    return Section("Examples", about, (Cards(tuple(map(_example, statistics.examples))),))


def _example(record: StoredRecord) -> Card:
    notes = [f"quality {record.quality_score:.2f}"] if record.quality_score is not None else []
    notes += [in_one_line(record.source)] if record.source else []
    if record.output is not None:
        lists: tuple[tuple[str, ...], ...] = (_cut((record.input or "", *record.output.split("\n"))),)
    else:
        lists = (_cut(record.ingredients), _cut(record.instructions))
    return Card(in_one_line(title_of(record.content)), ", ".join(notes), lists)


def _cut(lines: tuple[str, ...]) -> tuple[str, ...]:
    shown = [in_one_line(line, _MAX_LINE_CHARACTERS) for line in lines[:_MAX_LINES] if line]
    return (*shown, f"... and {len(lines) - _MAX_LINES} more lines") if len(lines) > _MAX_LINES else tuple(shown)


def _origin(data: PreparedData, cache: CacheCard) -> Section:
    about = (
        "The same files with the same settings give the same fingerprint on every machine; runs with the same data "
        "fingerprint were trained and measured on the same recipes."
    )
    columns = ("setting", "value", "meaning")
    return Section("How it was made", about, (Table(columns, tuple(_settings(data, cache)), num_texts=3),))


def _settings(data: PreparedData, cache: CacheCard) -> list[tuple[str, str, str]]:
    """Name, value and meaning of everything that decided the splits and their tokens."""
    found = [("data fingerprint", data.data_fingerprint, "hash of the three splits")]
    found.append(("tokens", cache.fingerprint, "hash of the splits, the prompts, the limits and the tokenizer"))
    identity = {**(data.card.identity if data.card else {}), **cache.identity}
    for name, value in identity.items():
        meaning = DataConfig.documentation().get(name)
        # The templates themselves stand there under the name of the setting that weighs them.
        if meaning is not None and name != "prompts":
            shown = "null" if value is None else str(value)
            found.append((f"data.{name}", in_one_line(shown), " ".join(meaning.split()).replace("`", "")))
    prompts = cache.identity.get("prompts")
    if isinstance(prompts, list):
        found += [("prompt", in_one_line(prompt), "what the model is asked") for prompt in prompts]
    if held_out := cache.identity.get("held_out_prompt"):
        found.append(("held-out prompt", in_one_line(str(held_out)), "what it is asked where it is measured"))
    return found
