"""``serve``: a local web page and JSON API, to drop pictures on and see their classes."""

import socket
import sys
from importlib.util import find_spec

from lightning_cifar.errors import InputError
from lightning_cifar.options import PRETRAINED_NAME, Arguments

EXTRA = ("fastapi", "uvicorn", "python_multipart")
LOCAL = ("127.0.0.1", "::1", "localhost")
PATIENCE = 5  # seconds that requests have to finish in, once it is to end


def parser() -> Arguments:
    arguments = Arguments("serve", description="Serves a page at / and JSON at /predict, described by /openapi.json.")
    add = arguments.add_argument
    add("--ckpt_path", required=True, help=f"a checkpoint, a .safetensors file, or {PRETRAINED_NAME}")
    add("--host", default="127.0.0.1", help="address to listen at; default 127.0.0.1, this machine alone")
    add("--port", type=int, default=8000, help="default 8000; 0: any that is free")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    return arguments


def main(args: list[str]) -> int:
    """Serves until Ctrl-C or SIGTERM, which end it in order and are then raised again.

    Raises:
        InputError: bad arguments, the port is in use, or the extra is not installed.
    """
    own = parser().parse_args(args)
    if any(find_spec(name) is None for name in EXTRA):
        raise InputError("serve needs the extra: pip install 'lightning-cifar[serve]'")
    if not 0 <= own.port < 1 << 16:
        raise InputError(f"--port must be in [0, 65535], got {own.port}")
    with listening(own.host, own.port) as listener:
        import uvicorn

        from lightning_cifar.commands.serve.web import application
        from lightning_cifar.train.weights import load_named_model

        app = application(load_named_model(own.ckpt_path, own.device), LOCAL if own.host in LOCAL else None)
        host = f"[{own.host}]" if ":" in own.host else own.host
        if own.host not in LOCAL:
            print(f"warning: whoever reaches {host} can use it", file=sys.stderr)
        print(f"http://{host}:{listener.getsockname()[1]}  (Ctrl-C ends it)", flush=True)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=PATIENCE
        )
        uvicorn.Server(config).run([listener])
    return 0


def listening(host: str, port: int) -> socket.socket:
    """A socket there, before torch is imported: that it cannot be had is answered at once."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        why = str(error.strerror).split(" (")[0]  # it repeats the address
        raise InputError(f"--host {host} --port {port}: {why}; --port names another port, 0 is any") from error
