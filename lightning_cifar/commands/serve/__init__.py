from lightning_cifar.commands.serve.command import main, parser

__all__ = ["main", "parser"]
