"""The JSON API of `serve`: requests, errors, and the security headers of its page."""

import base64
import contextlib
import hashlib
import http.client
import io
import json
import re
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from lightning_cifar import load_pretrained
from lightning_cifar.commands.serve import connection, decoder, web
from lightning_cifar.commands.serve.command import LOCAL, open_socket
from lightning_cifar.data.square import SQUARE
from lightning_cifar.evaluate.prediction import predict_batch, predict_files
from lightning_cifar.sources.images import read_image


@pytest.fixture(scope="module")
def model():
    return load_pretrained()


@contextmanager
def client_of(application):
    """Of a server in a thread."""
    server = uvicorn.Server(uvicorn.Config(application, http=connection.Connection, log_level="warning"))
    with open_socket("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as opened:
            yield opened
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client(model):
    with client_of(web.create_application(model)) as opened:
        yield opened


@pytest.fixture(scope="module")
def local_client(model):
    with client_of(web.create_application(model, LOCAL)) as opened:
        yield opened


@pytest.fixture
def sent(drawn_folder):
    """Return the form fields of drawn images by their names."""
    return lambda *names: [("files", (name, (drawn_folder / name).read_bytes())) for name in names]


@pytest.mark.slow
def test_classes_as_predict_says_them(client, model, sent, drawn_folder):
    names = ["cat/0000.jpg", "ship/0001.jpg", "frog/0000.jpg"]
    answer = client.post("/predict?top=2", files=sent(*names))
    assert answer.status_code == 200
    expected = predict_files(model, [str(drawn_folder / name) for name in names], 3, 2)
    for image, name, row in zip(answer.json()["images"], names, expected, strict=True):
        assert (image["file"], image["error"], image["explanation"]) == (name, None, None)
        assert [one["name"] for one in image["classes"]] == [one for one, _ in row["classes"]]
        assert [one["probability"] for one in image["classes"]] == pytest.approx(
            [share for _, share in row["classes"]], abs=1e-5
        )


@pytest.mark.parametrize(
    ("host", "method", "site", "status"),
    [
        ("127.0.0.1:PORT", "GET", "none", 200),
        ("LOCALHOST:PORT", "GET", "cross-site", 200),  # a link that leads here
        ("[::1]:PORT", "GET", "none", 200),
        ("evil.example:PORT", "GET", "same-origin", 403),
        ("127.0.0.1@evil.example:PORT", "GET", "none", 403),
        ("evil.example@127.0.0.1:PORT", "GET", "none", 403),
        ("127.0.0.1:PORT:PORT", "GET", "none", 403),
        ("127.0.0.1:PORT.", "GET", "none", 403),
        ("127.0.0.1:99999", "GET", "none", 403),
        ("127.0.0.1", "GET", "none", 403),  # port 80
        ("", "GET", "none", 403),
        ("127.0.0.1:PORT", "POST", "cross-site", 403),
        ("127.0.0.1:PORT", "POST", "same-site", 403),  # another port
        ("127.0.0.1:PORT", "POST", "same-origin", 422),  # without an image
    ],
)
def test_other_pages_in_the_browser_get_no_answer(local_client, host, method, site, status):
    """Not by a name of theirs that leads to this machine, either."""
    answer = local_client.request(
        method,
        "/predict" if method == "POST" else "/health",
        headers={"Host": host.replace("PORT", str(local_client.base_url.port)), "Sec-Fetch-Site": site},
    )
    assert answer.status_code == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert status != 403 or "127.0.0.1" in answer.json()["error"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:PORT", 422),  # the own page, without an image
        ("http://localhost:PORT", 403),  # the Host header has the other name
        ("http://127.0.0.1:9", 403),
        ("https://127.0.0.1:PORT", 403),
        ("http://127.0.0.1:PORT.evil.example", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_browsers_without_sec_fetch_send_an_origin(local_client, origin, status):
    headers = {"Origin": origin.replace("PORT", str(local_client.base_url.port))}
    assert local_client.post("/predict", headers=headers).status_code == status


@pytest.mark.slow
def test_an_image_that_takes_long_is_refused_and_blocks_nobody(client, sent, slow_jpeg, monkeypatch):
    client.post("/predict", files=sent("cat/0000.jpg"))  # starts the process that decodes
    monkeypatch.setattr(decoder, "SECONDS", 1.0)
    slow = ("files", ("slow.jpg", slow_jpeg))
    started = time.monotonic()
    fast, found, late = client.post("/predict", files=[*sent("cat/0000.jpg"), slow, slow]).json()["images"]
    assert fast["error"] is None
    words = "the images of this request take more than 1 seconds to decode: send smaller ones"
    assert found["error"] == late["error"] == words
    assert time.monotonic() - started < 60
    assert client.post("/predict", files=sent("cat/0000.jpg")).json()["images"] == [fast]


@pytest.mark.slow
def test_more_requests_than_may_wait_are_refused(client, sent, monkeypatch):
    """Those that wait are answered."""
    release, statuses, rows = threading.Event(), [], []

    def wait(*args, **_):
        release.wait(30)
        rows[:] = rows or predict_batch(*args)  # all send the same image
        return rows

    monkeypatch.setattr(web, "predict_batch", wait)

    def post():
        answer = client.post("/predict", files=sent("cat/0000.jpg"))
        statuses.append((answer.status_code, answer.headers.get("Retry-After")))

    threads = [threading.Thread(target=post) for _ in range(web.QUEUE + 4)]
    for thread in threads:
        thread.start()
    patience = time.monotonic() + 30
    while len(statuses) < 4:
        assert time.monotonic() < patience
        time.sleep(0.01)
    assert statuses == [(503, "5")] * 4
    release.set()
    for thread in threads:
        thread.join()
    assert statuses[4:] == [(200, None)] * web.QUEUE


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"GET / HTT",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        b"Content-Length: 99\r\n\r\n--x",
    ],
)
def test_a_silent_connection_is_closed(client, monkeypatch, words):
    monkeypatch.setattr(connection, "WATCH", 0.1)
    monkeypatch.setattr(connection, "SILENCE", 0.3)
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=60) as opened:
        opened.sendall(words)
        with contextlib.suppress(ConnectionResetError):
            assert opened.recv(1) == b""


def send_for_ever(opened, words):
    """Ten seconds."""
    for _ in range(200):
        opened.sendall(words)
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["SENDING", "LINGER"])
def test_a_request_without_an_end_is_closed(client, monkeypatch, limit):
    """Before it is answered, or after its refusal."""
    monkeypatch.setattr(connection, "WATCH", 0.1)
    monkeypatch.setattr(connection, limit, 0.3)
    path = "/predict" if limit == "SENDING" else "/absent"
    lines = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=60) as opened:
        opened.sendall(f"{lines}Transfer-Encoding: chunked\r\n\r\n".encode())
        with pytest.raises(ConnectionError):
            send_for_ever(opened, b"1\r\nx\r\n")


def test_answers_are_not_delayed(client):
    """As they are by Nagle's algorithm, 40 ms each."""
    client.get("/health")
    seconds = []
    for _ in range(20):
        started = time.monotonic()
        client.get("/health")
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 0.03  # others may wait for a busy machine


@pytest.mark.parametrize("path", ["/", "/health"])
def test_head_is_answered_like_get_without_a_body(client, path):
    """Probes of containers, such as `wget --spider`, request HEAD."""
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert all(head.headers[name] == get.headers[name] for name in ("Content-Type", "Content-Length"))


def test_the_page_names_model_and_classes(model):
    with client_of(web.create_application(model, name="<my> model")) as opened:
        page = opened.get("/").text
    assert "Model: &lt;my&gt; model. Classes: airplane, automobile, bird" in page


@pytest.mark.parametrize(("method", "path"), [("GET", "/predict"), ("PUT", "/predict"), ("POST", "/")])
def test_a_request_in_the_wrong_place_says_how_images_are_sent(client, method, path):
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["error"]) == (405, web.HOW_TO_SEND)


def test_the_page_does_not_begin_with_a_thousand_names(model, monkeypatch):
    monkeypatch.setattr(web, "NAMED", 2)
    with client_of(web.create_application(model)) as opened:
        assert "Classes: airplane, automobile and 8 others." in opened.get("/").text


@pytest.mark.slow
def test_an_explanation_where_one_is_asked_for(client, sent):
    (image,) = client.post("/predict?explain=true", files=sent("horse/0000.jpg")).json()["images"]
    found = image["explanation"]
    assert (found["branches"], np.shape(found["gates"])) == (["3x3", "1x1", "1x1"], (5, 3))
    for kind in ("seen", "heat_map"):
        start, content = found[kind].split(",")
        assert start == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(content))).size == (256, 256)


def test_one_that_cannot_be_read_does_not_keep_the_others_from_it(client, sent):
    files = [*sent("cat/0000.jpg"), ("files", ("<b>text</b>.png", b"no image"))]
    answer = client.post("/predict", files=files)
    good, bad = answer.json()["images"]
    assert (answer.status_code, good["error"], bad["classes"]) == (200, None, [])
    assert (bad["file"], bad["error"]) == ("<b>text</b>.png", "not an image")


@pytest.mark.parametrize(
    ("query", "options", "status", "words"),
    [
        ("", {"files": [("files", ("x.png", b"text"))]}, 422, "x.png: not an image"),
        ("", {"files": [("files", ("x.png", b""))]}, 422, "x.png: an empty file"),
        ("", {}, 422, "files: send images to /predict as a form, such as curl -F files=@"),
        ("", {"data": {"files": "text"}}, 422, "files: send images to /predict as a form"),
        ("", {"files": [("other", ("x.png", b""))]}, 422, "files: send images to /predict as a form"),
        ("", {"content": b"\x89PNG", "headers": {"Content-Type": "image/png"}}, 422, "files: send images to /predict"),
        ("?top=0", {"files": [("files", ("x.png", b""))]}, 422, "top: Input should be greater than or equal to 1"),
        ("?explain=perhaps", {"files": [("files", ("x.png", b""))]}, 422, "explain: Input should be a valid boolean"),
        ("", {"files": [("files", ("x.png", b""))] * 65}, 400, "Too many files. Maximum number of files is 64."),
        (
            "",
            {"content": b"nonsense", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            400,
            "Invalid multipart data.",
        ),
        ("/absent", {}, 404, "Not Found"),
    ],
)
def test_what_is_refused_is_one_line_of_json(client, query, options, status, words):
    answer = client.post(f"/predict{query}", **options)
    assert answer.status_code == status
    (error,) = answer.json().values()
    assert error.startswith(words)
    assert "\n" not in error
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


@pytest.mark.slow
@pytest.mark.parametrize("length_is_sent", [True, False])
def test_a_body_that_is_too_large_is_refused_before_its_end(client, length_is_sent):
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="x.png"\r\n\r\n'
    length = f"Content-Length: {web.MAX_BYTES + 1}" if length_is_sent else "Transfer-Encoding: chunked"
    lines = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n{length}\r\n\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=60) as opened:
        opened.sendall(lines.encode())
        if not length_is_sent:
            chunk = bytes(1 << 20)
            for part in (head, *[chunk] * (web.MAX_BYTES // len(chunk))):
                opened.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        answer = http.client.HTTPResponse(opened)
        answer.begin()
        assert answer.status == 413
        words = json.loads(answer.read())
    assert words == {"error": "a request may have at most 33,554,432 bytes: send fewer or smaller images"}


def test_too_many_pixels_are_refused_by_the_header(client):
    file = io.BytesIO()
    Image.new("1", (9000, 9000)).save(file, "PNG")
    answer = client.post("/predict", files=[("files", ("large.png", file.getvalue()))])
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("large.png: 9000x9000 pixels are more than")


@pytest.mark.slow
def test_requests_at_once_are_each_answered_by_their_own(client, sent):
    names = [f"{kind}/000{number}.jpg" for kind in ("cat", "ship", "frog", "horse") for number in (0, 1)]
    alone = {name: client.post("/predict", files=sent(name)).json() for name in names}
    together = {}
    threads = [
        threading.Thread(
            target=lambda name=name: together.update({name: client.post("/predict", files=sent(name)).json()})
        )
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_the_page_needs_no_other_host_and_runs_nothing_else(client):
    answer = client.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"https?://|\sstyle=|\son\w+=|innerHTML", answer.text)
    assert not re.search("MAX_BYTES|INPUT_|MODEL_NAME|CLASS_NAMES", answer.text)
    for tag in ("script", "style"):  # a browser runs what the policy's digest fits
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        assert f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert client.get("/docs").status_code == 404


def test_the_schema_says_what_is_sent_and_answered(client, model):
    assert client.get("/health").json() == {"status": "ok", "classes": model.hparams["class_names"]}
    schema = client.get("/openapi.json").json()
    responses = schema["paths"]["/predict"]["post"]["responses"]
    assert set(responses) == {"200", "400", "403", "413", "422", "503"}
    assert responses["422"]["content"]["application/json"]["schema"]["$ref"].endswith("/Problem")
    assert set(schema["components"]["schemas"]["ImagePrediction"]["properties"]) == {
        "file",
        "classes",
        "error",
        "explanation",
    }


def test_a_model_whose_name_is_no_text_is_named(model):
    with client_of(web.create_application(model, name="my\udcff")) as opened:
        assert "Model: my\\udcff." in opened.get("/").text


@pytest.mark.slow
def test_the_decoder_imports_nothing_from_the_working_directory(drawn_folder):
    Path("PIL.py").write_text("raise SystemExit")
    reader = decoder.Decoder(SQUARE)
    with (drawn_folder / "cat/0000.jpg").open("rb") as file:
        (found,) = reader.read([file])
    reader.close()
    assert np.array_equal(found, read_image(str(drawn_folder / "cat/0000.jpg")))


@pytest.mark.slow
def test_a_client_that_reads_no_answer_is_closed(monkeypatch):
    """Before it has the answer, which would wait for it in memory."""

    async def send_much(scope, _, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": bytes(32 << 20)})

    monkeypatch.setattr(connection, "WATCH", 0.1)
    monkeypatch.setattr(connection, "READING", 0.3)
    received = 0
    with (
        client_of(send_much) as client,
        socket.create_connection((client.base_url.host, client.base_url.port), timeout=60) as opened,
    ):
        opened.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(1)
        with contextlib.suppress(ConnectionError):
            while part := opened.recv(1 << 20):
                received += len(part)
                if received > 32 << 20:
                    break
    assert 0 < received < 32 << 20
