from lightning_cifar.commands.repeat.command import main, parser

__all__ = ["main", "parser"]
