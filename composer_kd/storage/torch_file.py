"""A reader of ``torch.save`` files: names, numbers and tensors, without running code that the file names.

``torch.load(weights_only=True)`` is not enough: before torch 2.10 a crafted file corrupts memory through it
(CVE-2026-24747), and it refuses the random state of NumPy in Composer's checkpoints. This reader is Python alone. It
calls a fixed list of functions, checks each storage against the bytes that are there and each tensor against its
storage, and refuses everything else by name.
"""

from __future__ import annotations

import datetime
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from composer_kd.core.errors import UserError

__all__ = ['foreign_names', 'read_checkpoint', 'read_tensors']

Allowed = Mapping[tuple[str, str], Any]


def read_tensors(path: Path) -> Any:
    """Read the tensors of a file in the mappings and lists that hold them; leave out NumPy values and times.

    Both formats of ``torch.save`` are read. The caller looks for the weights in the result.
    """
    return _read(path, _TENSORS | _STATE_LEFT_OUT, 'save the weights alone, best as .safetensors')


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a Composer checkpoint: tensors, plain values, times and NumPy's random state."""
    state = _read(
        path,
        _TENSORS | _STATE,
        'keep plain values and tensors alone in a state_dict; remove the checkpoint to continue from an earlier one',
    )
    if not isinstance(state, dict):
        raise UserError(f'{path}: not a checkpoint of Composer; remove it')
    return state


def foreign_names(path: Path) -> list[str]:
    """List the ``module.name`` of everything that a checkpoint contains and :func:`read_checkpoint` refuses."""
    import pickletools

    with zipfile.ZipFile(path) as archive:
        data = archive.read(_pickle_in(archive))
    named = {arg for op, arg, _ in pickletools.genops(data) if op.name == 'GLOBAL' and isinstance(arg, str)}
    allowed = _TENSORS | _STATE
    split = [tuple(name.split(' ', 1)) for name in named]
    return sorted('.'.join(name) for name in split if name not in allowed and not _is_storage(*name))


class _RefusedError(Exception):
    """Carry the name in a file that is refused."""


def _read(path: Path, allowed: Allowed, remedy: str) -> Any:
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path, allowed)
        with path.open('rb') as file:
            return _read_legacy(file, path.stat().st_size, allowed)
    except _RefusedError as refused:
        raise UserError(f'{path}: refused: it names {refused}, which no file of its kind needs; {remedy}') from None
    # A damaged file may raise anything.
    except (Exception, RecursionError) as error:
        raise UserError(
            f'{path}: not a complete checkpoint: it is cut off or damaged; copy or write it again'
        ) from error


# -- the two formats --------------------------------------------------------------------------------------------------


def _read_zip(path: Path, allowed: Allowed) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        # torch never compresses, so its content is no larger than the file.
        if any(one.compress_type != zipfile.ZIP_STORED for one in members):
            raise ValueError('compressed')
        if sum(one.file_size for one in members) > path.stat().st_size:
            raise ValueError('larger than its file')
        name = _pickle_in(archive)
        root = name.removesuffix('data.pkl')
        if f'{root}byteorder' in archive.namelist() and archive.read(f'{root}byteorder') != sys.byteorder.encode():
            raise ValueError('written on a machine of another byte order')
        storages: dict[str, Tensor] = {}

        def storage(identity: Any) -> Tensor:
            kind, key, _, count = _storage_identity(identity, 5)
            if key not in storages:
                info = archive.getinfo(f'{root}data/{key}')
                if info.file_size != count * kind.itemsize:
                    raise ValueError('a storage of another size than its bytes')
                content = bytearray(archive.read(info))
                storages[key] = _flat(content, kind)
            return storages[key]

        with archive.open(name) as file:
            return _Unpickler(file, allowed, storage).load()


def _pickle_in(archive: zipfile.ZipFile) -> str:
    (name,) = [name for name in archive.namelist() if name.endswith('/data.pkl') and name.count('/') == 1]
    return name


def _read_legacy(file: BinaryIO, size: int, allowed: Allowed) -> Any:
    """Read the format of torch before 1.6, which is still written on request: pickles, then the storages' bytes."""

    def plain() -> Any:
        return _Unpickler(file, {}, _no_storage).load()

    if (plain(), plain()) != (0x1950A86A20F9469CFC6C, 1001) or plain().get('little_endian') != (
        sys.byteorder == 'little'
    ):
        raise ValueError('not of this format')
    storages: dict[str, tuple[bytearray, torch.dtype, Tensor]] = {}

    def storage(identity: Any) -> Tensor:
        kind, key, _, count = _storage_identity(identity, 6)
        if key not in storages:
            if count * kind.itemsize > size:
                raise ValueError('larger than its file')
            content = bytearray(count * kind.itemsize)
            storages[key] = content, kind, _flat(content, kind)
        return storages[key][2]

    content_of_file = _Unpickler(file, allowed, storage).load()
    for key in plain():
        content, kind, _ = storages[key]
        (count,) = struct.unpack('<q', file.read(8))
        if count * kind.itemsize != len(content) or file.readinto(content) != len(content):  # type: ignore[attr-defined]
            raise ValueError('cut off')
    return content_of_file


def _no_storage(identity: Any) -> Tensor:
    raise ValueError('a storage in a part without any')


def _storage_identity(identity: Any, length: int) -> tuple[torch.dtype, str, str, int]:
    if not isinstance(identity, tuple) or len(identity) != length or identity[0] != 'storage':
        raise ValueError('not a storage')
    _, kind, key, place, count = identity[:5]
    if not isinstance(kind, _Storage) or not isinstance(key, str) or '/' in key or not _is_count(count):
        raise ValueError('not a storage')
    if length == 6 and identity[5] is not None:
        raise ValueError('a view of a storage, which only very old files have')
    return kind.dtype, key, str(place), count


def _flat(content: bytearray, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


# -- the pickle machine -----------------------------------------------------------------------------------------------

_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]
_OPCODES = {
    code: handler
    for code, handler in _PythonUnpickler.dispatch.items()
    # Leave out those that make objects without our functions, and Python's extensions.
    if bytes([code]) not in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4,
                             pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.PERSID)
}  # fmt: skip


class _Unpickler(_PythonUnpickler):
    """Python's own unpickler, restricted to calling the allowed functions and setting the expected attributes."""

    dispatch: ClassVar[dict[int, Any]] = dict(_OPCODES)

    def __init__(self, file: Any, allowed: Allowed, storage: Callable[[Any], Tensor]):
        super().__init__(file, encoding='utf-8')
        self._admitted = allowed
        self._callables = {id(value) for value in allowed.values() if callable(value)}
        self.persistent_load = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._admitted:
            return self._admitted[module, name]
        if _is_storage(module, name):
            return _Storage(_STORAGES[name])
        raise _RefusedError(f'{module}.{name}')

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if id(function) not in self._callables or not isinstance(arguments, tuple):
            raise _RefusedError(f'a call of {type(function).__name__}')
        self.stack[-1] = function(*arguments)

    def load_newobj(self) -> None:
        self.load_reduce()

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, (_LeftOut, _Array, _Dtype)):
            target.__setstate__(state)
        elif type(target) is OrderedDict and isinstance(state, dict) and state.keys() <= {'_metadata'}:
            target.__dict__.update(state)  # A state_dict carries the versions of its modules.
        else:
            raise _RefusedError(f'attributes of {type(target).__name__}')

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.BUILD[0]] = load_build


# -- what may be in a file ---------------------------------------------------------------------------------------------


class _Storage:
    """The type of a storage."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype


_STORAGES = {
    'FloatStorage': torch.float32, 'DoubleStorage': torch.float64, 'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16, 'LongStorage': torch.int64, 'IntStorage': torch.int32,
    'ShortStorage': torch.int16, 'CharStorage': torch.int8, 'ByteStorage': torch.uint8, 'BoolStorage': torch.bool,
    'ComplexFloatStorage': torch.complex64, 'ComplexDoubleStorage': torch.complex128, 'UntypedStorage': torch.uint8,
}  # fmt: skip


def _is_storage(module: str, name: str) -> bool:
    return module in ('torch', 'torch.storage', 'torch.cuda') and name in _STORAGES


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *others: Any) -> Tensor:
    """Make a tensor over a storage; the other arguments (gradients, hooks) are not needed."""
    if not isinstance(storage, Tensor) or storage.dim() != 1:
        raise ValueError('a tensor without a storage')
    valid = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 64
    if not valid or not all(map(_is_count, (offset, *size, *stride))):
        raise ValueError('a tensor of no shape')
    last = sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and offset + last >= len(storage):
        raise ValueError('a tensor beyond its storage')
    # A tensor without elements may begin anywhere.
    return torch.as_strided(storage, size, stride, 0 if 0 in size else offset)


def _parameter(data: Any, *others: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError('a parameter without a tensor')
    return data


def _latin1(text: Any, encoding: Any) -> bytes:
    """Decode bytes as pickles of protocol 2 write them."""
    if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
        raise ValueError('not bytes')
    return text.encode('latin1')


class _LeftOut:
    """Stand in for a value that weights do not need."""

    def __init__(self, *arguments: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Dtype:
    """Stand in for NumPy's dtype: numbers and booleans only."""

    def __init__(self, name: Any, *flags: Any):
        if not isinstance(name, str) or name not in {'b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4',
                                                     'f8'}:  # fmt: skip
            raise _RefusedError(f'a NumPy type {name!r}')
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Check the byte order; refuse fields, shapes and metadata."""
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ('<', '|', '=') or any(state[2:5]):
            raise ValueError('not a plain type')


class _Array(np.ndarray):
    """An array of numbers over the bytes in the file."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        if not isinstance(kind, _Dtype) or not isinstance(content, bytes) or not all(map(_is_count, shape)):
            raise ValueError('not an array of numbers')
        array = np.frombuffer(content, kind.name).reshape(shape, order='F' if fortran else 'C')
        super().__setstate__((1, array.shape, array.dtype, bool(fortran), array.tobytes('A')))  # type: ignore[arg-type]


def _empty_array(kind: Any, shape: Any, code: Any) -> _Array:
    return np.empty(0, np.uint8).view(_Array)


def _scalar(kind: Any, content: Any) -> Any:
    if not isinstance(kind, _Dtype) or not isinstance(content, bytes):
        raise ValueError('not a number')
    (value,) = np.frombuffer(content, kind.name)
    return value


def _set(values: Any = ()) -> set[Any]:
    return set(values)


_TENSORS: dict[tuple[str, str], Any] = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('torch._utils', '_rebuild_tensor'): _tensor,
    ('torch._utils', '_rebuild_tensor_v2'): _tensor,
    ('torch._utils', '_rebuild_parameter'): _parameter,
    ('torch', 'Size'): torch.Size,
    ('torch', 'device'): torch.device,
    ('builtins', 'set'): _set,
    ('__builtin__', 'set'): _set,
    ('_codecs', 'encode'): _latin1,
    **{('torch', str(dtype).removeprefix('torch.')): dtype for dtype in {*_STORAGES.values()}},
}
_NUMPY = [f'numpy.{core}.multiarray' for core in ('core', '_core')]
_STATE: dict[tuple[str, str], Any] = {
    ('datetime', 'timedelta'): datetime.timedelta,
    ('torch.torch_version', 'TorchVersion'): TorchVersion,
    ('numpy', 'dtype'): _Dtype,
    ('numpy', 'ndarray'): _Array,
    **{(module, '_reconstruct'): _empty_array for module in _NUMPY},
    **{(module, 'scalar'): _scalar for module in _NUMPY},
}


_STATE_LEFT_OUT = dict.fromkeys(_STATE, _LeftOut)
