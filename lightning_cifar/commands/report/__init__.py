from lightning_cifar.commands.report.command import main, parser

__all__ = ["main", "parser"]
