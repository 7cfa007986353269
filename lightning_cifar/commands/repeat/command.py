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
from lightning_cifar.errors import DivergenceError, InputError, check_range, reason
from lightning_cifar.run.directory import claim_directory, make_timed_directory
from lightning_cifar.run.refusal import list_missing, remove_empty
from lightning_cifar.run.settings.options import SEEDS, Arguments, check_options_of_fit, check_output, last_value
from lightning_cifar.run.settings.precedence import check_run_dir, layer_series, name_settings

CHOSEN = ("trainer.log_every_n_steps", "data.batch_size")  # by the number of batches, or of images of a folder
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
    add(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("A", "B"),
        help="compare two results, repeat.json or its directory, instead of training",
    )
    return arguments


def main(args: list[str]) -> int:
    """Run ``repeat`` and return the exit status.

    Raises:
        InputError: an option cannot be used.
    """
    arguments = parser()
    parsed, options = arguments.parse_known_args(args)
    if parsed.compare:
        if options:
            raise InputError(f"--compare takes two files and no other option, got {options[0]}")
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
    parent = Path("runs/repeat", name_settings(options))
    made = list_missing(parsed.run_dir or parent)
    run_dir = parsed.run_dir or make_timed_directory(parent)
    output = parsed.output or run_dir / "repeat.json"
    made = [*list_missing(output.parent), *([] if parsed.run_dir else [run_dir]), *made]
    try:
        # A seed that another process, or one that was killed, has just begun has no config.yaml yet.
        claim_directory(run_dir, "--run_dir", lambda parent: any(one.is_dir() for one in parent.glob("seed[0-9]*")))
        check_output(output)
        if output.parent.resolve() == run_dir.resolve() and SEED_FILE.fullmatch(output.name):
            raise InputError(f"--output {output}: such files hold the results of single seeds; name another file")
        if output.parent != run_dir:
            make_parent(output)
        repeat(fit, options, range(parsed.first_seed, parsed.first_seed + parsed.n), run_dir, output, ["repeat", *args])
    finally:
        for name in HIDDEN if not any(run_dir.glob("seed*")) else ():
            with suppress(OSError):
                (run_dir / name).unlink()
        remove_empty(made)
    return 0


def make_parent(output: Path) -> None:
    """Make the directory of ``--output``, so that an error precedes hours of training.

    Raises:
        InputError: the directory cannot be made.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--output {output}: cannot write to {error.filename}: {error.strerror}; name another file"
        ) from error


def repeat(args: list[str], typed: list[str], seeds: range, run_dir: Path, output: Path, command: list[str]) -> None:
    """Train and test the seeds without a result in ``run_dir``, and summarise all results there.

    Args:
        args: ``fit`` and its options, as `layer` returns them.
        typed: the options as the user typed them.
        seeds: the seeds to train.
        run_dir: directory of all seeds, including those of other processes.
        output: file of the summary.
        command: the command as typed, for the summary.

    Raises:
        InputError: earlier seeds have other settings, or their predictions are missing.
        DivergenceError: seeds diverged; the others were trained and summarised.
        SystemExit: a signal stopped training.
    """
    from lightning_cifar.commands.repeat.seed import OWN, SEED, Shared, run_seed
    from lightning_cifar.files import one_at_a_time, write_json
    from lightning_cifar.run.job import parse
    from lightning_cifar.run.series import explain_stop, refuse_other_settings

    if all((run_dir / f"seed{seed}.json").exists() for seed in seeds):  # otherwise training compares settings
        job = parse(args, ["fit", *typed])
        chosen = CHOSEN if job.settings["data"]["dataset"] == "folder" else CHOSEN[:1]
        refuse_other_settings(job, run_dir, SEED, OWN | {name for name in chosen if not job.has_set(name)})
    print(f"run directory: {run_dir}", flush=True)
    shared = Shared()
    for seed in seeds:
        file = run_dir / f"seed{seed}.json"
        if file.exists():
            print(f"{format_seed(read_seed(file))}, from an earlier start", flush=True)
            continue
        try:
            with explain_stop(f"seed {seed}", run_dir):
                result = run_seed(args, typed, seed, run_dir, shared)
        except DivergenceError as error:  # the others may not
            result = {"seed": seed, "directory": f"{SEED}{seed}", "diverged": reason(error)}
        write_json(file, result)
        print(format_seed(result), flush=True)
    with one_at_a_time(run_dir / ".sum.lock", "summarises the seeds"):
        runs = [read_seed(file) for file in find_seeds(run_dir)]
        if all("diverged" in run for run in runs):
            raise DivergenceError(f"every seed diverged; {format_seed(runs[0])}")
        summary = summarise_seeds(sorted(runs, key=lambda run: run["seed"]), run_dir, command)
        print(format_summary(summary))
        write_json(output, summary)
    print(f"result: {output}")
    if diverged := describe_diverged(summary):
        raise DivergenceError(f"{diverged}; {format_seed(summary['diverged'][0])}")
