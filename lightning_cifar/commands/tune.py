"""``tune``: Lightning's learning-rate finder and batch-size finder, for a recipe. It prints what to type, no more."""

import shlex

from lightning_cifar.arguments import Arguments, layered
from lightning_cifar.errors import InputError

FROM_MEMORY = 0  # --batch_size without a limit


def parser() -> Arguments:
    arguments = Arguments(
        "tune",
        description=__doc__.splitlines()[0],
        epilog="Every option of fit may follow. Without --batch_size: --lr.",
    )
    arguments.add_argument(
        "--lr", action="store_true", help="a learning rate: where the loss falls steepest while the rate is raised"
    )
    arguments.add_argument(
        "--batch_size",
        type=int,
        nargs="?",
        const=FROM_MEMORY,
        metavar="LIMIT",
        help="the largest batch size that memory allows, doubled from 16 on, up to LIMIT; on a CPU, LIMIT is needed",
    )
    arguments.add_argument(
        "--run_dir", help="where to write the picture, new or empty; default runs/tune/<recipe>/<time>"
    )
    return arguments


def main(args: list[str]) -> int:
    """Runs ``tune`` with these arguments and returns the exit status.

    Raises:
        InputError: bad arguments.
    """
    own, rest = parser().parse_known_args(args)
    for name in ("--ckpt_path", "--resume", "--wandb"):
        if any(one.split("=")[0] == name for one in rest):
            raise InputError(f"{name}: tune trains a few steps from the start, and keeps nothing of them")
    fit = layered(
        ["fit", *rest, *(["--run_dir", own.run_dir] if own.run_dir else [])]
    )  # before torch is imported: typos are answered at once
    from lightning_cifar.commands.finders import FIRST, Finders

    if own.batch_size is not None and own.batch_size != FROM_MEMORY and own.batch_size < FIRST:
        raise InputError(f"--batch_size {own.batch_size}: the limit must be at least {FIRST}, where the search begins")
    found = Finders(fit, own.lr or own.batch_size is None, own.batch_size).found
    if found:
        typed = [word for name, value in found.items() for word in (f"--{name}", value)]
        print(f"to train with it:\n{shlex.join(['python', '-m', 'lightning_cifar', 'fit', *rest, *typed])}")
    return 0
