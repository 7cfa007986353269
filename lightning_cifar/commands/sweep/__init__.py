from lightning_cifar.commands.sweep.command import main, parser

__all__ = ["main", "parser"]
