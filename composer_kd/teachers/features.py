"""Read what inner modules of a net put out in a forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from composer_kd.core.errors import UserError, nearest

__all__ = ['FeatureTap', 'feature_shapes']


class FeatureTap:
    """Takes the outputs of modules by name, with forward hooks.

    Hooks are set at INIT: a hook that comes after the first compiled batch is silently ignored. They keep outputs only
    while the tap is :attr:`open`, and :meth:`take` hands them over, so that nothing is retained between steps.

    Args:
        modules: Names as in ``named_modules()``, as ``'layer2'`` or ``'layers.1.conv'``.

    Example:
        .. testcode::

            from torch import nn
            from composer_kd.teachers import FeatureTap
            tap = FeatureTap('0')
            net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
            tap.attach(net, 'the net')
            tap.open = True
            net(torch.ones(2, 4))
            features = tap.take()['0']  # [2, 3]
            tap.remove()
    """

    def __init__(self, *modules: str):
        if not modules or not all(isinstance(name, str) for name in modules):
            raise UserError(f'features: expected names of modules, got {list(modules)!r}')
        self.modules = tuple(dict.fromkeys(modules))
        self.open = False
        self._taken: dict[str, Tensor] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def attach(self, net: nn.Module, owner: str) -> None:
        """Set a hook on each module.

        Args:
            net: The bare net, outside of wrappers: see :func:`composer_kd.models.classifier.plain`.
            owner: Names the net in an error line.
        """
        self.remove()
        named = dict(net.named_modules())
        for name in self.modules:
            if name not in named or not name:
                raise UserError(
                    f'features: {owner} has no module {name!r}; {nearest(name, [one for one in named if one])}'
                )
            self._hooks.append(named[name].register_forward_hook(self._hook(name)))

    def _hook(self, name: str):
        def keep(module: nn.Module, inputs: object, output: object) -> None:
            if self.open:
                if not isinstance(output, Tensor):
                    raise UserError(
                        f'features: module {name!r} gives a {type(output).__name__}; name one that gives a tensor'
                    )
                self._taken[name] = output

        return keep

    def take(self) -> dict[str, Tensor]:
        """Hand over what the last forward pass left, in float32, and close the tap."""
        taken, self._taken, self.open = self._taken, {}, False
        missing = [name for name in self.modules if name not in taken]
        if missing:
            raise UserError(f'features: module {missing[0]!r} took no part in the forward pass; name one that does')
        return {name: taken[name].float() for name in self.modules}

    def remove(self) -> None:
        """Remove the hooks and forget what they have kept."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._taken, self.open = [], {}, False

    @property
    def attached(self) -> bool:
        """Whether its hooks are set."""
        return bool(self._hooks)


def feature_shapes(
    net: nn.Module, modules: Sequence[str], shape: Sequence[int], owner: str
) -> dict[str, tuple[int, ...]]:
    """Find the shape of each module's output for one sample, with a forward pass of zeros that leaves no trace.

    Args:
        net: The bare net.
        modules: Names of its modules.
        shape: Of one input, as ``(3, 32, 32)``.
        owner: Names the net in an error line.
    """
    tap = FeatureTap(*modules)
    tap.attach(net, owner)
    modes = [(module, module.training) for module in net.modules()]
    parameter = next(net.parameters(), torch.zeros(()))
    try:
        net.eval()
        tap.open = True
        with torch.no_grad():
            net(torch.zeros(1, *shape, device=parameter.device, dtype=parameter.dtype))
        return {name: tuple(feature.shape[1:]) for name, feature in tap.take().items()}
    finally:
        tap.remove()
        for module, training in modes:
            module.training = training
