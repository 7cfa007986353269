from lightning_cifar.commands.export.command import main, parser

__all__ = ["main", "parser"]
