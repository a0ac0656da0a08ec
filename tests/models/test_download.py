"""Models of the hub, from a server on this machine that answers as the hub does, and breaks off where it is told to."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.server
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from recipe_exp.__main__ import main
from recipe_exp.config.model import ModelShape
from recipe_exp.errors import ModelError
from recipe_exp.models import load
from recipe_exp.models.download import fetch_model, find_commit, find_model

NAME, COMMIT = "someone/tiny-t5", "0123456789abcdef0123456789abcdef01234567"
DIMENSIONS = {
    "vocab_size": 600,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 3,
}
MODEL = [f"model.name={NAME}", "model.pretrained=true", *(f"model.shape.{k}={v}" for k, v in DIMENSIONS.items())]
PREPARE = ["task=prepare", "task.model=true", *MODEL, "data.max_examples=60", "hardware=cpu"]
Command = Callable[..., "CompletedProcess[str]"]


class Hub(http.server.ThreadingHTTPServer):
    """One model. Of a file in `num_bytes_left` it sends so many bytes in all, and then breaks off every connection."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = files
        self.refs = {"main": COMMIT, COMMIT: COMMIT, "v1": COMMIT}
        self.num_bytes_left: dict[str, int] = {}
        self.status: int | None = None
        self.asked: list[tuple[str, str, str]] = []

    @property
    def variables(self) -> dict[str, str]:
        return {"HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


class Answer(http.server.BaseHTTPRequestHandler):
    """What the hub says to a request for a file of a model."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(is_head=True)

    def do_GET(self) -> None:
        self.answer(is_head=False)

    def answer(self, *, is_head: bool) -> None:
        hub = self.server
        match = re.fullmatch(rf"/{NAME}/resolve/([^/]+)/(.+)", self.path)
        hub.asked.append((self.command, self.path, self.headers.get("Range", "")))
        if hub.status is not None or match is None or match[1] not in hub.refs or match[2] not in hub.files:
            self.refuse(match)
            return
        content = hub.files[match[2]]
        begin = int(re.findall(r"\d+", self.headers.get("Range", "0"))[0])
        num_bytes = min(len(content) - begin, hub.num_bytes_left.get(match[2], len(content)))
        self.send_response(206 if begin else 200)
        self.send_header("X-Repo-Commit", hub.refs[match[1]])
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not is_head:
            self.wfile.write(content[begin : begin + num_bytes])
            self.close_connection = num_bytes < len(content) - begin
            if match[2] in hub.num_bytes_left:
                hub.num_bytes_left[match[2]] -= num_bytes

    def refuse(self, match: re.Match[str] | None) -> None:
        code = "RepoNotFound" if match is None else "EntryNotFound"
        if match is not None and match[1] not in self.server.refs:
            code = "RevisionNotFound"
        status = self.server.status or 404
        self.send_response(status)
        if status != 400:
            self.send_header("X-Error-Code", "GatedRepo" if status == 403 else code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights, with the tokenizer that a T5 comes with."""
    from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
    from recipe_exp.data.tokens.vocabulary import train_unigram

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    load.export_model(load.from_shape(ModelShape(**DIMENSIONS), dtype=torch.float32), folder)
    tokenizer = train_unigram(["toast the bread and butter it"], DIMENSIONS["vocab_size"])
    RecipeTokenizer.from_tokenizer(tokenizer).save(folder)
    return folder


@pytest.fixture
def hub(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Hub({path.name: path.read_bytes() for path in model.iterdir()}) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def online(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has this process ask the server, since the hub's library looks at its environment once."""
    from huggingface_hub import constants

    endpoint = hub.variables["HF_ENDPOINT"]
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, for this process and for those that it starts."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


def cached(cache: Path, model: Path, *, commit: str = COMMIT, refs: tuple[str, ...] = ("main",)) -> Path:
    """Lays a model out as the hub's cache does."""
    place = cache / f"models--{NAME.replace('/', '--')}"
    snapshot = place / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (place / "blobs").mkdir(exist_ok=True)
    for path in model.iterdir():
        blob = place / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copyfile(path, blob)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    (place / "refs").mkdir(exist_ok=True)
    for ref in refs:
        (place / "refs" / ref).write_text(commit)
    return snapshot


def error_of(done: CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    return only_error(done.stderr)


def only_error(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in text
    return line


@pytest.mark.long
def test_preparing_fetches_the_model_for_a_machine_without_a_network(
    hub: Hub, home: Path, recipe_exp: Command, small_run: list[str]
) -> None:
    done = recipe_exp(PREPARE, **hub.variables)
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"fetching {NAME} from the hub\n"
    snapshot = home / f"models--{NAME.replace('/', '--')}" / "snapshots" / COMMIT
    assert f"model {snapshot}" in done.stdout
    assert (snapshot / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    run = [item for item in small_run if not item.startswith("model.")]
    trained = recipe_exp([*run, *MODEL, "training.max_steps=3", "evaluation.every_n_steps=null"])
    assert trained.returncode == 0, trained.stderr
    assert "fetching" not in trained.stderr


@pytest.mark.long
def test_a_download_that_broke_off_goes_on_in_another_process(
    hub: Hub, home: Path, tmp_path: Path, recipe_exp: Command
) -> None:
    # The hub's library writes pieces of 10 MB.
    wide = {**DIMENSIONS, "d_ff": 40_000}
    load.export_model(load.from_shape(ModelShape(**wide), dtype=torch.float32), tmp_path / "wide")
    content = (tmp_path / "wide" / "model.safetensors").read_bytes()
    hub.files |= {name: (tmp_path / "wide" / name).read_bytes() for name in ("config.json", "model.safetensors")}
    hub.num_bytes_left = {"model.safetensors": len(content) * 2 // 3}
    command = [*PREPARE, "model.shape.d_ff=40000"]
    line = error_of(recipe_exp(command, **hub.variables))
    assert re.match(rf"error: model\.name={NAME}: the download broke off \(.+\); repeat the command", line)
    hub.num_bytes_left = {}
    hub.asked.clear()
    assert recipe_exp(command, **hub.variables).returncode == 0
    ranges = [where for kind, path, where in hub.asked if kind == "GET" and path.endswith("/model.safetensors")]
    assert ranges == ["bytes=10485760-"]
    (snapshot,) = home.glob("models--*/snapshots/*")
    assert (snapshot / "model.safetensors").read_bytes() == content
    assert not list(home.rglob("*.part"))


@pytest.mark.usefixtures("online", "home")
def test_what_arrives_damaged_is_removed(hub: Hub, home: Path) -> None:
    fetch_model(NAME)
    (blob,) = {path.resolve() for path in home.glob("models--*/snapshots/*/model.safetensors")}
    content = blob.read_bytes()
    shutil.rmtree(home)
    blob.parent.mkdir(parents=True)
    blob.with_name(f"{blob.name}.part").write_bytes(b"other" + content[5:100])
    with pytest.raises(ModelError, match="is not what the hub has, and was removed"):
        fetch_model(NAME)
    assert not list(home.rglob("*.part"))
    assert (fetch_model(NAME) / "model.safetensors").read_bytes() == content


@pytest.mark.usefixtures("online", "home")
def test_shards_are_fetched_and_all_of_one_commit(hub: Hub, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    names = sorted(weights)
    parts = {"one-1.safetensors": names[::2], "two-2.safetensors": names[1::2]}
    del hub.files["model.safetensors"]
    for file, some in parts.items():
        save_file({name: weights[name] for name in some}, model.parent / file, metadata={"format": "pt"})
        hub.files[file] = (model.parent / file).read_bytes()
    listed = {name: file for file, some in parts.items() for name in some}
    hub.files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": listed}).encode()
    assert load.load_pretrained(NAME, dtype=torch.float32).config.d_model == DIMENSIONS["d_model"]
    fetched = {path for kind, path, _ in hub.asked if kind == "GET" and path.endswith(".safetensors")}
    assert fetched == {f"/{NAME}/resolve/{COMMIT}/{file}" for file in parts}
    folder = find_model(NAME)
    assert folder is not None
    (folder / "two-2.safetensors").unlink()
    assert find_model(NAME) is None


@pytest.mark.usefixtures("online", "home")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "someone/else"}, "the hub has no such model, or it is private and HF_TOKEN is not set"),
        ({"revision": "v2"}, f"model.revision=v2: {NAME} has no such branch, tag or commit"),
        ({"status": 403}, "only those load it who were granted it"),
        ({"status": 400}, "the download broke off"),
        ({"file": "pytorch_model.bin"}, "pytorch_model.bin is a pickle, which may execute anything"),
        ({"file": "tf_model.h5"}, "holds no model.safetensors"),
    ],
    ids=["unknown", "revision", "gated", "server", "pickle", "nothing"],
)
def test_what_the_hub_does_not_have_is_one_line(
    hub: Hub, capfd: pytest.CaptureFixture[str], change: dict[str, Any], said: str
) -> None:
    hub.status = change.get("status")
    if "file" in change:
        hub.files[change["file"]] = hub.files.pop("model.safetensors")
    overrides = [f"model.{key}={value}" for key, value in change.items() if key in ("name", "revision")]
    assert main([*PREPARE, *overrides]) == 2
    assert said in only_error(capfd.readouterr().err)


def test_a_terminal_is_shown_how_far_a_download_is(hub: Hub, home: Path) -> None:
    shown = on_a_terminal(
        ["-c", f"from recipe_exp.models.download import fetch_model; fetch_model('{NAME}')"], hub.variables
    )
    assert f"fetching {NAME} from the hub" in shown
    assert "model.safetensors: 100%" in shown


def on_a_terminal(arguments: list[str], variables: dict[str, str]) -> str:
    """Returns what a Python process shows on a terminal."""
    main_end, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, *arguments], env={**os.environ, **variables}, stdin=its_end, stdout=its_end, stderr=its_end
    )
    os.close(its_end)
    shown = b""
    with contextlib.suppress(OSError):  # the kernel's way to say that it is closed
        while piece := os.read(main_end, 4096):
            shown += piece
    os.close(main_end)
    assert process.wait(60) == 0
    return shown.decode()


def test_the_commit_is_that_of_the_cache(home: Path, model: Path) -> None:
    other = "f" * 40
    cached(home, model, refs=("main", "v1"))
    cached(home, model, commit=other, refs=("v2",))
    assert find_commit(NAME) == find_commit(NAME, "v1") == find_commit(NAME, COMMIT) == COMMIT
    assert find_commit(NAME, "v2") == other
    assert find_commit(NAME, "v3") is None
    assert find_commit("no name at all/of/any model") is None
    assert find_commit(str(model)) is None


@pytest.mark.long
def test_a_run_records_the_commit_of_its_model(
    home: Path, model: Path, recipe_exp: Command, small_run: list[str], tmp_path: Path
) -> None:
    cached(home, model, refs=("main", "v1"))
    run = [item for item in small_run if not item.startswith("model.")]
    for more in ([], ["training=lora", "training.adapter.rank=2", "training.batch_size=16", "model.revision=v1"]):
        command = [*run, *MODEL, "training.max_steps=3", "evaluation.every_n_steps=2", *more, "output_dir=outputs"]
        done = recipe_exp(command)
        assert done.returncode == 0, done.stderr
        newest = max((tmp_path / "outputs" / "runs").iterdir())
        assert json.loads((newest / "run.json").read_text())["model_commit"] == COMMIT
        events = (newest / "journal.jsonl").read_text()
        assert f'"model.commit": "{COMMIT}"' in events or f'"model.commit":"{COMMIT}"' in events
    # The adapter names the commit, so that a branch that moves on takes no base away from it.
    adapter = json.loads((newest / "model" / "adapter_config.json").read_text())
    assert adapter["revision"] == COMMIT
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.usefixtures("home")
def test_a_cache_cut_off_is_refused_in_one_line(home: Path, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    snapshot = cached(home, model)
    blob = (snapshot / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-100])
    assert main(PREPARE) == 2
    assert "cut off, or no safetensors file" in only_error(capfd.readouterr().err)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (PREPARE, "not in the hub's cache, and the hub cannot be reached"),
        (PREPARE[2:], "not in the hub's cache, and the hub cannot be reached"),
        ([*PREPARE, "model.pretrained=false"], "nothing to fetch"),
        ([*PREPARE, "prepare.model=true"], "here it is task.model"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(capfd: pytest.CaptureFixture[str], command: list[str], said: str) -> None:
    assert main(command) == 2
    assert said in only_error(capfd.readouterr().err)
