"""Gates: how much each branch of a block counts, computed from the means of the block's input.

Every gate opens at 1, whatever the input, so that blocks with different gates start as the same function. Shapes: B
samples, C input channels, N branches, K output channels.
"""

from typing import Literal

import torch
from torch import Tensor, nn

GateName = Literal["relu", "softmax", "residual", "channel", "static"]
REDUCTION = 4  # of the channel gate's hidden layer


class Gate(nn.Module):
    """Means (B, C) to gates (B, N, 1), or (B, N, K) of ``channel``.

    Args:
        kind: ``relu(Linear(means))``, as reported; ``softmax``: N times that of ``Linear(means) / temperature`` (SKNet,
            arXiv 1903.06586; temperature, 1912.03458); ``residual``: ``1 + Linear(means)``; ``channel``: 2 sigmoids
            of a two-layer MLP, one for each output channel (Squeeze-and-Excitation, 1709.01507); ``static``: 1.
        in_channels: C.
        branches: N.
        out_channels: K.
        temperature: of ``softmax``, above 0; higher is nearer to an equal mix.
    """

    def __init__(
        self, kind: GateName, in_channels: int, branches: int, out_channels: int, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.kind, self.branches, self.temperature = kind, branches, temperature
        hidden = max(4, in_channels // REDUCTION)
        layers: list[nn.Module] = []
        if kind == "channel":
            layers = [nn.Linear(in_channels, hidden), nn.ReLU(), nn.Linear(hidden, branches * out_channels)]
        elif kind != "static":
            layers = [nn.Linear(in_channels, branches)]
        self.layers = nn.Sequential(*layers)
        if layers:
            last = self.layers[-1]
            nn.init.zeros_(last.get_parameter("weight"))
            # A ReLU gate with random weights can start, or fall, dead at (0, 0, 0), where it has no gradient: training
            # then stalls near chance for epochs.
            nn.init.constant_(last.get_parameter("bias"), 1.0 if kind == "relu" else 0.0)

    def forward(self, means: Tensor) -> Tensor:
        # Not len(means), a plain number, to which torch.export would bind the size of every batch.
        batch = means.shape[0]
        if self.kind == "static":
            return torch.ones(batch, self.branches, 1, dtype=means.dtype, device=means.device)
        raw = self.layers(means).view(batch, self.branches, -1)
        if self.kind == "relu":
            return raw.relu()
        if self.kind == "softmax":
            return self.branches * (raw / self.temperature).softmax(1)
        return 1 + raw if self.kind == "residual" else 2 * raw.sigmoid()
