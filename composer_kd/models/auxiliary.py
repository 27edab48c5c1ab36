"""Modules beside the net: trained with it, but no part of the model that is saved and deployed."""

from __future__ import annotations

from collections.abc import Mapping

from composer.core import State
from torch import nn

from composer_kd.core.errors import UserError
from composer_kd.models.classifier import unwrapped

__all__ = ['AUXILIARY', 'attach_auxiliary', 'is_auxiliary']

AUXILIARY = 'auxiliary_modules'


def is_auxiliary(name: str) -> bool:
    """Whether a parameter's or buffer's name is one of a module beside the net."""
    return AUXILIARY in name.split('.')


def attach_auxiliary(state: State, owner: str, modules: Mapping[str, nn.Module]) -> None:
    """Make modules a part of the Trainer's model and of its optimizer; called at INIT, before a checkpoint is loaded.

    Args:
        state: Composer's state.
        owner: The name of the algorithm that brings them; one algorithm brings modules once.
        modules: By name.
    """
    model = unwrapped(state.model)
    beside = getattr(model, AUXILIARY, None)
    if beside is None:
        beside = nn.ModuleDict()
        model.add_module(AUXILIARY, beside)
    if owner in beside:
        if all(beside[owner][name] is module for name, module in modules.items()):  # type: ignore[index]
            return  # A Trainer before this one had the same model and algorithm.
        raise UserError(f'{owner}: the model has auxiliary modules of another {owner}; give the Trainer a new model')
    brought = nn.ModuleDict(dict(modules))
    beside[owner] = state.device.module_to_device(brought)
    parameters = [parameter for parameter in brought.parameters() if parameter.requires_grad]
    if parameters and state.optimizers:
        state.optimizers[0].add_param_group({'params': parameters})
