"""Weights on disk: safetensors, or a pickle that the user trusts, which a process of its own reads."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import xxhash
from composer.utils import dist
from torch import Tensor, nn

from composer_kd.core.errors import UserError
from composer_kd.models.auxiliary import is_auxiliary
from composer_kd.models.classifier import plain
from composer_kd.storage.atomic import atomic_write
from composer_kd.storage.import_weights import import_weights

__all__ = [
    'he_initialise',
    'load_into',
    'load_tensors_into',
    'load_weights',
    'match_weights',
    'pickle_refusal',
    'save_weights',
    'share_buffers',
    'tensors_hash',
    'tensors_of',
    'weights_hash',
    'with_more_classes',
]

PathLike = str | os.PathLike[str]

# Prefixes that wrappers put before every name: DistributedDataParallel and our Classifier, torch.compile, Lightning.
_PREFIXES = ('module.', '_orig_mod.', 'model.')


def save_weights(module: nn.Module, path: PathLike, metadata: Mapping[str, str] | None = None) -> None:
    """Write the net's parameters and buffers as safetensors under their plain names, atomically.

    Args:
        module: The net; wrappers (Classifier, DistributedDataParallel, ``torch.compile``) are taken off.
        path: The file, usually ``weights.safetensors``.
        metadata: Strings that are stored in the file's header.
    """
    # Cloned: safetensors refuses tensors that share storage, which tied weights and slices do.
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors_of(module).items()}
    atomic_write(path, safetensors.torch.save(tensors, dict(metadata or {})))


def load_weights(path: PathLike, trust_pickle: bool = False) -> dict[str, Tensor]:
    """Read names and tensors, onto the CPU, from a file of weights.

    Names come as they stand in the file; :func:`load_into` takes wrappers' prefixes off.

    Args:
        path: A ``.safetensors`` file. With ``trust_pickle`` also what ``torch.save`` wrote: a ``state_dict``, a
            checkpoint of Composer, or one that keeps its weights under ``state_dict``, ``model_state_dict``, ``model``
            or ``net``.
        trust_pickle: Open a file that is a pickle. A process of its own reads it, and calls nothing that the file
            names: what is more than tensors and plain values is refused.
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
    if not trust_pickle:
        raise UserError(pickle_refusal(path))
    with tempfile.TemporaryDirectory(prefix='composer_kd-weights-') as folder:
        out = Path(folder) / 'weights.safetensors'
        import_weights(path, out)
        # Into memory: the file goes with the folder.
        return {name: tensor.clone() for name, tensor in _load_safetensors(out).items()}


def pickle_refusal(path: PathLike) -> str:
    """Say why a file of weights that may be a pickle is not opened, and what to do."""
    return (
        f'{os.fspath(path)}: this may be a pickle, which is opened only where you say so; make it .safetensors with '
        f'`composer-kd import-weights`, or set trust_pickle: true'
    )


def load_into(module: nn.Module, path: PathLike, trust_pickle: bool = False) -> None:
    """Load the weights in ``path`` into ``module``, all of them or, where they do not fit, none and one line why.

    Args:
        module: The net; wrappers are taken off.
        path: See :func:`load_weights`.
        trust_pickle: See :func:`load_weights`.
    """
    load_tensors_into(module, load_weights(path, trust_pickle), os.fspath(path))


def load_tensors_into(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Load tensors into ``module``, all of them or, where they do not fit, none and one line why.

    Args:
        module: The net; wrappers are taken off.
        weights: Names and tensors.
        where: What error lines call them.
    """
    # Every tensor is accounted for; strict would ask for modules' extra state too, which safetensors cannot hold.
    plain(module).load_state_dict(match_weights(module, weights, where), strict=False)


def match_weights(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    where: str,
    remedy: str = 'name the model that they were trained in',
) -> dict[str, Tensor]:
    """``weights`` under the names that ``module`` has for them; one line why where they are not weights of it.

    Args:
        module: The net; wrappers are taken off.
        weights: Names and tensors; wrappers' prefixes may stand before the names of either side.
        where: What error lines call the weights.
        remedy: What error lines advise.
    """
    own = tensors_of(module)
    named = _fitting_names(weights, own)
    if problem := _misfit(own, named, remedy):
        raise UserError(f'{where}: {problem}')
    return named


def with_more_classes(
    module: nn.Module, weights: Mapping[str, Tensor], where: str, classes: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """Give weights of fewer classes the last layer of ``module``: outputs of the other classes stay as they are there.

    Args:
        module: The net, with its own initialisation.
        weights: Names and tensors, of a net that differs in its last layer alone.
        where: What error lines call the weights.
        classes: The number that each class of the weights has in ``module``; by default they come first, in order.
    """
    own = tensors_of(module)
    named = _fitting_names(weights, own)
    head = list(own)[-1].rpartition('.')[0]
    for name in [name for name in named if name.rpartition('.')[0] == head and name in own]:
        ours, theirs = own[name], named[name]
        if ours.shape[1:] != theirs.shape[1:] or len(theirs) > len(ours):
            continue  # For `fitting` to refuse.
        rows = range(len(theirs)) if classes is None else classes
        if len(rows) != len(theirs):
            raise UserError(f'{where}: has {len(theirs)} outputs for {len(rows)} classes; name the model of that run')
        named[name] = ours.detach().clone().index_copy_(0, torch.tensor(rows), theirs.to(ours))
    return named


def weights_hash(module: nn.Module) -> str:
    """128-bit xxh3 over the names, dtypes, shapes and bytes of parameters and buffers, in the order of their names.

    Two nets have the same hash exactly if ``save_weights`` would write the same tensors, on whatever device they are.
    """
    return tensors_hash(tensors_of(module))


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """The :func:`weights_hash` of a net that has these tensors."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(tensors.items()):
        digest.update(f'{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0'.encode())
        # reshape first: a scalar cannot be viewed as bytes.
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """List parameters and buffers by name, without auxiliary modules and without extra state that is not a tensor."""
    return {
        name: value
        for name, value in plain(module).state_dict().items()
        if isinstance(value, Tensor) and not is_auxiliary(name)
    }


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise UserError(f'{path}: not a whole safetensors file ({error}); copy or write it again') from error


def _fitting_names(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` with wrappers' prefixes taken off, or those of ``own`` put on, as far as more of the names fit."""
    candidates = [{name: tensor for name, tensor in weights.items() if not is_auxiliary(name)}]
    while prefix := _shared_prefix(candidates[-1]):
        candidates.append({name.removeprefix(prefix): tensor for name, tensor in candidates[-1].items()})
    bare, wrappers, names = candidates[-1], '', set(own)
    while prefix := _shared_prefix(names):
        wrappers += prefix
        names = {name.removeprefix(prefix) for name in names}
        candidates.append({wrappers + name: tensor for name, tensor in bare.items()})
    return max(candidates, key=lambda named: len(named.keys() & own.keys()))  # the first of the best


def _shared_prefix(names: Collection[str]) -> str | None:
    return next((p for p in _PREFIXES if names and all(name.startswith(p) for name in names)), None)


def _misfit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], remedy: str) -> str | None:
    """What keeps ``weights`` from fitting a net with the tensors ``own``; None if they fit."""
    missing = [name for name in own if name not in weights]
    unexpected = sorted(name for name in weights if name not in own)
    if missing or unexpected:
        parts = [
            f'{what} {_first(names)}' for what, names in (('lacks', missing), ('has unexpected', unexpected)) if names
        ]
        return f'not weights of this model: {" and ".join(parts)}; {remedy}'
    reshaped = [name for name in own if own[name].shape != weights[name].shape]
    if not reshaped:
        return None
    ours, theirs = own[reshaped[0]].shape, weights[reshaped[0]].shape
    head = reshaped[0].rpartition('.')[0]
    if all(name.rpartition('.')[0] == head for name in reshaped) and ours[1:] == theirs[1:] and _is_last(head, own):
        return f'has {theirs[0]} classes, the model {ours[0]}; the number of classes must be the same'
    return (
        f'not weights of this model: {reshaped[0]} has the shape {list(theirs)}, the model {list(ours)}'
        f'{_more(reshaped)}; {remedy}'
    )


def _is_last(head: str, own: Mapping[str, Tensor]) -> bool:
    return list(own)[-1].rpartition('.')[0] == head


def _first(names: list[str]) -> str:
    return names[0] + _more(names)


def _more(names: list[str]) -> str:
    return f' (and {len(names) - 1} more)' if len(names) > 1 else ''


def share_buffers(model: nn.Module) -> None:
    """Give rank 0's buffers to all ranks, which come here together."""
    if dist.get_world_size() == 1:
        return
    # One message a type of number instead of one a buffer: ResNet-56 has 171 of them.
    buffers = [buffer for buffer in model.buffers() if buffer.numel()]
    for dtype in sorted({buffer.dtype for buffer in buffers}, key=str):
        group = [buffer for buffer in buffers if buffer.dtype == dtype]
        flat = torch.cat([buffer.detach().reshape(-1) for buffer in group])
        dist.broadcast(flat, src=0)
        for buffer, values in zip(group, flat.split([buffer.numel() for buffer in group]), strict=True):
            buffer.copy_(values.view_as(buffer))


def he_initialise(net: nn.Module) -> None:
    """Draw every convolution from ``N(0, 2 / (outputs k^2))`` (He et al, 2015, fan out) and set its bias to zero."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
            if module.bias is not None:
                nn.init.zeros_(module.bias)
