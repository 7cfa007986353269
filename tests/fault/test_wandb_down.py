"""A W&B server, as far as a run needs one, that goes away: the run does not."""

import contextlib
import gzip
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lightning_cifar.run import wandb as ours

pytestmark = pytest.mark.fault
pytest.importorskip("wandb")


class Answer(BaseHTTPRequestHandler):
    """Takes whatever is sent, and makes the runs that are asked for."""

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        asked = json.loads(content) if self.path.endswith("/graphql") else {}
        if "createRunFiles" in asked.get("query", ""):
            host = f"http://127.0.0.1:{self.server.server_port}"
            files = [{"name": name, "uploadUrl": f"{host}/{name}"} for name in asked["variables"]["files"]]
            found = {"createRunFiles": {"runID": "cg==", "uploadHeaders": [], "files": files}}
        elif "upsertBucket" in asked.get("query", ""):
            project = {"id": "cA==", "name": "lightning-cifar", "entity": {"id": "ZQ==", "name": "me"}}
            self.server.runs.append(asked["variables"]["name"])
            run = {"id": "cg==", "name": asked["variables"]["name"], "displayName": "run", "config": "{}"}
            found = {"upsertBucket": {"inserted": True, "bucket": {**run, "historyLineCount": 0, "project": project}}}
        elif "query ArtifactType" in asked.get("query", ""):
            found = {"project": None}
        elif "viewer" in asked.get("query", ""):
            found = {"viewer": {"id": "dQ==", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        else:
            found = {}
        refused = [{"message": "no artifacts"}] if "CreateArtifact" in asked.get("query", "") else []
        self.reply({"data": found, "limits": {}} | ({"errors": refused} if refused else {}))
        if "file_stream" in self.path:
            self.server.heard.append(content)

    def do_GET(self) -> None:
        self.reply({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.reply({})

    def reply(self, answer: dict) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.heard, server.runs = [], []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def online(port: int) -> None:
    """In the child."""
    os.environ.update(WANDB_BASE_URL=f"http://127.0.0.1:{port}", WANDB_API_KEY="0" * 40)
    ours.FINISH_TIMEOUT = 3


def args(tiny: list[str], run_dir: object) -> list[object]:
    return ["fit", *tiny, "--trainer.max_epochs", 6, "--wandb", "online", "--run_dir", run_dir]


def logged(run_dir) -> bytes:
    (file,) = run_dir.glob("wandb/run-*/run-*.wandb")
    return file.read_bytes()


@pytest.mark.slow
def test_control(start, server, tiny, tmp_path):
    child = start(*args(tiny, tmp_path / "run"), prepare=partial(online, server.server_port))
    assert child.wait() == 0, child.output.read_text()
    assert b"val/accuracy" in b"".join(server.heard)
    assert "warning" not in child.output.read_text()
    # A test of its model adds to the same run.
    checkpoint = tmp_path / "run/checkpoints/best.ckpt"
    child = start("test", "--ckpt_path", checkpoint, "--wandb", prepare=partial(online, server.server_port))
    assert child.wait() == 0, child.output.read_text()
    assert "warning" not in child.output.read_text()
    assert len(set(server.runs)) == 1
    assert b"test/mistakes" in b"".join(server.heard)


@pytest.mark.slow
def test_down_while_it_trains(start, server, tiny, tmp_path, wait_for, survived):
    run_dir = tmp_path / "run"
    child = start(*args(tiny, run_dir), prepare=partial(online, server.server_port))
    wait_for(lambda: (run_dir / "checkpoints/last.ckpt").exists(), child)
    server.shutdown()
    server.server_close()
    began = time.monotonic()
    assert child.wait() == 0, child.output.read_text()
    assert time.monotonic() - began < 60
    assert logged(run_dir).count(b"val/accuracy") >= 6  # for `wandb sync`
    survived("W&B's server goes away", 1, lost_steps=0)


def wandb_core(child) -> int | None:
    """Wandb's own process, which sends."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, fields = status.read_text().split("(")[1].rsplit(")", 1)
            if name.startswith("wandb-core") and int(fields.split()[1]) == child.process.pid:
                return int(status.parent.name)
    return None


@pytest.mark.slow
def test_its_own_process_is_killed(start, server, tiny, tmp_path, wait_for, survived):
    run_dir = tmp_path / "run"
    child = start(*args(tiny, run_dir), prepare=partial(online, server.server_port))
    wait_for(lambda: (run_dir / "checkpoints/last.ckpt").exists(), child)
    os.kill(wandb_core(child), signal.SIGKILL)
    assert child.wait() == 0, child.output.read_text()
    output = child.output.read_text()
    assert output.count("warning: W&B failed, and is told no more of this run") == 1
    assert "\n  6/6 " in output
    survived("W&B's own process is killed", 1, lost_steps=0)
