"""``sweep``: search hyper-parameters with Optuna; trials are trained as by ``fit``, judged by validation accuracy.

The study is an SQLite file in the run directory. Several processes with the same command and ``--run_dir`` share it, on
one machine: SQLite cannot lock files over a network.
"""

from pathlib import Path

from lightning_cifar.errors import InputError, check_range, require_extra
from lightning_cifar.files import claim_directory, make_timed_directory
from lightning_cifar.options import Arguments, last_value
from lightning_cifar.run.settings import layer, name_settings

STUDY = "sweep.db"
DEFAULT = ["model.learning_rate", "data.batch_size"]  # searched by default, as the course report asks


def parser() -> Arguments:
    arguments = Arguments(
        "sweep",
        description="Searches hyper-parameters of a recipe with Optuna, by validation accuracy.",
        epilog="Every option of fit may follow. The same command with the same --run_dir resumes a sweep that was "
        "stopped; several processes started so share the trials.",
    )
    arguments.add_argument("--n_trials", type=int, default=20, help="number of trials in all; default 20")
    arguments.add_argument("--run_dir", type=Path, help="a directory of sweep, new or from an earlier start")
    arguments.add_argument(
        "--search",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="what to search: model.dropout=0:0.5, model.learning_rate=log:1e-4:1e-2, trainer.max_epochs=2:8 (whole "
        "numbers), data.batch_size=128,256; repeat for each parameter; default: learning rate and batch size around "
        "the recipe's",
    )
    arguments.add_argument(
        "--no_pruning", action="store_true", help="train every trial to its end, even if it is below the median"
    )
    return arguments


def main(args: list[str]) -> int:
    """Run ``sweep`` and return the exit status.

    Raises:
        InputError: an option cannot be used.
    """
    own, options = parser().parse_known_args(args)
    check_range("--n_trials", own.n_trials, "[1, inf)")
    for name in ("--ckpt_path", "--resume"):
        if last_value(options, name) is not None:
            raise InputError(f"{name}: sweep trains every trial from the start; --run_dir resumes an earlier one")
    if last_value(options, "--data.held_out") == "test":
        raise InputError("--data.held_out test: a sweep may choose by validation images only")
    fit = layer(["fit", *options])  # before torch is imported: typing errors are answered at once
    require_extra("sweep", "sweep", ["optuna"])
    from lightning_cifar.commands.sweep.space import default_space, own_values, space_of

    space = space_of(own.search)
    for name in space:
        if last_value(options, f"--{name}") is not None:
            raise InputError(f"--{name} is given and also searched by --search {name}=...: remove one of them")
    known = own_values(fit, [*space] or DEFAULT)
    if not space:
        space = default_space(known, [name for name in DEFAULT if last_value(options, f"--{name}") is not None])
    run_dir = own.run_dir or make_timed_directory(Path("runs/sweep", name_settings(options)))
    claim_directory(run_dir, "--run_dir", lambda directory: (directory / STUDY).exists())
    from lightning_cifar.commands.sweep.search import Search

    Search(fit, options, space, run_dir / STUDY, pruning=not own.no_pruning).run(own.n_trials, known)
    return 0
