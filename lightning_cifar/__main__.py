"""``python -m lightning_cifar``: the command line, or one line about a Python that cannot run it."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  the line is for those
    version = sys.version.split()[0]
    sys.stderr.write(f"error: lightning-cifar needs Python 3.11 or newer, and {sys.executable} is {version}\n")
    raise SystemExit(2)
try:
    from lightning_cifar.commands.cli import main
except ModuleNotFoundError as error:
    from lightning_cifar.run.process.exit_status import explain

    status, message = explain(error)
    if status is None:
        raise
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(status) from None
status = main()
if "IPython" not in sys.modules or sys.modules["IPython"].get_ipython() is None:
    raise SystemExit(status)  # which IPython's `%run -m` would show as a traceback
