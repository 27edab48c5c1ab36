"""Weights on disk: written as safetensors, read from whatever people keep them in, and never by running a pickle."""

from __future__ import annotations

import datetime
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
import xxhash
from torch import Tensor, nn
from torch.serialization import safe_globals
from torch.torch_version import TorchVersion

from composer_kd.archive.files import atomic_write, is_whole_zip
from composer_kd.errors import UserError
from composer_kd.models.classifier import plain

__all__ = ['load_into', 'load_weights', 'save_weights', 'weights_hash']

PathLike = str | os.PathLike[str]

# Prefixes that wrappers put before every name: DistributedDataParallel and our Classifier, torch.compile, Lightning.
_PREFIXES = ('module.', '_orig_mod.', 'model.')
# Where checkpoints keep their weights, first match wins: Composer's, then the habits of other trainers.
_PLACES = (('state', 'model'), ('state_dict',), ('model_state_dict',), ('model',), ('net',))


def save_weights(module: nn.Module, path: PathLike, metadata: Mapping[str, str] | None = None) -> None:
    """Write the net's parameters and buffers as safetensors under their plain names, atomically.

    Args:
        module: The net; wrappers (Classifier, DistributedDataParallel, ``torch.compile``) are taken off.
        path: The file, usually ``weights.safetensors``.
        metadata: Strings that are stored in the file's header.
    """
    # Cloned: safetensors refuses tensors that share storage, which tied weights and slices do.
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in _tensors(module).items()}
    atomic_write(path, safetensors.torch.save(tensors, dict(metadata or {})))


def load_weights(path: PathLike) -> dict[str, Tensor]:
    """Names and tensors, on the CPU, from a file of weights.

    Read are ``.safetensors``, plain ``state_dict`` files, Composer checkpoints and checkpoints that keep their weights
    under ``state_dict``, ``model_state_dict``, ``model`` or ``net``. Names come as they stand in the file;
    :func:`load_into` takes wrappers' prefixes off. A pickle is read with ``weights_only``: classes other than a few
    that cannot do anything are refused, and there is no way around that.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f'{path}: this is a folder; name the file of weights in it')
    if not path.is_file():
        raise UserError(f'{path}: no such file; give a .safetensors file or a checkpoint')
    try:
        path.open('rb').close()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    if path.suffix == '.safetensors':
        return _load_safetensors(path)
    found = _load_pickle(path)
    weights = _weights_within(found)
    if weights is None:
        raise UserError(f'{path}: no weights in it; expected names and tensors, or a checkpoint that holds them')
    return weights


def load_into(module: nn.Module, path: PathLike) -> None:
    """Load the weights in ``path`` into ``module``, all of them or, where they do not fit, none and one line why.

    Args:
        module: The net; wrappers are taken off.
        path: See :func:`load_weights`.
    """
    own = _tensors(module)
    weights = _fitting_names(load_weights(path), own)
    if problem := _misfit(own, weights):
        raise UserError(f'{os.fspath(path)}: {problem}')
    # Every tensor is accounted for; strict would ask for modules' extra state too, which safetensors cannot hold.
    plain(module).load_state_dict(weights, strict=False)


def weights_hash(module: nn.Module) -> str:
    """128-bit xxh3 over the names, dtypes, shapes and bytes of parameters and buffers, in the order of their names.

    Two nets have the same hash exactly if ``save_weights`` would write the same tensors, on whatever device they are.
    """
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(_tensors(module).items()):
        digest.update(f'{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0'.encode())
        # reshape first: a scalar cannot be viewed as bytes.
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, without the extra state that some modules keep and that is not a tensor."""
    return {name: value for name, value in plain(module).state_dict().items() if isinstance(value, Tensor)}


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise UserError(f'{path}: not a whole safetensors file ({error}); copy or write it again') from error


def _load_pickle(path: Path) -> Any:
    damaged = f'{path}: not a whole checkpoint; it may be cut off or damaged, copy or write it again'
    # torch itself does not look at the checksums.
    if zipfile.is_zipfile(path) and not is_whole_zip(path):
        raise UserError(damaged)
    try:
        with safe_globals(_harmless()):
            return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        # torch explains at length, and ends by advising weights_only=False.
        what = re.search(r'GLOBAL (\S+)', str(error))
        reason = f'it asks for {what[1]}, which no file of weights needs' if what else 'it is no plain file of weights'
        raise UserError(f'{path}: refused: {reason}; save the weights alone, best as .safetensors') from error
    except Exception as error:  # a damaged pickle fails in whatever way its bytes happen to spell
        raise UserError(damaged) from error


def _harmless() -> list[Any]:
    """The classes beyond torch's own that a Composer checkpoint holds; all of them are inert data.

    Checkpoints keep the wall-clock time of training, the version of torch and NumPy's random state. NumPy 1 and 2
    write the latter under different names, whichever of the two reads it.
    """
    reconstruct = np.ndarray.__reduce__(np.empty(0))[0]
    numbers = [type(np.dtype(name)) for name in ('uint32', 'int64', 'float32', 'float64')]
    return [
        datetime.timedelta,
        TorchVersion,
        np.ndarray,
        np.dtype,
        *numbers,
        (reconstruct, 'numpy.core.multiarray._reconstruct'),
        (reconstruct, 'numpy._core.multiarray._reconstruct'),
    ]


def _weights_within(found: Any) -> dict[str, Tensor] | None:
    if not isinstance(found, Mapping):
        return None
    for place in _PLACES:
        inner: Any = found
        for key in place:
            inner = inner.get(key) if isinstance(inner, Mapping) else None
        if _is_weights(inner):
            return {name: value for name, value in inner.items() if isinstance(value, Tensor)}
    if _is_weights(found):
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}
    return None


def _is_weights(value: Any) -> bool:
    """Whether this is a state_dict: names to tensors, with modules' extra state at most beside them."""
    if not isinstance(value, Mapping):
        return False
    names = [name for name in value if not str(name).endswith('_extra_state')]
    return bool(names) and all(isinstance(name, str) and isinstance(value[name], Tensor) for name in names)


def _fitting_names(weights: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` with wrappers' prefixes taken off, as far as that makes more of the names fit."""
    best = weights
    while prefix := next((p for p in _PREFIXES if weights and all(name.startswith(p) for name in weights)), None):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
        if len(weights.keys() & own.keys()) > len(best.keys() & own.keys()):
            best = weights
    return best


def _misfit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str | None:
    """What keeps ``weights`` from fitting a net with the tensors ``own``; None if they fit."""
    missing = [name for name in own if name not in weights]
    unexpected = sorted(name for name in weights if name not in own)
    if missing or unexpected:
        parts = [
            f'{what} {_first(names)}' for what, names in (('lacks', missing), ('has unexpected', unexpected)) if names
        ]
        return f'not weights of this model: {" and ".join(parts)}; name the model that they were trained in'
    reshaped = [name for name in own if own[name].shape != weights[name].shape]
    if not reshaped:
        return None
    ours, theirs = own[reshaped[0]].shape, weights[reshaped[0]].shape
    head = reshaped[0].rpartition('.')[0]
    if all(name.rpartition('.')[0] == head for name in reshaped) and ours[1:] == theirs[1:] and _is_last(head, own):
        return f'has {theirs[0]} classes, the model {ours[0]}; the number of classes must be the same'
    return (
        f'not weights of this model: {reshaped[0]} has the shape {list(theirs)}, the model {list(ours)}'
        f'{_more(reshaped)}; name the model that they were trained in'
    )


def _is_last(head: str, own: Mapping[str, Tensor]) -> bool:
    return list(own)[-1].rpartition('.')[0] == head


def _first(names: list[str]) -> str:
    return names[0] + _more(names)


def _more(names: list[str]) -> str:
    return f' (and {len(names) - 1} more)' if len(names) > 1 else ''
