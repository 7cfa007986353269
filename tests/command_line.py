"""The command line, run in this process."""

from lightning_cifar import main


def run(capsys, *args: object) -> tuple[int, str, str]:
    """Run a command; return exit status, standard output and standard error."""
    capsys.readouterr()
    status = main([str(argument) for argument in args])
    return status, *capsys.readouterr()
