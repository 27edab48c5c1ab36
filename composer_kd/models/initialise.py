"""How the convolutional nets of this package begin."""

from __future__ import annotations

from torch import nn

__all__ = ['he_initialise']


def he_initialise(net: nn.Module) -> None:
    """Draw every convolution from ``N(0, 2 / (outputs k^2))`` (He et al, 2015, fan out) and set its bias to zero."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
            if module.bias is not None:
                nn.init.zeros_(module.bias)
