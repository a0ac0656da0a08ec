"""Training speed side by side: recipe_exp, Seq2SeqTrainer as it comes and at its best, and padding to 256/512.

    python benchmarks/train_throughput.py [--data FILE] [--model t5_mini] [--rounds 7] [--examples 128] [--json FILE]
    python benchmarks/train_throughput.py --prefix "nice -n 5" model.dropout=0

Each round samples recipes of its own, and every arm learns from them once: the same tokens, first weights (random, in
the model's shape: nothing is downloaded), batch size, learning rate, optimizer, seed, threads. Each arm is a process of
its own, and their order rotates by one from round to round.

The clock runs over all steps of one pass, from the first batch to the last update, with whatever makes a step: putting
batches together, forward, backward, clipping, AdamW. Imports, tokenizing, building the network and a first step on a
network that is thrown away are left out. A round in which other processes took more than `--max-foreign` of the machine
is repeated.

Arms: `ours`, what `python -m recipe_exp` does with the same configuration; `default`, Seq2SeqTrainer with the defaults
of transformers; `best`, Seq2SeqTrainer grouped by the length of source and target, in the precision, attention and
accumulation that a probe finds fastest here, its loss divided rightly; `padded`, Seq2SeqTrainer on recipes that were
padded to `data.max_source_tokens` and `data.max_target_tokens` beforehand.

Columns: medians over rounds; `ours / arm` is the median of the rounds' ratios of recipes a second, by the clock and by
CPU seconds; `of peak` is the arithmetic of the recipes without padding (encoder, decoder, cross-attention, head; three
times the forward pass) over that of the fastest matrix product of the model's sizes in fp32, measured before and after
the steps in the same process; `loss` is that of the round's recipes afterwards, without dropout, counted by the same
plain forward pass for all.

Words without dashes at the end are overrides for every arm.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from machine_load import ForeignLoad
from throughput_job import ARMS, BEST, CHOICES, TOKENIZER, Job, Measured, Settings

from recipe_exp.config.compose import compose
from recipe_exp.data.tokens.cache import TokenCache, build_or_open_cache

MIN_POOL = 1_000
MAX_ATTEMPTS = 4
PROBE_SECONDS, PROBE_TURNS = 10.0, 3
LOSS_TOLERANCE = 1e-5
ARM_SCRIPT = Path(__file__).resolve().with_name("throughput_arms.py")


@dataclass(frozen=True)
class Round:
    """What a round found.

    Attributes:
        arms: of each arm.
        foreign: share of the machine that others took; None where the system does not tell.
    """

    arms: dict[str, Measured]
    foreign: float | None


def main() -> None:
    """Prints the table; with `--round`, runs the arms of one round and prints what they measured."""
    options = parse()
    if options.round:
        print(json.dumps(asdict(run_arms(Job.read(Path(options.round))))))
        return
    with tempfile.TemporaryDirectory(prefix="train_throughput-") as folder:
        pool, job = prepare(options, Path(folder))
        if "best" in job.arms:
            job = replace(job, best=probe(job, pool, options))
        rounds: list[Round] = []
        for number in range(options.rounds):
            rounds.append(undisturbed_round(sampled(job, pool, number, options), options))
            check_first_losses(rounds)
            found = summary(rounds, options, job.best)
            if options.json:
                Path(options.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print("\n".join(table(found)))


def parse() -> argparse.Namespace:
    """Returns the command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="recipes in any format that data.path takes; the built-in ones without it")
    parser.add_argument("--model", default="t5_mini", help="of conf/model, with random weights in its shape")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--examples", type=int, default=128, help="recipes of a round")
    parser.add_argument("--batch-size", type=int, default=8, help="recipes of a step; 8 is Seq2SeqTrainer's default")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each arm")
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    parser.add_argument("--prefix", default="", help="a command that each round is run by, such as 'nice -n 5'")
    parser.add_argument("--max-foreign", type=float, default=0.03, help="share of the machine that others may take")
    parser.add_argument("--json", metavar="FILE", help="where to leave the figures, after each round")
    parser.add_argument("--round", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of every arm")
    return parser.parse_intermixed_args()


def prepare(options: argparse.Namespace, folder: Path) -> tuple[TokenCache, Job]:
    """Tokenizes all recipes, which teaches the tokenizer, and describes what every round has in common."""
    learning = (
        *(
            f"model={options.model}",
            "model.pretrained=false",
            "hardware=cpu",
            f"hardware.num_threads={options.threads}",
        ),
        *(f"training.batch_size={options.batch_size}", "training.num_epochs=1", "training.max_steps=null"),
        *("training/schedule=constant", "training.warmup_steps=0", *options.overrides),
    )
    data = ["data=sample"] if options.data is None else ["data=files", f"data.path={Path(options.data).absolute()}"]
    config = compose([*learning, *data])
    vocab_size = config.model.shape.vocab_size
    pool = build_or_open_cache(config.data, cache_dir=folder / "cache", tokenizer=None, vocab_size=vocab_size)
    num_recipes = len(pool.split("train"))
    if num_recipes < options.examples:
        raise SystemExit(f"--examples {options.examples}: there are {num_recipes} recipes")
    if num_recipes < MIN_POOL:
        print(f"rounds are sampled from {num_recipes:,} recipes; {MIN_POOL:,} or more tell more", flush=True)
    pool.tokenizer.save(folder / TOKENIZER)
    return pool, Job(str(folder), learning, "", tuple(options.arms), 0, options.threads)


def sampled(job: Job, pool: TokenCache, number: int, options: argparse.Namespace) -> Job:
    """Writes the recipes of a round as pairs, and returns its job."""
    examples = pool.examples("train")
    chosen = random.Random(f"{options.seed}|{number}").sample(range(len(examples)), options.examples)
    path = Path(job.folder) / f"round-{number}.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for index in sorted(chosen):
            pair = examples[index]
            stream.write(json.dumps({"input": pair.source_text, "output": pair.target_text}) + "\n")
    return replace(job, examples_file=str(path), order=number)


def probe(job: Job, pool: TokenCache, options: argparse.Namespace) -> Settings:
    """Returns the settings with which Seq2SeqTrainer is fastest here: each choice is tried beside the best so far.

    The two take turns, since a machine's clock may change from one process to the next.
    """
    job = replace(sampled(job, pool, -1, options), arms=("best",), max_seconds=PROBE_SECONDS)

    def rate(settings: Settings) -> float:
        return run_round(replace(job, best=settings), options).arms["best"].recipes_per_second

    best = BEST
    for choice in CHOICES:
        tried = replace(best, **choice)
        if options.batch_size % tried.accumulation == 0:
            pairs = [(rate(best), rate(tried)) for _ in range(PROBE_TURNS)]
            faster = median(new / old for old, new in pairs)
            rates = ", ".join(f"{new:.2f} to {old:.2f}" for old, new in pairs)
            print(f"probe: Seq2SeqTrainer with {tried} to {best}, recipes/s: {rates}", flush=True)
            best = tried if faster > 1.0 else best
    return best


def undisturbed_round(job: Job, options: argparse.Namespace) -> Round:
    """Runs a round, again where others disturbed it, and returns the least disturbed attempt."""
    attempts: list[Round] = []
    while True:
        attempts.append(run_round(job, options))
        foreign = attempts[-1].foreign
        rates = ", ".join(f"{arm} {found.recipes_per_second:.2f}" for arm, found in attempts[-1].arms.items())
        load = "" if foreign is None else f"; others took {foreign:.1%}"
        is_quiet = foreign is None or foreign <= options.max_foreign
        repeated = "" if is_quiet or len(attempts) == MAX_ATTEMPTS else ", repeated"
        print(f"round {job.order + 1}/{options.rounds}: {rates} recipes/s{load}{repeated}", flush=True)
        if not repeated:
            return attempts[-1] if is_quiet else min(attempts, key=lambda attempt: attempt.foreign or 0.0)


def run_round(job: Job, options: argparse.Namespace) -> Round:
    """Runs a round in a process of its own, behind the prefix."""
    path = job.write(Path(job.folder) / "job.json")
    command = [*shlex.split(options.prefix), sys.executable, __file__, "--round", str(path)]
    found = output_of(command, job.num_threads)
    return Round({arm: Measured(**measured) for arm, measured in found["arms"].items()}, found["foreign"])


def run_arms(job: Job) -> Round:
    """Runs each arm of a round in a process of its own, one after the other."""
    path, load = job.write(Path(job.folder) / "arm.json"), ForeignLoad()
    turn = job.order % len(job.arms)
    found = {}
    for arm in (*job.arms[turn:], *job.arms[:turn]):
        found[arm] = Measured(**output_of([sys.executable, str(ARM_SCRIPT), str(path), arm], job.num_threads))
    return Round({arm: found[arm] for arm in job.arms}, load.share())


def output_of(command: list[str], num_threads: int) -> Any:
    """Returns the JSON that a command prints last."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def check_first_losses(rounds: list[Round]) -> None:
    """Refuses a comparison of arms that did not begin with the same weights or did not see the same tokens."""
    for number, each in enumerate(rounds, start=1):
        arms = list(each.arms.values())
        losses = [arm.first_loss for arm in arms]
        if max(losses) - min(losses) > LOSS_TOLERANCE * min(losses) or len({arm.num_target_tokens for arm in arms}) > 1:
            raise SystemExit(f"round {number}: the arms began with losses {losses}; they are not comparable")


def summary(rounds: list[Round], options: argparse.Namespace, best: Settings) -> dict[str, Any]:
    """Returns every figure of the table as plain data; `ratios` are those of ours to the other arms."""

    def medians(figure: Callable[[Measured], float]) -> dict[str, float]:
        return {arm: median(figure(each.arms[arm]) for each in rounds) for arm in options.arms}

    def ratios(seconds: Callable[[Measured], float]) -> dict[str, list[float]]:
        if "ours" not in options.arms:
            return {}
        others = [arm for arm in options.arms if arm != "ours"]
        return {arm: [seconds(each.arms[arm]) / seconds(each.arms["ours"]) for each in rounds] for arm in others}

    peaks = [arm.peaks for each in rounds for arm in each.arms.values()]
    peak = {
        name: median(each[name] for each in peaks if name in each) for name in sorted({n for p in peaks for n in p})
    }
    wall = ratios(lambda arm: arm.wall_seconds)
    return {
        "ratios": {arm: median(values) for arm, values in wall.items()},
        "losses": medians(lambda arm: arm.loss),
        "ratio_ranges": {arm: [min(values), max(values)] for arm, values in wall.items()},
        "cpu_ratios": {arm: median(values) for arm, values in ratios(lambda arm: arm.cpu_seconds).items()},
        "recipes_per_second": medians(lambda arm: arm.recipes_per_second),
        "target_tokens_per_second": medians(lambda arm: arm.num_target_tokens / arm.wall_seconds),
        "wall_seconds": medians(lambda arm: arm.wall_seconds),
        "cpu_seconds": medians(lambda arm: arm.cpu_seconds),
        "share_of_fp32_peak": medians(lambda arm: arm.flops / arm.wall_seconds / arm.peaks["fp32"]),
        "share_of_own_peak": medians(lambda arm: arm.flops / arm.wall_seconds / arm.peaks[arm.precision]),
        "padding_share": medians(lambda arm: arm.padding_share),
        "precision": {arm: rounds[0].arms[arm].precision for arm in options.arms},
        "matrix_peak_gflops": {name: value / 1e9 for name, value in peak.items()},
        "first_loss": median(each.arms[options.arms[0]].first_loss for each in rounds),
        "best": asdict(best),
        "foreign": [each.foreign for each in rounds],
        "setting": {
            **{name: getattr(options, name) for name in ("model", "examples", "batch_size", "threads", "seed")},
            "rounds": len(rounds),
            "overrides": options.overrides,
            "machine": platform.machine(),
            "num_target_tokens": [each.arms[options.arms[0]].num_target_tokens for each in rounds],
        },
    }


def table(found: dict[str, Any]) -> list[str]:
    """Returns the lines of the table."""
    setting = found["setting"]
    peaks = ", ".join(f"{name} {value:,.0f}" for name, value in found["matrix_peak_gflops"].items())
    lines = [
        "",
        f"{setting['model']}, {setting['rounds']} rounds of {setting['examples']} recipes, "
        f"{setting['batch_size']} a step, {setting['threads']} threads; matrix peak in GFLOP/s: {peaks}",
        f"{'':<9}{'recipes/s':>10}{'tokens/s':>10}{'wall':>9}{'CPU':>9}{'ours / arm':>12}{'range':>14}{'CPU':>7}"
        f"{'of peak':>9}{'padding':>9}{'loss':>8}  in",
    ]
    for arm in found["losses"]:
        ratio = ""
        if arm in found["ratios"]:
            low, high = found["ratio_ranges"][arm]
            ratio = f"{found['ratios'][arm]:>12.2f}{f'{low:.2f}-{high:.2f}':>14}{found['cpu_ratios'][arm]:>7.2f}"
        lines.append(
            f"{arm:<9}{found['recipes_per_second'][arm]:>10.2f}{found['target_tokens_per_second'][arm]:>10,.0f}"
            f"{found['wall_seconds'][arm]:>7.1f} s{found['cpu_seconds'][arm]:>7.1f} s{ratio:>33}"
            f"{found['share_of_fp32_peak'][arm]:>9.1%}{found['padding_share'][arm]:>9.1%}{found['losses'][arm]:>8.4f}"
            f"  {found['precision'][arm]}"
        )
    return lines


if __name__ == "__main__":
    main()
