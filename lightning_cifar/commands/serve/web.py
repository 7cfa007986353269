"""The web page and JSON API of ``serve``: pictures in, classes and what spoke for them out.

Nothing comes from another host and nothing is kept: bodies are read into temporary files that end with their request.
Requests are answered one after the other, each with all of its pictures as one batch.
"""

import base64
import hashlib
import re
import threading
import warnings
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from lightning_cifar.data.images import MAX_PIXELS
from lightning_cifar.evaluate.explain import data_uri, overlay, seen
from lightning_cifar.evaluate.pictures import answers, read
from lightning_cifar.train.classifier import ImageClassifier
from lightning_cifar.train.weights import get_class_names

MAX_BYTES = 32 << 20  # of a request
MAX_FILES = 64  # of a request
OWN_PAGE = ("none", "same-origin")
PAGE = Path(__file__).with_name("web.html")


class ClassProbability(BaseModel):
    name: str
    probability: float


class Explained(BaseModel):
    seen: str = Field(description="the 32x32 pixels that the network saw: a PNG as data URI")
    heat_map: str = Field(description="Grad-CAM of the likeliest class over the picture: a PNG as data URI")
    branches: list[str] = Field(description="names of a block's branches")
    gates: list[list[float]] = Field(description="for each block, the weight of each branch")


class Picture(BaseModel):
    file: str = Field(description="its name, as it was sent")
    classes: list[ClassProbability] = Field(description="the likeliest first; none where there is an error")
    error: str | None = Field(description="why it could not be read")
    explanation: Explained | None = Field(description="where ?explain=true asks for it")


class Answer(BaseModel):
    pictures: list[Picture] = Field(description="in the order that they were sent in")


class Problem(BaseModel):
    error: str = Field(description="one line")


class Health(BaseModel):
    status: str
    classes: list[str]


def application(model: ImageClassifier, hosts: Collection[str] | None = None) -> FastAPI:
    """The ASGI application that serves ``model``, which is in evaluation mode.

    Args:
        model: what answers.
        hosts: the names by which it may be asked, and by its own page alone: else any page that is open in a browser
            here could ask it, by a name of its own that leads to this machine (DNS rebinding). None: by any, and any.
    """
    # No /docs: fastapi's page loads its scripts from another host.
    app = FastAPI(title="lightning-cifar", docs_url=None, redoc_url=None)
    page = PAGE.read_text(encoding="utf-8").replace("MAX_BYTES", str(MAX_BYTES))
    policy = content_security_policy(page)
    one_at_a_time = threading.Lock()  # what a request needs of memory is then bounded, and threads of torch suffice

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> str:
        return page

    @app.get("/health")
    async def health() -> Health:  # async, to be answered while requests wait for the model
        return Health(status="ok", classes=get_class_names(model))

    @app.post(
        "/predict",
        max_body_size=MAX_BYTES,
        form_limits={"max_files": MAX_FILES},
        responses={status: {"model": Problem} for status in (400, 403, 413, 422)},
        description=f"Classes of up to {MAX_FILES} pictures, of at most {MAX_BYTES:,} bytes together and "
        f"{MAX_PIXELS:,} pixels each. Status 422 where none of them could be read.",
    )
    def predict(
        files: list[UploadFile],
        top: Annotated[int, Query(ge=1, description="how many classes of each picture")] = 3,
        explain: Annotated[bool, Query(description="also what spoke for the likeliest class")] = False,
    ) -> Answer:
        with one_at_a_time, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd EXIF or palettes
            batch = [(file.filename or "", read(file.file)) for file in files]
            rows = list(answers(model, batch, top, explain=explain))
        if all(row["error"] for row, _ in rows):
            first, _ = rows[0]
            raise HTTPException(422, f"{first['file']}: {first['error']}")
        return Answer(pictures=[as_picture(row, explanation) for row, explanation in rows])

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        # Browsers say who asks; other clients say nothing. Another port of this machine is another page too.
        foreign = request.method == "POST" and request.headers.get("Sec-Fetch-Site", "none") not in OWN_PAGE
        if hosts is not None and (foreign or request.url.hostname not in hosts):
            response: Response = problem(403, f"asked from another page, or by another name than {', '.join(hosts)}")
        else:
            response = await call_next(request)
        if response.status_code == 413:  # said by the library, in plain text
            response = problem(413, f"a request has at most {MAX_BYTES:,} bytes: send fewer or smaller pictures")
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]  # at ("body", "files"), say
        return problem(422, f"{first['loc'][1]}: {first['msg']}")

    @app.exception_handler(HTTPException)
    def refused(_: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, error.detail)

    return app


def as_picture(row: dict[str, Any], explanation: Any) -> Picture:
    found = explanation and Explained(
        seen=data_uri(seen(explanation)),
        heat_map=data_uri(overlay(explanation)),
        branches=explanation.branches,
        gates=explanation.gates,
    )
    classes = [ClassProbability(name=name, probability=probability) for name, probability in row["classes"]]
    return Picture(file=row["file"], classes=classes, error=row["error"], explanation=found)


def problem(status: int, words: str) -> JSONResponse:
    return JSONResponse({"error": " ".join(words.split())}, status)


def content_security_policy(page: str) -> str:
    """Lets the page run its own script and style, show pictures from memory, ask this server, and nothing else."""

    def digests(tag: str) -> str:
        inside = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in inside
        )

    return (
        f"default-src 'none'; script-src {digests('script')}; style-src {digests('style')}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
