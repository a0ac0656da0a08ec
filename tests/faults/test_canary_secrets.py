"""A secret given in every way that there is: refused before anything is written, or found nowhere afterwards."""

from __future__ import annotations

import base64
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from recipe_exp.__main__ import main

REPOSITORY = Path(__file__).resolve().parents[2]
CORE = "Zq7kCanary8xWv"
TOKEN = f"hf_{CORE}aB3dE5fG7h"
WEBHOOK = f"https://discord.com/api/webhooks/1234/{CORE}"
TRACES = (CORE, base64.b64encode(CORE.encode()).decode().rstrip("=")[1:-2])
"""What a secret is known by, however it is packed."""


def traces_in(content: bytes) -> bool:
    return any(trace.encode() in content for trace in TRACES)


# A literal on the command line

LITERALS = [
    f"run_name={TOKEN}",
    f"run_name='my run {WEBHOOK}'",
    f"description='use {TOKEN} for this'",
    f"description='HF_TOKEN={CORE}'",
    f"description='password: {CORE}'",
    f"description='Authorization: Bearer {CORE}'",
    f"description='-----BEGIN OPENSSH PRIVATE KEY----- {CORE}'",
    f"tags=[a,{TOKEN}]",
    f"tags=[api_key={CORE}]",
    f"tracking.uri=http://me:{CORE}@tracker:5000",
    f"tracking.uri=https://{CORE}@tracker",
    f"tracking.uri=postgresql://me:{CORE}/x@host/db",
    f"tracking.uri='https://tracker/?access_token={CORE}'",
    f"tracking.experiment={TOKEN}",
    f"tracking.notify=[{WEBHOOK}]",
    f"tracking.notify=[discord://1234/{CORE}]",
    f"data.path=s3://me:{CORE}@bucket/recipes",
    f"data.path=https://{CORE}@host/recipes.jsonl",
    f"data.path=/data/{TOKEN}/recipes.jsonl",
    f"data.cache_dir=/scratch/{TOKEN}",
    f"data.prompt='Cook {{title}} with {TOKEN}'",
    f"evaluation.validation_prompts=['title=Toast; ingredients={TOKEN}']",
    f"model.name=https://me:{CORE}@hub/model",
    f"model.name=https://{CORE}@hub/model",
    f"model.revision={TOKEN}",
    f"model.shape={{password: {CORE}}}",
    f"model={TOKEN}",
    f"output_dir=/tmp/{TOKEN}",
    f"resume={TOKEN}",
    f"training.callbacks=[{TOKEN}:Callback]",
    f"seed={TOKEN}",
    f"hub_token={CORE}",
    f"my.password={CORE}",
    f"nonsense={TOKEN}",
    f"+hub.token={CORE}",
    f"++tracking.password={CORE}",
    f"~{TOKEN}",
    f"+{TOKEN}=1",
    f"{TOKEN}",
    f"mlflow.api_key='{CORE}, and more'",
    f"my_secret={CORE} unquoted, (",
    f"task.prompts=[{TOKEN}]",
    f"seed=1,{TOKEN}",
    f"hydra.job.env_set.HF_TOKEN={CORE}",
    f"hydra.run.dir={TOKEN}",
    f"hydra.launcher.slots={TOKEN}",
    f"hydra/launcher={TOKEN}",
]
COMMANDS = [
    *([literal] for literal in LITERALS),
    ["-m", f"run_name=a,{TOKEN}"],
    ["-m", f"tags=[a],[{TOKEN}]"],
    ["-m", f"description=choice(a,{TOKEN})"],
    ["-m", "seed=1,2", f"tracking.uri=http://me:{CORE}@tracker:5000"],
    ["-m", f"hydra.launcher.slots={TOKEN}"],
    ["-m", f"hydra.sweeper.params={{password: {CORE}}}"],
    ["sweeps=learning_rate", f"run_name={TOKEN}"],
    ["--cfg", "job", f"run_name={TOKEN}"],
    ["--cfg", "all", f"+my.password={CORE}"],
    ["--cfg", "hydra", f"run_name={TOKEN}"],
    ["--cfg", TOKEN],
    ["--info", TOKEN],
    ["--info", "config", f"hydra.job.name={TOKEN}"],
    ["--package", TOKEN],
    [f"--config-dir={TOKEN}"],
    ["--config-name", TOKEN],
    [f"--hub-token={CORE}"],
    [f"--{TOKEN}"],
    ["--experimental-rerun", TOKEN],
    ["task=generate", f"task.output={TOKEN}"],
    ["task=generate", f"task.run={TOKEN}"],
    ["task=evaluate", f"task.run=http://me:{CORE}@host"],
    ["task=clean", f"task.runs=[{TOKEN}]"],
    ["task=prepare", f"data.path={TOKEN}"],
    ["task=doctor", f"model.name={TOKEN}"],
]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command).replace(CORE, "CORE"))
def test_a_literal_is_refused_and_not_repeated(
    empty: Path, capfd: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert main(command) == 2
    printed = "".join(capfd.readouterr())
    assert "error: " in printed
    assert not traces_in(printed.encode()), printed
    assert list(empty.rglob("*")) == []


# A file of the user's own configuration

FILES = {
    f"description: {TOKEN}": "holds a token",
    f"tags: [{WEBHOOK}]": "holds a webhook",
    f"tracking:\n  uri: http://me:{CORE}@tracker": "credentials in a URI",
    f"hub_token: {CORE}": "no such key",
    f"my:\n  password: {CORE}": "no such key",
    f"password: {CORE}\n  bad: [": "cannot be read as YAML",
    f"api_key: '{CORE}": "cannot be read as YAML",
    f"seed: {TOKEN}": "must be a whole number",
    f"defaults:\n  - model: {TOKEN}": "cannot be composed",
    f"description: ${{oc.env:CANARY_PASSWORD}}\nhub_token: {CORE}": "no such key",
}


@pytest.mark.parametrize(("content", "said"), FILES.items(), ids=lambda text: text.replace(CORE, "CORE"))
def test_a_file_is_refused_and_not_repeated(
    empty: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    content: str,
    said: str,
) -> None:
    path = tmp_path / "config" / "local" / "default.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"# @package _global_\n{content}\n")
    monkeypatch.setenv("RECIPE_EXP_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("CANARY_PASSWORD", f"{CORE}!")
    assert main([]) == 2
    printed = "".join(capfd.readouterr())
    assert said in printed
    assert not traces_in(printed.encode()), printed
    assert list(empty.rglob("*")) == []


def test_a_secret_of_the_environment_is_refused_where_it_would_be_stored(
    empty: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_PASSWORD", CORE)
    for override in ("description=${oc.env:SOME_PASSWORD}", f"description='it is {CORE}'", f"run_name={CORE}"):
        assert main([override]) == 2
        printed = "".join(capfd.readouterr())
        assert "holds the value of SOME_PASSWORD" in printed
        assert not traces_in(printed.encode())


# Runs of a whole machine full of secrets

CALLBACK = """
import os, warnings
import recipe_exp

class Quiet(recipe_exp.Callback):
    pass

class Broken(recipe_exp.Callback):
    def on_step_end(self, trainer, result):
        if result.step == 2:
            try:
                raise ConnectionError(f"login with {os.environ['MLFLOW_TRACKING_PASSWORD']} was refused")
            except ConnectionError as error:
                raise RuntimeError(f"cannot reach {os.environ['DISCORD_WEBHOOK']}") from error
"""
CHANGES = f'''
HF_TOKEN = "{CORE}"
headers = {{"Authorization": "Bearer {CORE}"}}
database = "postgresql://me:{CORE}@host/db"
webhook = "{WEBHOOK}"
client = connect(password=b"{CORE}", token=SecretStr('{CORE}'))
key = """
-----BEGIN RSA PRIVATE KEY-----
{CORE}
-----END RSA PRIVATE KEY-----
"""
def login(name, password: str = "{CORE}"): ...
PASSWORD = (
    "{CORE}"
)
# curl --api-key {CORE} and {TOKEN}
'''


@dataclass
class Machine:
    """A folder to work in, a repository, data and an environment, each with secrets in it."""

    folder: Path
    environment: dict[str, str]
    printed: list[bytes] = field(default_factory=list)

    @property
    def output_dir(self) -> Path:
        return self.folder / "work" / "outputs"

    def run(self, *arguments: str, **variables: str) -> int:
        done = subprocess.run(
            [sys.executable, "-m", "recipe_exp", *arguments],
            cwd=self.folder / "work",
            env={**self.environment, **variables},
            capture_output=True,
            timeout=240,
            check=False,
        )
        self.printed += [done.stdout, done.stderr]
        return done.returncode

    def leaks(self) -> list[str]:
        """Every file under `outputs`, and every stream of a terminal, in which a secret stands."""
        files = [path for path in self.output_dir.rglob("*") if path.is_file()]
        assert len(files) > 10
        found = [str(path.relative_to(self.folder)) for path in files if traces_in(path.read_bytes())]
        found += [str(path) for path in self.output_dir.rglob("*") if traces_in(str(path.name).encode())]
        return found + [stream.decode(errors="replace") for stream in self.printed if traces_in(stream)]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    repository, work, data = tmp_path / "repository", tmp_path / "work", tmp_path / "data"
    for name in ("recipe_exp", "conf", "sweeps"):
        shutil.copytree(REPOSITORY / name, repository / name, ignore=shutil.ignore_patterns("__pycache__"))
    commit(repository)
    with (repository / "recipe_exp" / "metrics" / "vocabulary.py").open("a") as stream:
        stream.write("\n'''" + CHANGES.replace("'''", '"""') + "'''\n")
    (repository / f"{TOKEN}.txt").write_text(CORE)
    data.mkdir()
    records = [
        {"title": f"Toast {n}", "ingredients": [f"{n} slices of bread"], "instructions": ["Toast it."]}
        for n in range(80)
    ]
    lines = [json.dumps(record) for record in records]
    (data / f"{TOKEN}.jsonl").write_text("\n".join([*lines, "{", '{"title": "x"}']) + "\n")
    work.mkdir()
    (work / "mine.py").write_text(CALLBACK)
    (work / ".env").write_text(f"FILE_TOKEN={CORE}dotenv9\nHF_TOKEN={TOKEN}\n")
    local = tmp_path / "config" / "local"
    local.mkdir(parents=True)
    (local / "default.yaml").write_text(f"# @package _global_\n# password: {CORE}\ndata:\n  path: {data}\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(repository),
        "RECIPE_EXP_CONFIG_DIR": str(tmp_path / "config"),
        "MLFLOW_TRACKING_USERNAME": "me",
        "MLFLOW_TRACKING_PASSWORD": f"{CORE}!/9",
        "MLFLOW_TRACKING_URI": f"http://me:{CORE}-uri@tracker:5000",
        "DISCORD_WEBHOOK": WEBHOOK,
        "DATABASE_URL": f"postgresql://me:{CORE}-db@host/db",
        "AWS_SECRET_ACCESS_KEY": f"{CORE}/aws",
        "OMP_NUM_THREADS": "1",
    }
    return Machine(tmp_path, environment)


def commit(repository: Path) -> None:
    identity = ["-c", "user.name=Someone", "-c", "user.email=someone@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", *identity, "-C", str(repository), *arguments], check=True)


SMALL = (
    *("data=jsonl", "data.validation_fraction=0.1", "data.test_fraction=0.05", "data.max_rejected_fraction=0.5"),
    *("model.shape.d_model=16", "model.shape.d_ff=24", "model.shape.d_kv=4", "model.shape.vocab_size=400"),
    *("model.shape.num_layers=1", "model.shape.num_decoder_layers=1", "model.shape.num_heads=2"),
    *("training.batch_size=16", "training.max_steps=3", "training.warmup_steps=1", "training.log_every_n_steps=1"),
    *("evaluation.every_n_steps=3", "evaluation.max_examples=4", "evaluation.max_generated_examples=2"),
    *("evaluation.max_new_tokens=4", "hardware=cpu", "hardware.num_threads=1", "hardware.micro_batch_tokens=1024"),
    "training.callbacks=[mine:Quiet]",
)


def only_run(machine: Machine) -> dict[str, object]:
    (record,) = (json.loads(path.read_text()) for path in machine.output_dir.glob("runs/*/run.json"))
    assert isinstance(record, dict)
    return record


def test_a_run_that_fails_keeps_the_trace_and_not_the_secret(machine: Machine) -> None:
    assert machine.run(*SMALL, "training.callbacks=[mine:Broken]", "tracking=journal_only") == 1
    trace = machine.printed[1].decode()
    assert "ConnectionError: login with *** was refused" in trace
    assert "RuntimeError: cannot reach ***" in trace
    assert trace.count("Traceback") == 2
    record = only_run(machine)
    assert record["error"] == "RuntimeError: cannot reach ***"
    git = record["provenance"]["git"]  # type: ignore[index]
    assert git["dirty"]
    assert 'HF_TOKEN = "***"' in git["patch"]
    assert git["untracked"] == ["***.txt"]
    assert machine.leaks() == []


@pytest.mark.faults_full
def test_a_run_with_a_database_leaks_nothing(machine: Machine) -> None:
    assert machine.run(*SMALL, "tracking.uri=null") == 0
    assert (machine.output_dir / "mlflow.db").stat().st_size > 100_000
    assert machine.run("task=evaluate", "hardware=cpu") == 0
    assert machine.run("task=doctor", "hardware=cpu") == 0
    assert machine.run("task=clean") == 0
    assert machine.run("task=sync", "tracking.uri=null") == 0
    assert machine.leaks() == []


@pytest.mark.faults_full
def test_a_sweep_with_a_failing_trial_leaks_nothing(machine: Machine) -> None:
    swept = "training.callbacks=[mine:Quiet],[mine:Broken]"
    assert machine.run("-m", *SMALL[:-1], swept, "tracking=journal_only") == 1
    logs = list(machine.output_dir.glob("sweeps/*/trial-2.log"))
    assert len(logs) == 1
    assert "cannot reach ***" in logs[0].read_text()
    assert machine.leaks() == []


class EchoingServer(http.server.BaseHTTPRequestHandler):
    """Refuses everything and says what it was sent."""

    def refuse(self) -> None:
        sent = self.headers["Authorization"] or ""
        plain = base64.b64decode(sent.partition("Basic ")[2] or b"").decode()
        message = f"who are you? {plain} {sent} {quote(plain, safe='')}"
        content = json.dumps({"error_code": "PERMISSION_DENIED", "message": message}).encode()
        self.server.heard.append(plain)  # type: ignore[attr-defined]
        self.send_response(500 if self.path == "/health" else 403)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = refuse  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def echoing_server() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), EchoingServer) as server:
        server.heard = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.faults_full
def test_a_server_that_repeats_what_it_was_sent_leaks_nothing(
    machine: Machine, echoing_server: http.server.ThreadingHTTPServer
) -> None:
    uri = f"tracking.uri=http://127.0.0.1:{echoing_server.server_port}"
    machine.environment["DISCORD_WEBHOOK"] = f"json://me:{CORE}-n@127.0.0.1:{echoing_server.server_port}/"
    told = "tracking.notify=[DISCORD_WEBHOOK]"
    assert machine.run(*SMALL, uri, told, "tracking.flush_timeout_seconds=5") == 0
    assert machine.run("task=sync", uri) == 2
    assert machine.run("task=doctor", uri, "hardware=cpu") == 0
    assert {f"me:{CORE}!/9", f"me:{CORE}-n"} <= set(echoing_server.heard)  # type: ignore[attr-defined]
    (log,) = machine.output_dir.glob("runs/*/uploader.log")
    assert "who are you?" in log.read_text()
    assert machine.leaks() == []
