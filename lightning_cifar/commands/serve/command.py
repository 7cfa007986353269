"""``serve``: a local web page and JSON API that classify images."""

import asyncio
import errno
import logging
import socket
import sys

from lightning_cifar.errors import InputError, require_extra
from lightning_cifar.files import PRETRAINED_NAME
from lightning_cifar.run.settings.options import Arguments, add_checkpoint

EXTRA = ("fastapi", "uvicorn", "python_multipart")
LOCAL = ("127.0.0.1", "::1", "localhost")
PATIENCE = 5  # seconds for open requests to finish at shutdown
MAX_CONNECTIONS = 512  # further ones get status 503


def parser() -> Arguments:
    arguments = Arguments(
        "serve", description="Serve a web page at / and a JSON API at /predict, described by /openapi.json."
    )
    add_checkpoint(arguments, default=PRETRAINED_NAME)
    add = arguments.add_argument
    add("--host", default="127.0.0.1", help="address to listen on; default 127.0.0.1: this machine only")
    add("--port", type=int, default=8000, help="default 8000; 0: any free port")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    return arguments


def main(args: list[str]) -> int:
    """Serve until Ctrl-C or SIGTERM, which shut the server down and are then raised again."""
    options = parser().parse_args(args)
    require_extra("serve", "serve", EXTRA)
    if not 0 <= options.port < 1 << 16:
        raise InputError(f"--port must be in [0, 65535], got {options.port}")
    with open_socket(options.host, options.port) as listener:
        import uvicorn

        from lightning_cifar.commands.serve.connection import Connection
        from lightning_cifar.commands.serve.web import create_application
        from lightning_cifar.evaluate.prediction import load_named_model

        model = load_named_model(options.ckpt_path, options.device)
        app = create_application(model, LOCAL if options.host in LOCAL else None, options.ckpt_path)
        host = f"[{options.host}]" if ":" in options.host else options.host
        if options.host not in LOCAL:
            print(f"warning: anyone who can reach {host} can use this server", file=sys.stderr)
        print(f"http://{host}:{listener.getsockname()[1]}  (Ctrl-C stops it)", flush=True)
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=PATIENCE,
        )
        logging.getLogger("uvicorn.error").addFilter(is_no_cancellation)
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # its warnings are about what clients send
        uvicorn.Server(config).run([listener])
    return 0


def is_no_cancellation(record: logging.LogRecord) -> bool:
    """Return whether a record is not the traceback of a request that is cancelled when the server ends."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def open_socket(host: str, port: int) -> socket.socket:
    """Open the listening socket; called before torch is imported, so that errors are reported at once."""
    try:
        host.encode("idna")  # UnicodeError: a name that no host can have
        opened = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        # With the protocol named, asyncio sets TCP_NODELAY; without it, every answer waits 40 ms.
        return socket.socket(opened.family, opened.type, socket.IPPROTO_TCP, opened.detach())
    except (OSError, UnicodeError) as error:
        why = str(getattr(error, "strerror", error)).split(" (")[0]  # it repeats the address
        about_port = getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES)
        remedy = "set another --port, 0 for any free one" if about_port else "set --host to an address of this machine"
        raise InputError(f"--host {host} --port {port}: {why}; {remedy}") from error
