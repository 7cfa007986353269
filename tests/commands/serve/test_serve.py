"""`serve` from the command line and in a browser."""

import json
import os
import shutil
import signal
import socket
import time
import urllib.request
from functools import partial

import pytest

from lightning_cifar import errors, load_pretrained, main
from lightning_cifar.evaluate.prediction import predict_files
from tests.children import Child, set_attributes


@pytest.fixture
def served(start, eventually) -> tuple[Child, str]:
    """A server that refuses no image for its time, and its address."""
    patient = partial(set_attributes, "lightning_cifar.commands.serve.decoder", SECONDS=1000)
    child = start("serve", "--ckpt_path", "pretrained", "--port", 0, prepare=patient)
    eventually(lambda: "\n" in child.output.read_text(), child)
    return child, child.output.read_text().split()[0]


@pytest.mark.parametrize(("end", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.slow
def test_it_answers_and_ends_in_order(served, end, status):
    child, address = served
    with urllib.request.urlopen(f"{address}/health", timeout=60) as answer:
        assert json.load(answer)["status"] == "ok"
    child.send(getattr(signal, end))
    assert child.wait() == status
    assert child.output.read_text() == f"{address}  (Ctrl-C stops it)\ninterrupted\n"


@pytest.mark.slow
def test_it_ends_while_an_image_is_decoded(served, slow_jpeg):
    child, address = served
    with socket.create_connection(address.removeprefix("http://").split(":")) as client:
        body = (
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="x.jpg"\r\n\r\n' + slow_jpeg + b"\r\n--x--"
        )
        head = f"POST /predict HTTP/1.1\r\nHost: {address.removeprefix('http://')}\r\nContent-Length: {len(body)}\r\n"
        client.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode() + body)
        time.sleep(2)
        child.send(signal.SIGTERM)
        ends = time.monotonic() + 60  # the image takes longer, most of all on a busy machine
        assert child.wait() == 143
        assert time.monotonic() < ends


@pytest.mark.slow
def test_it_ends_without_a_traceback_while_a_request_is_sent(start, eventually):
    child = start(
        "serve", "--port", 0, prepare=partial(set_attributes, "lightning_cifar.commands.serve.command", PATIENCE=1)
    )
    eventually(lambda: "\n" in child.output.read_text(), child)
    host = child.output.read_text().split()[0].removeprefix("http://")
    with socket.create_connection(host.split(":")) as client:
        head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000\r\n"
        client.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n".encode())
        time.sleep(1)
        child.send(signal.SIGINT)
        assert child.wait() == 130
    assert "Traceback" not in child.output.read_text()
    assert child.output.read_text().endswith("interrupted\n")


def test_a_port_in_use_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--ckpt_path", "pretrained", "--port", port]) == 2
    where = f"--host 127.0.0.1 --port {port}"
    assert (
        capsys.readouterr().err == f"error: {where}: Address already in use; set another --port, 0 for any free one\n"
    )


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--ckpt_path", "absent.ckpt", "--port", "0"], "--ckpt_path absent.ckpt: no such file"),
        (["--ckpt_path", "pretrained", "--port", "70000"], "--port must be in [0, 65535], got 70000"),
        (["--ckpt_path", "pretrained", "--port", "x"], "serve: argument --port: invalid int value: 'x'"),
        (
            ["--ckpt_path", "pretrained", "--host", "192.0.2.1"],
            "--host 192.0.2.1 --port 8000: Cannot assign requested address; set --host to an address",
        ),
        (["--ckpt_path", "pretrained", "--host", "\u00e4..b"], "--host \u00e4..b --port 8000: "),
        (["--ckpt_path", "pretrained", "--port", "0", "--device", "nonsense"], "--device nonsense: "),
    ],
)
def test_bad_input_is_one_line(capsys, args, words):
    assert main(["serve", *args]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {words}")


def test_the_missing_extra_is_named(capsys, monkeypatch):
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    assert main(["serve", "--ckpt_path", "pretrained"]) == 2
    assert capsys.readouterr().err == "error: serve needs the extra: pip install 'lightning-cifar[serve]'\n"


@pytest.mark.slow
def test_dropped_images_are_classified_in_a_browser(served, tmp_path, drawn_folder):
    """A picture is dropped, its class is seen; names are text; nothing comes from elsewhere."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or pytest.skip("there is no chromium")
    hostile = tmp_path / "<img src=x onerror=alert(1)>.jpg"
    shutil.copy(drawn_folder / "horse/0000.jpg", hostile)
    (tmp_path / "notes.png").write_text("no picture")
    asked: list[str] = []
    _, address = served
    with playwright.sync_playwright() as engine:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = engine.chromium.launch(executable_path=chromium, args=[*options, "--disable-gpu"])
        page = browser.new_page(viewport={"width": 375, "height": 800})
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: asked.append("a dialog"))
        page.goto(address)
        page.keyboard.press("Tab")
        assert page.locator("#files:focus").count() == 1
        data = {"items": [], "files": [str(hostile)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            event = {"type": kind, "x": 180, "y": 100, "data": data}
            page.context.new_cdp_session(page).send("Input.dispatchDragEvent", event)
        (row,) = predict_files(load_pretrained(), [str(drawn_folder / "horse/0000.jpg")], 1, 1)
        ((name, probability),) = row["classes"]
        page.get_by_text(f"{hostile.name}: {name}, {100 * probability:.1f} %", exact=True).wait_for()
        assert page.locator("article h2").inner_text() == hostile.name
        assert page.locator("article li").first.inner_text().split() == [name, f"{100 * probability:.1f}", "%"]
        assert [image.get_attribute("alt") for image in page.locator("article img").all()][2].endswith(
            f"the class {name}"
        )
        (row,) = predict_files(load_pretrained(), [str(drawn_folder / "cat/0000.jpg")], 1, 1)
        page.set_input_files("#files", [tmp_path / "notes.png", drawn_folder / "cat/0000.jpg"])
        page.get_by_text("not an image").wait_for()
        page.get_by_text(f"Grad-CAM: {row['classes'][0][0]}").wait_for()
        page.get_by_text("1 classified, 1 failed").wait_for()
        for given, words in (
            ({"items": [{"mimeType": "text/plain", "data": "a cat"}], "files": []}, "no image file found"),
            ({"items": [], "files": [str(tmp_path)]}, "this is a folder: drop the images in it"),
        ):
            for kind in ("dragEnter", "dragOver", "drop"):
                event = {"type": kind, "x": 180, "y": 100, "data": given | {"dragOperationsMask": 1}}
                page.context.new_cdp_session(page).send("Input.dispatchDragEvent", event)
            page.get_by_text(words, exact=True).first.wait_for()
        assert page.locator("body").bounding_box()["width"] <= 375
        browser.close()
    assert asked
    assert all(url.removeprefix("blob:").startswith((address, "data:image/png")) for url in asked)
