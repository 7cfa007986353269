"""A network with complex parameters; its source also stands in the file of a user."""

import torch
from torch import nn


class Spectral(nn.Module):
    """Weigh the spectrum of the rows."""

    def __init__(self, num_classes):
        super().__init__()
        self.filters = nn.Parameter(torch.randn(3, 17, 8, dtype=torch.cfloat))
        self.head = nn.Linear(8, num_classes)

    def forward(self, pixels):
        spectrum = torch.fft.rfft(pixels.mean(2))
        return self.head(torch.einsum("bcw,cwo->bo", spectrum, self.filters).abs())
