"""``sweep``: search hyper-parameters with Optuna. Trials are trained as by ``fit`` and ranked by validation accuracy.

The study is an SQLite file in the run directory. Several processes on one machine can share it: they use the same
command and ``--run_dir``. SQLite cannot lock files over a network.
"""

from contextlib import ExitStack
from pathlib import Path

from lightning_cifar.errors import InputError, check_range, require_extra
from lightning_cifar.run.directory import make_directory, undo_if_refused
from lightning_cifar.run.settings.options import Arguments, check_options_of_fit, last_value
from lightning_cifar.run.settings.precedence import check_run_dir, layer_series, name_settings

STUDY = "sweep.db"
DEFAULT = ["model.learning_rate", "data.batch_size"]  # searched by default, as the course report asks


def parser() -> Arguments:
    arguments = Arguments(
        "sweep",
        description="Search hyper-parameters of a recipe with Optuna, by validation accuracy.",
        epilog="All options of fit are accepted. If the sweep is stopped, the same command with the same --run_dir "
        "resumes it. Several processes with the same --run_dir share the trials.",
    )
    add = arguments.add_argument
    add("--n_trials", type=int, default=20, help="total number of trials; default 20")
    add("--run_dir", type=Path, help="directory of the sweep, new or to resume")
    add(
        "--search",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="option to search: model.dropout=0:0.5, model.learning_rate=log:1e-4:1e-2, trainer.max_epochs=2:8 "
        "(integers), data.batch_size=128,256; repeat for each option; default: learning rate and batch size around "
        "those of the recipe",
    )
    add("--no_pruning", action="store_true", help="train every trial to its end, also those below the median")
    return arguments


def main(args: list[str]) -> int:
    """Run the command and return its exit status."""
    arguments = parser()
    parsed, options = arguments.parse_known_args(args)
    check_range("--n_trials", parsed.n_trials, "[1, inf)")
    check_options_of_fit(arguments, options)
    check_run_dir(parsed.run_dir)
    if {*str(parsed.run_dir or "")} & {*"?{}"}:  # the database is named by a URL
        raise InputError(f"--run_dir {parsed.run_dir}: use no question mark and no braces")
    if last_value(options, "--data.held_out") == "test":
        raise InputError("--data.held_out test: a sweep selects by validation images only; use val")
    if last_value(options, "--trainer.limit_val_batches") in ("0", "0.0"):
        raise InputError("--trainer.limit_val_batches 0: a sweep selects by validation images; leave it out")
    fit = layer_series("sweep", options, "trial")  # before torch is imported: typing errors are reported at once
    require_extra("sweep", "sweep", ["optuna"])
    from lightning_cifar.commands.sweep.space import make_default_space, parse_space, read_values

    space = parse_space(parsed.search)
    for name in space:
        if last_value(options, f"--{name}") is not None:
            raise InputError(f"--{name} is given and also searched by --search {name}=...: remove one of them")
    known = read_values(fit, [*space] or [*DEFAULT, "data.dataset"])
    if not space:
        dataset = known.pop("data.dataset")  # by configurations; a flag wins
        given = [name for name in DEFAULT if last_value(options, f"--{name}") is not None]
        if (last_value(options, "--data.dataset") or dataset) == "folder":
            given.append("data.batch_size")  # `fit` chooses it by the number of images
        space = make_default_space(known, given)
    run_dir, made = make_directory(
        parsed.run_dir, Path("runs/sweep", name_settings(fit)), lambda directory: (directory / STUDY).exists()
    )
    from lightning_cifar.commands.sweep.search import Search

    with ExitStack() as ending:
        if not (run_dir / STUDY).exists():
            ending.push(undo_if_refused(run_dir, made))
        Search(fit, options, space, run_dir / STUDY, pruning=not parsed.no_pruning).run(parsed.n_trials, known)
    return 0
