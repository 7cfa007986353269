"""``sweep``: searches hyper-parameters with Optuna, each trial trained by ``fit`` and judged by validation accuracy.

The study is an SQLite file in the run directory. Several processes with the same command and ``--run_dir`` share it, on
one machine: SQLite locks no files over a network.
"""

from importlib.util import find_spec
from pathlib import Path

from lightning_cifar.errors import InputError
from lightning_cifar.files import has_files
from lightning_cifar.options import Arguments, last_value
from lightning_cifar.run.settings import layer, make_series_directory

STUDY = "sweep.db"
DEFAULT = ["model.learning_rate", "data.batch_size"]  # what is searched where nothing is named: the report's question


def parser() -> Arguments:
    arguments = Arguments(
        "sweep",
        description=__doc__.splitlines()[0],
        epilog="Every option of fit may follow. Stopped, the same command with the same --run_dir goes on; started "
        "several times, the processes share the trials.",
    )
    arguments.add_argument("--n_trials", type=int, default=20, help="how many trials in all; default 20")
    arguments.add_argument("--run_dir", type=Path, help="a directory of this command, new or its own from before")
    arguments.add_argument(
        "--search",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="what to search: model.dropout=0:0.5, model.learning_rate=log:1e-4:1e-2, trainer.max_epochs=2:8 (whole "
        "numbers), data.batch_size=128,256; again for each parameter; default: learning rate and batch size around "
        "the recipe's",
    )
    arguments.add_argument(
        "--no_pruning", action="store_true", help="train every trial to its end, also those below the median"
    )
    return arguments


def main(args: list[str]) -> int:
    """Runs ``sweep`` with these arguments and returns the exit status.

    Raises:
        InputError: bad arguments.
    """
    own, rest = parser().parse_known_args(args)
    if own.n_trials < 1:
        raise InputError(f"--n_trials must be at least 1, got {own.n_trials}")
    for name in ("--ckpt_path", "--resume"):
        if last_value(rest, name) is not None:
            raise InputError(f"{name}: sweep trains every trial from the start; --run_dir goes on with its own")
    if last_value(rest, "--data.held_out") == "test":
        raise InputError("--data.held_out test: sweep chooses, and that by validation images alone")
    fit = layer(["fit", *rest])  # before torch is imported: typos are answered at once
    if find_spec("optuna") is None:
        raise InputError("sweep needs the extra: pip install 'lightning-cifar[sweep]'")
    from lightning_cifar.commands.sweep.space import default_space, own_values, space_of

    space = space_of(own.search)
    for name in space:
        if last_value(rest, f"--{name}") is not None:
            raise InputError(f"--{name} is given, and searched by --search {name}=...: one of both")
    known = own_values(fit, [*space] or DEFAULT)
    if not space:
        space = default_space(known, [name for name in DEFAULT if last_value(rest, f"--{name}") is not None])
    run_dir = own.run_dir or make_series_directory("sweep", rest)
    prepare_directory(run_dir)
    from lightning_cifar.commands.sweep.search import Search

    Search(fit, rest, space, run_dir / STUDY, pruning=not own.no_pruning).run(own.n_trials, known)
    return 0


def prepare_directory(run_dir: Path) -> None:
    """Makes it.

    Raises:
        InputError: it cannot be made, or holds something else than a sweep.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if has_files(run_dir) and not (run_dir / STUDY).exists():
            raise InputError(f"--run_dir {run_dir} is in use, and not by sweep")
    except OSError as error:
        raise InputError(f"cannot write to {error.filename}: {error.strerror}") from error
