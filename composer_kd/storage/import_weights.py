"""Conversion of a pickled checkpoint to safetensors, in a separate process, so that a crafted file crashes that alone.

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

# Where the weights are, first match wins: in Composer's checkpoints, in those of other trainers, or the whole file.
_WEIGHT_KEYS = (('state', 'model'), ('state_dict',), ('model_state_dict',), ('model',), ('net',), ())


def import_weights(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Write the weights of a pickled checkpoint as safetensors; a separate process reads the pickle.

    Args:
        path: What ``torch.save`` wrote: a ``state_dict``, a checkpoint of Composer, or one that keeps its weights under
            ``state_dict``, ``model_state_dict``, ``model`` or ``net``.
        out: The ``.safetensors`` file.
    """
    path, out = Path(path), Path(out)
    if out.suffix != '.safetensors':
        raise UserError(f'{out}: the output file must end in .safetensors; rename it')
    if not path.is_file():
        raise UserError(f'{path}: no such file; give a checkpoint or a state_dict that torch.save wrote')
    # A crafted file may crash the process that reads it, or fill its memory: not ours.
    command = [sys.executable, '-m', 'composer_kd.storage.import_weights', str(path), str(out)]
    child = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    if child.returncode == _REFUSED:
        raise UserError(child.stderr.strip().splitlines()[-1])
    if child.returncode != 0:
        status = f'signal {-child.returncode}' if child.returncode < 0 else f'status {child.returncode}'
        raise UserError(
            f'{path}: the process that read it ended with {status}: the file may be crafted or damaged; get a copy'
        )


# The exit status of the reading process after an error that its last line on standard error explains.
_REFUSED = 3


def read_pickled_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a pickled checkpoint in this process."""
    weights = _find_weights(read_tensors(path))
    if weights is None:
        raise UserError(
            f'{path}: no weights found; give a state_dict (names and tensors) or a checkpoint that holds one'
        )
    return weights


def _import_in_this_process(path: str, out: str) -> int:
    try:
        # Cloned: safetensors refuses tensors that share storage.
        tensors = {name: tensor.contiguous().clone() for name, tensor in read_pickled_weights(Path(path)).items()}
        atomic_write(out, safetensors.torch.save(tensors))
    except UserError as error:
        print(error, file=sys.stderr)
        return _REFUSED
    return 0


def _find_weights(content: Any) -> dict[str, Tensor] | None:
    for keys in _WEIGHT_KEYS:
        inner: Any = content
        for key in keys:
            inner = inner.get(key) if isinstance(inner, Mapping) else None
        if _is_weights(inner):
            return {name: value for name, value in inner.items() if isinstance(value, Tensor)}
    return None


def _is_weights(value: Any) -> bool:
    """Tell whether this is a state_dict: names and tensors, and at most the extra state of modules."""
    if not isinstance(value, Mapping):
        return False
    names = [name for name in value if not str(name).endswith('_extra_state')]
    return bool(names) and all(isinstance(name, str) and isinstance(value[name], Tensor) for name in names)


if __name__ == '__main__':
    raise SystemExit(_import_in_this_process(*sys.argv[1:]))
