"""Both sides of notifications, and real runs that notify a web server of the test."""

from __future__ import annotations

import contextlib
import email.policy
import json
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from recipe_exp.errors import ConfigError
from recipe_exp.tracking import Message, Notifier, Progress, notices

SECRET = "b8f3c5d1e7a94402"
Command = Callable[..., "subprocess.CompletedProcess[str]"]


class Endpoint:
    """A web server that takes messages as apprise's `json://` sends them; `hangs` for ever if told so."""

    def __init__(self) -> None:
        self.messages: list[dict[str, str]] = []
        self.hangs = False
        self.answer = b""
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if endpoint.hangs:
                    time.sleep(600)
                endpoint.messages.append({"path": self.path, **body})
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):  # a run that was killed reads no answer
                    self.wfile.write(endpoint.answer)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.address = f"json://127.0.0.1:{self.port}/{SECRET}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.messages]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class MailServer(socketserver.ThreadingTCPServer):
    """Takes mail as SMTP hands it over, and keeps what was written between `DATA` and the dot."""

    daemon_threads = True

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        super().__init__(("127.0.0.1", 0), MailHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class MailHandler(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        self.wfile.write(b"220 post\r\n")
        while line := self.rfile.readline().strip().upper():
            if line == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                content = b"".join(iter(self.rfile.readline, b".\r\n"))
                mail = email.message_from_bytes(content, policy=email.policy.default)
                assert isinstance(mail, EmailMessage)
                self.server.mails.append(mail)
            self.wfile.write(b"221 bye\r\n" if line == b"QUIT" else b"250 thanks\r\n")


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server
        server.shutdown()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    yield server
    server.close()


@pytest.fixture
def refused() -> Iterator[str]:
    """An address that nothing listens at, nor will: its port is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"json://127.0.0.1:{taken.getsockname()[1]}/{SECRET}"


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_messages_arrive_in_order_and_whole(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", endpoint.address)
    warnings: list[str] = []
    notifier = Notifier(["HOOK"], warnings.append)
    notifier.send(Message("first ✓", "two\nlines <b>", "success"))
    notifier.send(Message("no text", ""))
    notifier.send(Message("second", "crème \x00\x1b[31m brûlée " + "x" * 5_000, "failure"))
    notifier.close()
    assert warnings == []
    first, bare, second = endpoint.messages
    assert (bare["title"], bare["message"]) == ("", "no text")
    assert (first["title"], first["message"], first["type"]) == ("first ✓", "two\nlines <b>", "success")
    assert second["type"] == "failure"
    assert second["message"].startswith("crème")
    assert "\x1b" not in second["message"]
    assert len(second["message"]) == 700
    assert first["path"] == f"/{SECRET}"


def test_dead_addresses_cost_two_seconds_and_one_warning(
    endpoint: Endpoint, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = Endpoint()
    endpoint.hangs = True
    for name, address in (("HUNG", endpoint.address), ("REFUSED", refused), ("LIVE", live.address)):
        monkeypatch.setenv(name, address)
    warnings: list[str] = []
    notifier = Notifier(["HUNG", "REFUSED", "LIVE"], warnings.append)
    for number in range(3):
        notifier.send(Message(f"message {number}", "text"))
    wait_for(lambda: bool(warnings), 20)
    started = time.monotonic()
    notifier.close()
    assert time.monotonic() - started < 2.5
    assert live.titles == ["message 0", "message 1", "message 2"]
    assert warnings == ["warning: the address in REFUSED took no message; the run goes on, and this is said once"]
    live.close()


def test_a_hung_address_alone_is_waited_for_two_seconds_and_said_once(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.hangs = True
    monkeypatch.setenv("HOOK", endpoint.address)
    notifier = Notifier(["HOOK"], lambda line: print(line, file=sys.stderr))
    notifier.send(Message("one", "text"))
    notifier.send(Message("two", "text"))
    started = time.monotonic()
    notifier.close()
    assert 1.9 < time.monotonic() - started < 3
    expected = "warning: an address of tracking.notify does not answer; the run goes on, and this is said once\n"
    assert capsys.readouterr().err == expected


def test_mail_arrives(mail_server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    host, port = mail_server.server_address[:2]
    monkeypatch.setenv("MAIL", f"mailto://{host!s}:{port}/?mode=insecure&from=oven@example.com&to=cook@example.com")
    warnings: list[str] = []
    notifier = Notifier(["MAIL"], warnings.append)
    notifier.send(Message("toast finished", "best eval/loss 1.2\ncrème brûlée", "success"))
    notifier.close()
    assert warnings == []
    (mail,) = mail_server.mails
    assert (mail["Subject"], mail["To"]) == ("toast finished", "cook@example.com")
    assert "oven@example.com" in mail["From"]
    body = mail.get_body(("plain", "html"))
    assert body is not None
    assert "crème brûlée" in body.get_content()


def test_a_text_message_arrives_at_a_gateway(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint.answer = b'{"result": {"message_id": 1, "status": "ok"}}'
    monkeypatch.setenv("SMS", f"smseagle://{SECRET}@127.0.0.1:{endpoint.port}/15551234567")
    warnings: list[str] = []
    notifier = Notifier(["SMS"], warnings.append)
    notifier.send(Message("toast finished", "best eval/loss 1.2", "success"))
    notifier.close()
    assert warnings == []
    (message,) = endpoint.messages
    assert "15551234567" in str(message)
    assert "toast finished" in str(message)
    assert "best eval/loss 1.2" in str(message)


def test_services_for_text_messages_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMS", f"twilio://AC{SECRET * 2}:{SECRET * 2}@15551234567/15557654321")
    Notifier(["SMS"], print).close()


def test_nothing_that_is_sent_waits_for_the_process_that_sends(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", endpoint.address)
    warnings: list[str] = []
    notifier = Notifier(["HOOK"], warnings.append)
    os.kill(notifier.process_id, signal.SIGSTOP)
    try:
        started = time.monotonic()
        for number in range(300):
            notifier.send(Message(f"message {number}", "x" * 600))
        assert time.monotonic() - started < 20
    finally:
        os.kill(notifier.process_id, signal.SIGKILL)
    notifier.close()
    assert len(warnings) == 1


def test_last_words_are_said_when_training_is_killed(endpoint: Endpoint) -> None:
    code = (
        "import sys, time\nfrom recipe_exp.tracking import Message, Notifier\n"
        "notifier = Notifier(['HOOK'], print)\nnotifier.leave_last_words(Message('killed', 'text'))\n"
        "notifier.send(Message('hello', 'text'))\nprint('ready', flush=True)\n"
        "if sys.argv[1] == 'closed':\n    notifier.close()\nelse:\n    time.sleep(60)\n"
    )
    environment = {**os.environ, "HOOK": endpoint.address}
    for how in ("killed", "closed"):
        process = subprocess.Popen([sys.executable, "-c", code, how], env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        if how == "killed":
            wait_for(lambda: endpoint.titles == ["hello"])
            process.kill()
        process.wait()
    wait_for(lambda: endpoint.titles.count("hello") == 2)
    time.sleep(0.5)
    assert sorted(endpoint.titles) == ["hello", "hello", "killed"]


@pytest.mark.parametrize("address", ["nonsense", "unknown://host/path", f"discord://{SECRET}", "json://", "  "])
def test_what_apprise_does_not_know_is_one_line_without_the_address(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", address)
    with pytest.raises(ConfigError, match="HOOK") as caught:
        Notifier(["HOOK"], print)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "nonsense" not in str(caught.value)


def test_webhooks_are_taken_as_they_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    discord = f"https://discord.com/api/webhooks/1234567890123456789/{SECRET * 4}abcd"
    slack = "https://hooks.slack.com/services/T12345678/B12345678/" + "A1b2C3d4" * 3
    monkeypatch.setenv("DISCORD", discord)
    monkeypatch.setenv("SLACK", slack)
    Notifier(["DISCORD", "SLACK"], print).close()


def write_callback(folder: Path, body: str) -> None:
    (folder / "trouble.py").write_text(
        "import os, signal\nfrom recipe_exp import Callback\n"
        f"class Trouble(Callback):\n    def on_step_end(self, trainer, result):\n        {body}\n"
    )


def holds_secret(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]


@pytest.mark.slow
def test_a_run_says_start_best_progress_and_end(
    endpoint: Endpoint, refused: str, small_run: list[str], recipe_exp: Command, tmp_path: Path
) -> None:
    overrides = [*small_run, "tracking=mlflow", "run_name=toast", "tracking.notify=[LIVE,DEAD]"]
    done = recipe_exp([*overrides, "tracking.notify_every_minutes=0.0001"], LIVE=endpoint.address, DEAD=refused)
    assert done.returncode == 0, done.stderr
    titles = endpoint.titles
    assert titles[0] == "toast started"
    assert "toast: new best at step 4 of 8" in titles
    assert any(title.startswith("toast at step 6 of 8, about ") for title in titles)
    assert titles[-1].startswith("toast finished after 8 steps in ")
    best = next(message for message in endpoint.messages if "new best" in message["title"])
    assert best["message"].startswith("eval/loss ")
    assert "> Write a recipe for" in best["message"]
    progress = next(message for message in endpoint.messages if "at step 6" in message["title"])
    assert progress["message"].startswith("train/loss ")
    assert "eval: loss " in progress["message"]
    # What the model made of the first prompt when it was tried last, which a small one may leave empty.
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    entries = map(json.loads, (run / "samples.jsonl").read_text(encoding="utf-8").splitlines())
    (tried,) = [entry["samples"][0] for entry in entries if entry["step"] == 4]
    told = progress["message"].partition("\n\n")[2]
    sample = (tried["prompt"], tried["generated"])
    assert (
        told == notices.going_on("toast", Progress(6, 8), None, {"train/loss": 1.0}, sample).body.partition("\n\n")[2]
    )
    assert told.splitlines()[0].startswith("> Write a recipe for")
    assert done.stderr.count("warning: the address in DEAD took no message") == 1
    assert SECRET not in done.stdout + done.stderr
    assert holds_secret(tmp_path) == []


@pytest.mark.slow
def test_a_run_that_fails_says_why_and_a_hung_address_costs_two_seconds(
    endpoint: Endpoint, small_run: list[str], recipe_exp: Command, tmp_path: Path
) -> None:
    write_callback(tmp_path, "if result.step == 5: raise RuntimeError('the oven is cold')")
    hung = Endpoint()
    hung.hangs = True
    arguments = [*small_run, "run_name=toast", "training.callbacks=[trouble:Trouble]"]
    done = recipe_exp(
        [*arguments, "tracking.notify=[LIVE,HUNG]"], LIVE=endpoint.address, HUNG=hung.address, PYTHONFAULTHANDLER="1"
    )
    assert done.returncode == 1
    assert endpoint.titles[0] == "toast started"
    assert endpoint.titles[-1] == "toast failed at step 5 of 8"
    assert endpoint.messages[-1]["message"].startswith("RuntimeError: the oven is cold\nonce mended, continue with")
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    logged = [json.loads(line)["time"] for line in (run / "journal.jsonl").read_text().splitlines()]
    assert time.time() - logged[-1] < 15
    # Which of the two it is depends on whether the run outlives the patience of the service's own client.
    silence = r"warning: (the address in HUNG took no message|an address of tracking\.notify does not answer); the run"
    assert len(re.findall(silence, done.stderr)) == 1
    assert SECRET not in done.stdout + done.stderr
    assert holds_secret(tmp_path) == []
    hung.close()


@pytest.mark.slow
def test_of_a_run_that_is_killed_it_is_said_that_it_ended_without_a_word(
    endpoint: Endpoint, small_run: list[str], recipe_exp: Command, tmp_path: Path
) -> None:
    write_callback(tmp_path, "if result.step == 5: os.kill(os.getpid(), signal.SIGKILL)")
    arguments = [*small_run, "run_name=toast", "training.callbacks=[trouble:Trouble]", "tracking.notify=[LIVE]"]
    done = recipe_exp(arguments, LIVE=endpoint.address)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    wait_for(lambda: "toast ended without a word" in endpoint.titles)
    assert endpoint.titles[0] == "toast started"
    assert endpoint.titles.count("toast ended without a word") == 1
    assert "python -m recipe_exp resume=" in endpoint.messages[-1]["message"]


@pytest.mark.long
def test_a_run_that_stalls_says_so(
    endpoint: Endpoint, small_run: list[str], recipe_exp: Command, tmp_path: Path
) -> None:
    write_callback(tmp_path, "if result.step == 5: import time; time.sleep(120)")
    arguments = [*small_run, "run_name=toast", "training.callbacks=[trouble:Trouble]", "tracking.notify=[LIVE]"]
    done = recipe_exp([*arguments, "hardware.stall_timeout_minutes=0.1"], LIVE=endpoint.address)
    assert done.returncode == 75, done.stdout + done.stderr
    wait_for(lambda: len(endpoint.messages) > 2)
    assert endpoint.titles[-1].startswith("toast interrupted by the stall watchdog at step ")
    assert "toast ended without a word" not in endpoint.titles


@pytest.mark.long
def test_two_processes_speak_with_one_voice_and_a_signal_is_said(
    endpoint: Endpoint, small_run: list[str], tmp_path: Path
) -> None:
    write_callback(tmp_path, "if result.step == 5: os.kill(os.getpid(), signal.SIGTERM)")
    arguments = [*small_run, "run_name=toast", "training.callbacks=[trouble:Trouble]", "tracking.notify=[LIVE]"]
    done = subprocess.run(
        [sys.executable, "-m", "recipe_exp", *arguments, "hardware.num_processes=2"],
        cwd=tmp_path,
        env={**os.environ, "LIVE": endpoint.address},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 143, done.stdout + done.stderr
    assert endpoint.titles.count("toast started") == 1
    interrupted = [title for title in endpoint.titles if title.startswith("toast interrupted")]
    assert interrupted == ["toast interrupted because the machine was taken away at step 5 of 8"]
    assert "python -m recipe_exp resume=" in endpoint.messages[-1]["message"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"tracking.notify=[discord://1234/{SECRET}]", "environment"),
        (f"tracking.notify=[https://example.com/hook/{SECRET}]", "must be names of environment variables"),
        (f"tracking.notify=https://example.com/{SECRET}", "must be a list"),
        (f"+tracking.notify=[json://host/{SECRET}]", "the key exists"),
        ("tracking.notify=[NOT_SET_ANYWHERE]", "no environment variable NOT_SET_ANYWHERE"),
        ("tracking.notify=[EMPTY]", "no environment variable EMPTY"),
    ],
)
def test_addresses_are_refused_in_one_line_before_anything_is_written(
    override: str, message: str, small_run: list[str], recipe_exp: Command, tmp_path: Path
) -> None:
    done = recipe_exp([*small_run, override], EMPTY="")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert not (tmp_path / "outputs").exists()


def test_the_training_process_loads_no_apprise() -> None:
    code = "import recipe_exp.tracking, sys; sys.exit('apprise' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_process_is_left_behind(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", endpoint.address)
    notifier = Notifier(["HOOK"], print)
    notifier.close()
    wait_for(
        lambda: (
            not psutil.pid_exists(notifier.process_id)
            or psutil.Process(notifier.process_id).status() == psutil.STATUS_ZOMBIE
        )
    )
