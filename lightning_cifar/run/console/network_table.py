"""The table of ``--print_model``: layers of the network with output sizes, parameters and FLOPs."""

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.model_summary import summarize
from torch import nn

from lightning_cifar.run.console.columns import align_columns

DEPTH = 4  # of nested modules; members of a ModuleList, such as the branches of a block, are one deeper
NAME = 34  # characters


def format_layers(module: LightningModule, size: int) -> str:
    """Return a table of at most 80 columns for an image of ``size`` pixels a side.

    FLOPs are of convolutions and matrix products: two for each multiplication and addition.
    """
    module.example_input_array = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    summary = summarize(module, max_depth=DEPTH + 1)
    lists = {name for name, one in module.named_modules() if isinstance(one, nn.ModuleList)}
    columns = zip(summary.layer_names, summary.layer_types, summary.out_sizes, summary.param_nums, strict=True)
    rows = []
    for name, kind, sizes, parameters in columns:
        deep = name.count(".") >= DEPTH and name.rpartition(".")[0] not in lists
        if name.startswith("network") and parameters and not deep and name not in lists:
            flops = sum(summary.flop_counts[name].values())
            shown = name.removeprefix("network.")[-NAME:]
            rows.append([shown, kind, str(sizes), f"{parameters:,}", f"{flops:,}"])
    return align_columns([["layer", "type", "output", "parameters", "FLOPs"], *rows])
