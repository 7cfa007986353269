"""What every test starts from: no network, no GPU, and no settings, caches or runs of the developer's own.

The process of `pytest -n` that only starts the others reads this file too: what takes seconds is imported by fixtures.
"""

import gc
import io
import multiprocessing
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from lightning_cifar import InputError, main

if TYPE_CHECKING:
    import torch

    from tests.children import Child

if "PYTEST_XDIST_WORKER" in os.environ:  # a core each; threads that wait for each other would take twice the time
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for children
# The server that children are forked from imports for all of them; there is one, and the last list given to it counts.
multiprocessing.get_context("forkserver").set_forkserver_preload(
    ["lightning_cifar.commands.fit", "lightning_cifar.sources.cifar", "sklearn.datasets"]
)
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # tests marked gpu: CUDA_VISIBLE_DEVICES=0 pytest -m gpu


def pytest_collection_finish():
    """Leave what has been imported out of garbage collections, which would take a third of a second each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def isolated(tmp_path, tmp_path_factory, monkeypatch):
    """A working directory, caches and a W&B configuration that are new and empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path_factory.getbasetemp()))  # one font cache for all: it takes seconds
    for name in ("LIGHTNING_CIFAR_DATA", "WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where nothing listens


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """A connection to anywhere but this machine is an error."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test connects to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def encode_pixel() -> bytes:
    png = io.BytesIO()
    Image.new("RGB", (1, 1)).save(png, "PNG")
    return png.getvalue()


PIXEL = encode_pixel()


@pytest.fixture(autouse=True)
def quick_figures(request, monkeypatch):
    """Write a pixel instead of each figure: drawing takes a quarter of a second. Those of runs are not even built."""
    from matplotlib.figure import Figure

    from lightning_cifar.evaluate import charts
    from lightning_cifar.files import write_whole
    from lightning_cifar.run.figures import batch_figure, live_figure

    if "drawn_figures" not in request.fixturenames:
        monkeypatch.setattr(live_figure, "plot_metrics", lambda *_: Figure())
        monkeypatch.setattr(charts, "draw_evaluation", lambda file, _: write_whole(file, PIXEL))
        monkeypatch.setattr(batch_figure, "draw_batch", lambda *_: PIXEL)
        monkeypatch.setattr(Figure, "savefig", lambda _, file, **__: file.write(PIXEL))


@pytest.fixture
def drawn_figures():
    """Let the test's figures be drawn, for those that look at them."""


@pytest.fixture(autouse=True)
def built_parsers(monkeypatch):
    """Build the parser of a command once for all tests of a process, which takes as long as ten steps of training."""
    from lightning_cifar.run.settings.parsing import Parsed

    build = Parsed.setup_parser

    def setup_parser(cli, *args):
        if cli.command not in PARSERS:
            build(cli, *args)
            PARSERS[cli.command] = cli.parser, vars(cli.parser).copy()
        cli.parser, attributes = PARSERS[cli.command]
        vars(cli.parser).clear()  # a command that was refused may leave the request of its --print_config
        vars(cli.parser).update(attributes)

    monkeypatch.setattr(Parsed, "setup_parser", setup_parser)


PARSERS: dict[str, tuple[Any, dict[str, object]]] = {}


@pytest.fixture(autouse=True)
def quick_files(cached, monkeypatch):
    """Do not wait for the disk; read the digits, and what is known of the installation, once in a process."""
    from lightning.fabric.utilities import registry

    from lightning_cifar.run.records import run_json
    from lightning_cifar.sources import digits

    monkeypatch.setattr(os, "fsync", lambda _: None)
    once = ((digits, "load_digits"), (run_json, "find_commit"), (run_json, "version"), (registry, "entry_points"))
    for module, name in once:
        monkeypatch.setattr(module, name, cached(getattr(module, name)))


@pytest.fixture
def bad_input() -> Callable[..., AbstractContextManager[None]]:
    """Return a context that expects an `InputError` of one line which contains all given words."""

    @contextmanager
    def expect(*words: object) -> Iterator[None]:
        with pytest.raises(InputError) as caught:
            yield
        message = str(caught.value)
        assert "\n" not in message
        assert [word for word in words if str(word) not in message] == [], message

    return expect


@pytest.fixture(scope="session")
def cached() -> Callable[[Callable], Callable]:
    """Return a function with the results of earlier calls, the same one for a function each time."""
    return cache(cache)


@pytest.fixture(autouse=True)
def fresh_torch() -> Iterator[None]:
    """Random numbers of seed 0. No test may leave deterministic algorithms or a process group to later ones."""
    import torch
    import torch.distributed as dist

    torch.manual_seed(0)
    yield
    assert torch.get_deterministic_debug_mode() == 0
    assert not dist.is_initialized()


@pytest.fixture(scope="session")
def eventually() -> Callable[..., None]:
    """Waits until something is so that other processes make so, a moment later on a busy machine."""

    def wait(condition: Callable[[], object], *makers: "subprocess.Popen | Child") -> None:
        patience = time.monotonic() + 120
        while not condition():
            assert [maker.poll() for maker in makers] == [None] * len(makers)
            assert time.monotonic() < patience
            time.sleep(0.01)

    return wait


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., "Child"]]:
    """Starts the command line in a child process that is forked from one with the package; it ends with the test."""
    from tests.children import CONTEXT, Child, run_command

    children: list[Child] = []

    def start_child(*args: object, prepare: Callable[[], None] | None = None) -> Child:
        output = tmp_path / f"output{len(children)}"
        output.touch()
        environment = {name: os.environ[name] for name in ("XDG_CACHE_HOME", "HOME", "MPLCONFIGDIR", "WANDB_BASE_URL")}
        process = CONTEXT.Process(target=run_command, args=([*map(str, args)], output, prepare, environment))
        process.start()
        children.append(Child(process, output))
        return children[-1]

    yield start_child
    for child in children:
        if child.process.is_alive():
            child.process.kill()
        child.process.join()


@pytest.fixture
def start_python(terminal_signals) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts Python in a process of its own, with a thread; it ends with the test, with all that it has started."""
    children: list[subprocess.Popen] = []

    def start(*args: object, **options: object) -> subprocess.Popen:
        command, environment = [sys.executable, *map(str, args)], {**os.environ, "OMP_NUM_THREADS": "1"}
        options = {"env": environment, "stdout": subprocess.DEVNULL, "text": True, **options}
        children.append(subprocess.Popen(command, start_new_session=True, **options))
        return children[-1]

    yield start
    for child in children:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        with child:  # waits, and closes its pipes
            pass


@pytest.fixture
def terminal_signals() -> Iterator[None]:
    """Let Ctrl-C and a closed terminal stop processes, which a job in the background and one of nohup ignore."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def wandb_records(eventually) -> Callable[[Path], list]:
    """The records of the one offline run below a directory, once it is written to its end."""

    def read(directory: Path) -> list:
        (file,) = directory.rglob("run-*.wandb")
        eventually(lambda: has_ended(parsed(file.read_bytes())))
        return parsed(file.read_bytes())

    def has_ended(records: list) -> bool:
        return bool(records) and records[-1].HasField("exit")

    def parsed(content: bytes) -> list:
        from wandb.proto.wandb_internal_pb2 import Record

        place, parts, records = 7, b"", []  # LevelDB's log format, after a header
        while place + 7 <= len(content):
            if (left := 32768 - place % 32768) < 7:  # no header of a part fits into what is left of the block
                place += left
                continue
            _, length, kind = struct.unpack_from("<IHB", content, place)
            if place + 7 + length > len(content):  # still being written
                break
            parts += content[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):  # whole, or the last part
                records.append(Record.FromString(parts))
                parts = b""
        return records

    return read


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Random 32x32 bitmaps: 12 cats and 6 dogs to train on, 2 and 1 in ``val`` and in ``test``; blue is the darkest."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    for part, cats, dogs in (("train", 12, 6), ("val", 2, 1), ("test", 2, 1)):
        for name, count in (("cat", cats), ("dog", dogs)):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, (256, 200, 100), (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"image-{index:02}.bmp")
    return root


CIFAR10_ROOT = os.environ.get("LIGHTNING_CIFAR_DATA")  # before `isolated` hides it


@pytest.fixture(scope="session")
def cifar10_root() -> str:
    """The directory of the original CIFAR-10 that LIGHTNING_CIFAR_DATA names; the test is skipped without it."""
    if not CIFAR10_ROOT or not Path(CIFAR10_ROOT, "cifar-10-batches-py").is_dir():
        pytest.skip("LIGHTNING_CIFAR_DATA names no directory with cifar-10-batches-py")
    return CIFAR10_ROOT


CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def draw_pixels(label: int, number: int) -> np.ndarray:
    """Draw a striped blob on a smooth ground, uint8 (32, 32, 3); shape and colours follow from label and number."""
    y, x = np.mgrid[:32, :32] / 32
    turn = 2.4 * (2 * label + number)
    ground = 0.3 * np.sin(6 * (x * np.cos(turn) + y * np.sin(turn))[..., None] + turn + np.arange(3) * (1 + label / 5))
    blob = np.sin(4 * turn + 2 * np.arange(3)) + 0.3 * np.sin((20 + 3 * label) * x + 10 * number * y)[..., None]
    across = (x - 0.5 - 0.15 * np.cos(3 * turn)) / (0.2 + 0.1 * np.cos(5 * turn))
    down = (y - 0.5 - 0.15 * np.sin(3 * turn)) / (0.2 + 0.1 * np.sin(7 * turn))
    roundness = 1.5 + label % 3
    inside = (np.abs(across) ** roundness + np.abs(down) ** roundness < 1)[..., None]
    return (127.5 + 90 * np.where(inside, blob, ground)).clip(0, 255).round().astype(np.uint8)


@pytest.fixture(scope="session")
def drawn_images() -> "torch.Tensor":
    """Two drawn images of each of ten labels, uint8 (20, 3, 32, 32); no data set is needed for them."""
    import torch

    pixels = np.stack([draw_pixels(label, number) for label in range(10) for number in range(2)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@pytest.fixture(scope="session")
def drawn_folder(tmp_path_factory) -> Path:
    """The drawn images as JPEGs, ``<class>/0000.jpg`` and ``<class>/0001.jpg``, by the names of CIFAR-10's classes."""
    root = tmp_path_factory.mktemp("drawn")
    for label, name in enumerate(CIFAR_CLASSES):
        (root / name).mkdir()
        for number in range(2):
            image = Image.fromarray(draw_pixels(label, number))
            image.save(root / name / f"{number:04}.jpg", quality=95, subsampling=0)
    return root


TINY = ("--recipe", "demo", "--model.widths", "[4,4,8,8,8]", "--data.batch_size", "16", "--data.val_size", "100")
TINY += ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.log_every_n_steps", "2")


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Arguments of `fit` for a run of two steps."""
    return list(TINY)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """The directory of such a run."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    assert main(["fit", *TINY, "--run_dir", str(run_dir)]) == 0
    return run_dir
