"""Turn a pickled checkpoint into safetensors, in a process of its own that may crash alone.

``python -m composer_kd.storage.import_weights FILE OUT.safetensors`` is that process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from composer_kd.core.errors import UserError
from composer_kd.storage.atomic import atomic_write
from composer_kd.storage.torch_file import read_tensors

__all__ = ['import_weights', 'read_pickled_weights']

# Where checkpoints keep their weights, first match wins: Composer's, then the habits of other trainers.
_PLACES = (('state', 'model'), ('state_dict',), ('model_state_dict',), ('model',), ('net',))


def import_weights(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Write the weights of a pickled checkpoint as safetensors; a process of its own reads the pickle.

    Args:
        path: What ``torch.save`` wrote: a ``state_dict``, a checkpoint of Composer, or one that keeps its weights under
            ``state_dict``, ``model_state_dict``, ``model`` or ``net``.
        out: The ``.safetensors`` file.
    """
    path, out = Path(path), Path(out)
    if out.suffix != '.safetensors':
        raise UserError(f'{out}: the name of what is written ends in .safetensors')
    if not path.is_file():
        raise UserError(f'{path}: no such file; give a checkpoint or a state_dict that torch.save wrote')
    # Neither a crash nor the memory that a crafted file takes is ours.
    command = [sys.executable, '-m', 'composer_kd.storage.import_weights', str(path), str(out)]
    child = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    if child.returncode == _REFUSED:
        raise UserError(child.stderr.strip().splitlines()[-1])
    if child.returncode != 0:
        ending = f'signal {-child.returncode}' if child.returncode < 0 else f'status {child.returncode}'
        raise UserError(f'{path}: the process that read it ended with {ending}; the file may be crafted or damaged')


# The exit status of the process that reads a pickle, when its error line says everything.
_REFUSED = 3


def read_pickled_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a pickled checkpoint in this process."""
    weights = _weights_within(read_tensors(path))
    if weights is None:
        raise UserError(f'{path}: no weights in it; expected names and tensors, or a checkpoint that holds them')
    return weights


def _import_here(path: str, out: str) -> int:
    try:
        # Cloned: safetensors refuses tensors that share storage.
        tensors = {name: tensor.contiguous().clone() for name, tensor in read_pickled_weights(Path(path)).items()}
        atomic_write(out, safetensors.torch.save(tensors))
    except UserError as error:
        print(error, file=sys.stderr)
        return _REFUSED
    return 0


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


if __name__ == '__main__':
    raise SystemExit(_import_here(*sys.argv[1:]))
