from lightning_cifar.commands.predict.command import main, parser

__all__ = ["main", "parser"]
