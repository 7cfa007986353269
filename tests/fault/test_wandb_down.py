"""Training continues when the W&B server or wandb's process goes away."""

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

from lightning_cifar.run.records import wandb as wandb_logging

pytestmark = pytest.mark.fault


class Handler(BaseHTTPRequestHandler):
    """A minimal W&B server: accepts all data and creates the requested runs."""

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        request = json.loads(content) if self.path.endswith("/graphql") else {}
        if "createRunFiles" in request.get("query", ""):
            host = f"http://127.0.0.1:{self.server.server_port}"
            files = [{"name": name, "uploadUrl": f"{host}/{name}"} for name in request["variables"]["files"]]
            found = {"createRunFiles": {"runID": "cg==", "uploadHeaders": [], "files": files}}
        elif "upsertBucket" in request.get("query", ""):
            project = {"id": "cA==", "name": "lightning-cifar", "entity": {"id": "ZQ==", "name": "me"}}
            self.server.runs.append(request["variables"]["name"])
            run = {"id": "cg==", "name": request["variables"]["name"], "displayName": "run", "config": "{}"}
            found = {"upsertBucket": {"inserted": True, "bucket": {**run, "historyLineCount": 0, "project": project}}}
        elif "query ArtifactType" in request.get("query", ""):
            found = {"project": None}
        elif "viewer" in request.get("query", ""):
            found = {"viewer": {"id": "dQ==", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        else:
            found = {}
        errors = [{"message": "no artifacts"}] if "CreateArtifact" in request.get("query", "") else []
        self.reply({"data": found, "limits": {}} | ({"errors": errors} if errors else {}))
        if "file_stream" in self.path:
            self.server.received.append(content)

    def do_GET(self) -> None:
        self.reply({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.reply({})

    def reply(self, data: dict) -> None:
        content = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.received, server.runs = [], []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def set_server(port: int) -> None:
    """In the child: use the test server."""
    os.environ.update(WANDB_BASE_URL=f"http://127.0.0.1:{port}", WANDB_API_KEY="0" * 40)
    wandb_logging.FINISH_TIMEOUT = 3


def make_args(tiny: list[str], run_dir: object) -> list[object]:
    often = ["--trainer.callbacks", "lightning_cifar.LastCheckpoint", "--trainer.callbacks.minutes", 0]
    return ["fit", *tiny, *often, "--trainer.max_epochs", 6, "--wandb", "online", "--run_dir", run_dir]


def read_log(run_dir) -> bytes:
    (file,) = run_dir.glob("wandb/run-*/run-*.wandb")
    return file.read_bytes()


@pytest.mark.long
def test_test_logs_to_the_run_of_its_model(start, server, tiny, tmp_path):
    child = start(*make_args(tiny, tmp_path / "run"), prepare=partial(set_server, server.server_port))
    assert child.wait() == 0, child.output.read_text()
    assert b"val/accuracy" in b"".join(server.received)
    assert "warning" not in child.output.read_text()
    checkpoint = tmp_path / "run/checkpoints/best.ckpt"
    child = start("test", "--ckpt_path", checkpoint, "--wandb", prepare=partial(set_server, server.server_port))
    assert child.wait() == 0, child.output.read_text()
    assert "warning" not in child.output.read_text()
    assert len(set(server.runs)) == 1
    assert b"test/mistakes" in b"".join(server.received)


@pytest.mark.long
def test_training_continues_when_the_server_goes_away(start, server, tiny, tmp_path, eventually, record_survival):
    run_dir = tmp_path / "run"
    child = start(*make_args(tiny, run_dir), prepare=partial(set_server, server.server_port))
    eventually((run_dir / "checkpoints/last.ckpt").exists, child)
    server.shutdown()
    server.server_close()
    began = time.monotonic()
    assert child.wait() == 0, child.output.read_text()
    assert time.monotonic() - began < 60
    assert read_log(run_dir).count(b"val/accuracy") >= 6  # for `wandb sync`
    record_survival("W&B's server goes away", 1, lost_steps=0)


def find_wandb_core(child) -> int | None:
    """Return the id of the process of wandb that uploads the data."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, fields = status.read_text().split("(")[1].rsplit(")", 1)
            if name.startswith("wandb-core") and int(fields.split()[1]) == child.process.pid:
                return int(status.parent.name)
    return None


@pytest.mark.long
def test_training_continues_when_the_process_of_wandb_is_killed(
    start, server, tiny, tmp_path, eventually, record_survival
):
    run_dir = tmp_path / "run"
    child = start(*make_args(tiny, run_dir), prepare=partial(set_server, server.server_port))
    eventually((run_dir / "checkpoints/last.ckpt").exists, child)
    os.kill(find_wandb_core(child), signal.SIGKILL)
    assert child.wait() == 0, child.output.read_text()
    output = child.output.read_text()
    assert output.count("warning: W&B failed and logs no more of this run") == 1
    assert "\n  6/6 " in output
    record_survival("W&B's process is killed", 1, lost_steps=0)
