"""Web page and JSON API of ``serve``: images in, classes and class-activation maps out.

The page loads nothing from another host. Nothing is stored: request bodies are temporary files, deleted after the
request. Requests are classified one after the other, each with its images as one batch; a few wait, others are refused.
"""

import base64
import hashlib
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from html import escape
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from lightning_cifar.commands.serve.decoder import Decoder
from lightning_cifar.errors import list_some
from lightning_cifar.evaluate.explain import Explanation, draw_heat, draw_input
from lightning_cifar.evaluate.prediction import predict_batch
from lightning_cifar.run.figures.png import encode_png, format_data_uri
from lightning_cifar.run.weights import get_class_names, get_square
from lightning_cifar.sources.images import MAX_PIXELS
from lightning_cifar.train.classifier import ImageClassifier

MAX_BYTES = 32 << 20  # in a request
MAX_FILES = 64  # in a request
QUEUE = 16  # requests that wait or are classified; fewer than the threads that fastapi starts
HOW_TO_SEND = "send images to /predict as a form, such as curl -F files=@cat.jpg ADDRESS/predict"
NAMED = 100  # classes that the page lists
OWN_PAGE = ("none", "same-origin")
PAGE = Path(__file__).with_name("web.html")


class ClassProbability(BaseModel):
    name: str
    probability: float


class Explained(BaseModel):
    seen: str = Field(description="the network input, enlarged: a PNG as data URI")
    heat_map: str = Field(description="Grad-CAM of the likeliest class over the image: a PNG as data URI")
    branches: list[str] = Field(description="names of a block's branches")
    gates: list[list[float]] = Field(description="weight of each branch, for each block; [] without gates")


class ImagePrediction(BaseModel):
    file: str = Field(description="file name, as sent")
    classes: list[ClassProbability] = Field(description="likeliest first; empty if there is an error")
    error: str | None = Field(description="why the image could not be read")
    explanation: Explained | None = Field(description="only with ?explain=true")


class Predictions(BaseModel):
    images: list[ImagePrediction] = Field(description="in the order sent")


class Problem(BaseModel):
    error: str = Field(description="one line")


class Health(BaseModel):
    status: str
    classes: list[str]


def create_application(model: ImageClassifier, hosts: Collection[str] | None = None, name: str = "a model") -> FastAPI:
    """Create the ASGI application.

    Args:
        model: in evaluation mode.
        hosts: host names that requests may use, with the server's port; requests must then come from the application's
            own page or from no page. Without this check, any page open in a local browser could use the server through
            a host name that resolves to this machine (DNS rebinding). None: no check.
        name: of the model, for the page.
    """
    square = get_square(model.hparams)
    decoder, slots = Decoder(square), threading.BoundedSemaphore(QUEUE)

    @asynccontextmanager
    async def run_decoder(_: FastAPI) -> AsyncIterator[None]:
        decoder.start()
        yield
        decoder.close()

    # No /docs: fastapi's page loads scripts from another host.
    app = FastAPI(title="lightning-cifar", docs_url=None, redoc_url=None, lifespan=run_decoder)
    page = PAGE.read_text(encoding="utf-8")
    seen = "the centre of the image" if square.rule == "crop" else "the whole image"
    words = {"MAX_BYTES": str(MAX_BYTES), "INPUT_SIZE": f"{square.side}×{square.side}", "INPUT_SEEN": seen}
    for place, text in words.items():  # in the script too
        page = page.replace(place, text)
    policy = format_security_policy(page)
    classes = get_class_names(model)
    for place, text in {"MODEL_NAME": name, "CLASS_NAMES": list_some(classes, NAMED)}.items():
        page = page.replace(place, escape(text.encode(errors="backslashreplace").decode()))
    one_at_a_time = threading.Lock()  # bounds the memory; torch uses all cores for one request

    @app.head("/", response_class=HTMLResponse, include_in_schema=False)
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> str:
        return page

    @app.head("/health", include_in_schema=False)  # as probes of containers request
    @app.get("/health")
    async def health() -> Health:  # async: answers while requests wait for the model
        return Health(status="ok", classes=classes)

    @app.post(
        "/predict",
        max_body_size=MAX_BYTES,
        form_limits={"max_files": MAX_FILES},
        responses={status: {"model": Problem} for status in (400, 403, 413, 422, 503)},
        description=f"Classify up to {MAX_FILES} images, of at most {MAX_BYTES:,} bytes together and "
        f"{MAX_PIXELS:,} pixels each. Status 422 if none of them can be read.",
    )
    def predict(
        files: list[UploadFile],
        top: Annotated[int, Query(ge=1, description="number of classes for each image")] = 3,
        explain: Annotated[bool, Query(description="add Grad-CAM of the likeliest class and the gates")] = False,
    ) -> Predictions:
        if not slots.acquire(blocking=False):
            raise HTTPException(503, f"{QUEUE} requests are waiting: try again later", {"Retry-After": "5"})
        try:
            with one_at_a_time:
                pixels = decoder.read(file.file for file in files)
                batch = [(file.filename or "", one) for file, one in zip(files, pixels, strict=True)]
                rows = list(predict_batch(model, batch, top, explain=explain))
        finally:
            slots.release()
        if all(row["error"] for row, _ in rows):
            first, _ = rows[0]
            raise HTTPException(422, f"{first['file']}: {first['error']}")
        return Predictions(images=[to_prediction(row, explanation) for row, explanation in rows])

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if hosts is not None and not is_own(request, addresses := list_addresses(hosts, request.scope["server"][1])):
            response: Response = make_error(403, f"only this server's own page may use it, at {addresses[0]}")
        else:
            response = await call_next(request)
        if response.status_code == 413:  # the library answers in plain text
            response = make_error(413, f"a request may have at most {MAX_BYTES:,} bytes: send fewer or smaller images")
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @app.exception_handler(RequestValidationError)
    def explain_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]  # its place is ("body", "files"), for example
        name = first["loc"][1]
        return make_error(422, f"files: {HOW_TO_SEND}" if name == "files" else f"{name}: {first['msg']}")

    @app.exception_handler(HTTPException)
    def explain_refusal(request: Request, error: HTTPException) -> JSONResponse:
        is_misplaced = error.status_code == 405 and request.url.path in ("/", "/predict")
        detail = HOW_TO_SEND if is_misplaced else error.detail
        return make_error(error.status_code, detail, error.headers)

    return app


def to_prediction(row: dict[str, Any], explanation: Explanation | None) -> ImagePrediction:
    explained = None
    if explanation is not None:
        explained = Explained(
            seen=format_data_uri(encode_png(draw_input(explanation))),
            heat_map=format_data_uri(encode_png(draw_heat(explanation))),
            branches=explanation.branches,
            gates=explanation.gates,
        )
    classes = [ClassProbability(name=name, probability=probability) for name, probability in row["classes"]]
    return ImagePrediction(file=row["file"], classes=classes, error=row["error"], explanation=explained)


def make_error(status: int, words: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": " ".join(words.split())}, status, headers)


def list_addresses(hosts: Collection[str], port: int) -> list[str]:
    """Return the values of a Host header that name this server."""
    names = [f"[{host}]" if ":" in host else host for host in hosts]
    return [f"{name}:{port}" for name in names] + (names if port == 80 else [])


def is_own(request: Request, addresses: Collection[str]) -> bool:
    """Return whether a request names this server exactly, and was sent by its page or by no page.

    Browsers send Sec-Fetch-Site, older ones only Origin; other clients send neither. Another port of this machine is a
    foreign page too. A link from another page may lead here: it is a GET request without Origin.
    """
    host, origin = request.headers.get("Host", "").lower(), request.headers.get("Origin")
    own_site = request.method != "POST" or request.headers.get("Sec-Fetch-Site", "none") in OWN_PAGE
    return host in addresses and own_site and origin in (None, f"http://{host}")


def format_security_policy(page: str) -> str:
    """Return a policy that allows only the page's own script and style, images from memory, and this server."""

    def digests(tag: str) -> str:
        inside = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in inside
        )

    return (
        f"default-src 'none'; script-src {digests('script')}; style-src {digests('style')}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
