"""Gates: the weight of each branch of a block, computed from the channel means of the block's input.

Every gate starts at 1 for any input, so blocks with different gates start as the same function.
Shapes: B samples, C input channels, N branches, K output channels.
"""

from typing import Literal

import torch
from torch import Tensor, nn

GateName = Literal["relu", "straight_through", "softmax", "residual", "channel", "static"]
RELU = ("relu", "straight_through")  # gates whose values are those of a ReLU
REDUCTION = 4  # input channels per hidden unit of the ``channel`` gate


class Gate(nn.Module):
    """Map channel means (B, C) to gate values (B, N, 1), or (B, N, K) if ``kind`` is ``channel``.

    Args:
        kind: ``relu``: ``relu(Linear(means))``, as in the report. ``straight_through``: the same values, with a
            gradient where they are 0 too (arXiv 1308.3432), so that a branch can be switched on again. ``softmax``: N
            times the softmax of ``Linear(means) / temperature`` (SKNet, arXiv 1903.06586; temperature: 1912.03458).
            ``residual``: ``1 + Linear(means)``. ``channel``: twice the sigmoid of a two-layer MLP, one value for each
            output channel (Squeeze-and-Excitation, 1709.01507). ``static``: 1.
        in_channels: C; ``branches``: N; ``out_channels``: K.
        temperature: of ``softmax``, above 0; a higher one gives a more even mix.
    """

    def __init__(
        self, kind: GateName, in_channels: int, branches: int, out_channels: int, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.kind, self.branches, self.temperature = kind, branches, temperature
        layers: list[nn.Module] = []
        if kind == "channel":
            hidden = max(4, in_channels // REDUCTION)
            layers = [nn.Linear(in_channels, hidden), nn.ReLU(), nn.Linear(hidden, branches * out_channels)]
        elif kind != "static":
            layers = [nn.Linear(in_channels, branches)]
        self.layers = nn.Sequential(*layers)
        if layers:
            nn.init.zeros_(layers[-1].get_parameter("weight"))
            # A ReLU gate with random weights can start or end at (0, 0, 0), where its gradient is 0 too.
            nn.init.constant_(layers[-1].get_parameter("bias"), 1.0 if kind in RELU else 0.0)

    def forward(self, means: Tensor) -> Tensor:
        batch = means.shape[0]  # not len(means): torch.export would fix the batch size
        if self.kind == "static":
            return torch.ones(batch, self.branches, 1, dtype=means.dtype, device=means.device)
        raw = self.layers(means).view(batch, self.branches, -1)
        if self.kind == "relu":
            return raw.relu()
        if self.kind == "straight_through":
            return raw + (raw.relu() - raw).detach()  # exact: either x + 0 or x - x
        if self.kind == "softmax":
            return self.branches * (raw / self.temperature).softmax(1)
        return 1 + raw if self.kind == "residual" else 2 * raw.sigmoid()
