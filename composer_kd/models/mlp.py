"""A perceptron without BatchNorm: the model whose result does not depend on how a batch is cut over ranks."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from composer_kd.models.registry import MODELS

__all__ = ['MLP', 'mlp']


class MLP(nn.Module):
    """Flattened images through hidden layers with ReLU, and perhaps drop-out, to logits."""

    def __init__(
        self, in_features: int, hidden: list[int], num_classes: int, dropout: float = 0.0, input_dropout: float = 0.0
    ):
        super().__init__()
        self.num_classes = num_classes
        widths = [in_features, *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        if input_dropout:
            layers.append(nn.Dropout(input_dropout))
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(x))


Share = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[int, Field(gt=0, le=10**6)]


@MODELS.register('mlp')
def mlp(
    num_classes: int,
    in_features: int,
    hidden: Annotated[list[Width], Field(max_length=1000)] | None = None,
    dropout: Share = 0.0,
    input_dropout: Share = 0.0,
) -> MLP:
    """Perceptron without BatchNorm; hidden: [128] unless given, perhaps with dropout and input_dropout."""
    return MLP(in_features, [128] if hidden is None else hidden, num_classes, dropout, input_dropout)
