"""``repeat``: train and test n seeds of a recipe, and summarise them: mean, spread, interval.

Seeds are independent, so several machines can share them: start the command once on each, with ``--first_seed`` and
one common ``--run_dir``.
"""

from contextlib import suppress
from pathlib import Path

from lightning_cifar.commands.repeat.results import (
    SEED_FILE,
    describe_diverged,
    find_seeds,
    format_comparison,
    format_seed,
    format_summary,
    read_seed,
    summarise_seeds,
)
from lightning_cifar.errors import DivergenceError, InputError, check_range, list_some, reason
from lightning_cifar.run.directory import list_missing, make_directory, remove_empty
from lightning_cifar.run.settings.options import SEEDS, Arguments, check_options_of_fit, check_output, last_value
from lightning_cifar.run.settings.precedence import check_run_dir, layer_series, name_settings

HIDDEN = (".precision", ".precision.lock", ".sum.lock")  # files of all seeds


def parser() -> Arguments:
    arguments = Arguments(
        "repeat",
        description="Train and test n seeds of a recipe, and print mean, standard deviation and 95 % interval.",
        epilog="All options of fit are accepted, except --seed_everything. If the command is stopped, the same command "
        "with the same --run_dir trains the missing seeds.",
    )
    add = arguments.add_argument
    add("--n", type=int, default=5, help="number of seeds; default 5")
    add("--first_seed", type=int, default=0, help="first seed; default 0")
    add("--run_dir", type=Path, help="directory of the seeds, new or to resume")
    add("--output", type=Path, help="file of the result; default RUN_DIR/repeat.json")
    what = "compare two results, repeat.json or its directory, instead of training"
    add("--compare", nargs=2, type=Path, metavar=("A", "B"), help=what)
    return arguments


def main(args: list[str]) -> int:
    """Run the command and return its exit status."""
    arguments = parser()
    parsed, options = arguments.parse_known_args(args)
    if parsed.compare:
        if others := [*options, *(word for word in args if word.startswith("--") and word != "--compare")]:
            raise InputError(f"--compare takes two files and no other option, got {others[0]}")
        print(format_comparison(*parsed.compare))
        return 0
    check_range("--n", parsed.n, "[1, inf)")
    check_range("--first_seed", parsed.first_seed, SEEDS)
    check_range("--first_seed and --n: the last seed", parsed.first_seed + parsed.n - 1, SEEDS)
    check_options_of_fit(arguments, options)
    check_run_dir(parsed.run_dir)
    if last_value(options, "--seed_everything") is not None:
        raise InputError("--seed_everything: repeat sets the seeds; name the first by --first_seed")
    fit = layer_series("repeat", options, "seed")  # before torch is imported: typing errors are reported at once
    run_dir, made = make_directory(parsed.run_dir, Path("runs/repeat", name_settings(fit)), holds_seeds)
    output = parsed.output or run_dir / "repeat.json"
    made = [*list_missing(output.parent), *made]
    try:
        check_output(output, ".json")
        if output.parent.resolve() == run_dir.resolve() and SEED_FILE.fullmatch(output.name):
            raise InputError(f"--output {output}: such files hold the results of single seeds; name another file")
        if output.parent != run_dir:
            make_parent(output)
        repeat(fit, options, range(parsed.first_seed, parsed.first_seed + parsed.n), run_dir, output, ["repeat", *args])
    finally:
        if not any(run_dir.glob("seed*")):  # refused before a seed began
            for name in HIDDEN:
                with suppress(OSError):
                    (run_dir / name).unlink()
        remove_empty(made)
    return 0


def holds_seeds(directory: Path) -> bool:
    """Return whether seeds have begun there: one of another process, or a killed one, may lack config.yaml."""
    return any(one.is_dir() for one in directory.glob("seed[0-9]*"))


def make_parent(output: Path) -> None:
    """Make the directory of ``--output``, so that an error precedes hours of training."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--output {output}: cannot write to {error.filename}: {error.strerror}; name another file"
        ) from error


def repeat(args: list[str], typed: list[str], seeds: range, run_dir: Path, output: Path, command: list[str]) -> None:
    """Train and test the seeds without a result in ``run_dir``, and summarise all results there in ``output``.

    ``args`` are ``fit`` and its options, as `layer` returns them, ``typed`` those options as the user typed them, and
    ``command`` the whole command, for the summary. A `DivergenceError` follows once all other seeds are summarised.
    """
    from lightning_cifar.commands.repeat.seed import OWN, SEED, Shared, run_seed
    from lightning_cifar.files import write_json
    from lightning_cifar.run.job import parse
    from lightning_cifar.run.series import explain_stop, refuse_other_settings
    from lightning_cifar.sources.locks import one_at_a_time

    if all((run_dir / f"seed{seed}.json").exists() for seed in seeds):  # otherwise training compares settings
        job = parse(args, ["fit", *typed])
        refuse_other_settings(job, run_dir, SEED, OWN)
    print(f"run directory: {run_dir}", flush=True)
    shared = Shared()
    with explain_stop(lambda: f"in seed {seed}", run_dir):
        for seed in seeds:
            file = run_dir / f"seed{seed}.json"
            if file.exists():
                print(f"{format_seed(read_seed(file))}, from an earlier start", flush=True)
                continue
            try:
                result = run_seed(args, typed, seed, run_dir, shared)
            except DivergenceError as error:  # the others may not
                result = {"seed": seed, "directory": f"{SEED}{seed}", "diverged": reason(error)}
            write_json(file, result)
            print(format_seed(result), flush=True)
    with one_at_a_time(run_dir / ".sum.lock", "summarises the seeds"):
        runs = [read_seed(file) for file in find_seeds(run_dir)]
        if others := sorted(run["seed"] for run in runs if run["seed"] not in seeds):
            print(f"counted too, of earlier starts: {list_some([f'seed {seed}' for seed in others])}")
        if all("diverged" in run for run in runs):
            raise DivergenceError(f"every seed diverged; {format_seed(runs[0])}")
        summary = summarise_seeds(sorted(runs, key=lambda run: run["seed"]), run_dir, command)
        print(format_summary(summary))
        write_json(output, summary)
    print(f"result: {output}")
    if diverged := describe_diverged(summary):
        raise DivergenceError(f"{diverged}; {format_seed(summary['diverged'][0])}")
