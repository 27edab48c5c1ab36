"""Read what ``torch.save`` wrote: names, numbers and tensors, without running anything that the file asks for.

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

Admitted = Mapping[tuple[str, str], Any]


def read_tensors(path: Path) -> Any:
    """The tensors of a file with the mappings and lists that hold them; NumPy's values and times are left out.

    Both formats of ``torch.save`` are read. The caller looks for the weights in what comes back.
    """
    return _read(path, _TENSORS | _left_out(), 'save the weights alone, best as .safetensors')


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Composer's checkpoint of a training: tensors, plain values, times and NumPy's random state."""
    state = _read(
        path,
        _TENSORS | _STATE,
        'whatever keeps it in its state_dict should keep plain values and tensors; remove the checkpoint to go on '
        'from an earlier one',
    )
    if not isinstance(state, dict):
        raise UserError(f'{path}: not a checkpoint of Composer; remove it')
    return state


def foreign_names(path: Path) -> list[str]:
    """What a checkpoint asks for that :func:`read_checkpoint` refuses, as ``module.name``."""
    import pickletools

    with zipfile.ZipFile(path) as archive:
        data = archive.read(_pickle_in(archive))
    asked = {arg for op, arg, _ in pickletools.genops(data) if op.name == 'GLOBAL' and isinstance(arg, str)}
    admitted = _TENSORS | _STATE
    split = [tuple(name.split(' ', 1)) for name in asked]
    return sorted('.'.join(name) for name in split if name not in admitted and not _is_storage(*name))


class _RefusedError(Exception):
    """Carries the name that a file asks for."""


def _read(path: Path, admitted: Admitted, remedy: str) -> Any:
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path, admitted)
        with path.open('rb') as file:
            return _read_legacy(file, path.stat().st_size, admitted)
    except _RefusedError as refused:
        raise UserError(f'{path}: refused: it asks for {refused}, which no file of its kind needs; {remedy}') from None
    # A damaged file fails in whatever way its bytes happen to spell.
    except (Exception, RecursionError) as error:
        raise UserError(
            f'{path}: not a whole checkpoint; it may be cut off or damaged, copy or write it again'
        ) from error


# -- the two formats --------------------------------------------------------------------------------------------------


def _read_zip(path: Path, admitted: Admitted) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        # torch stores and never compresses: what it wrote is no larger than the file.
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
            return _Unpickler(file, admitted, storage).load()


def _pickle_in(archive: zipfile.ZipFile) -> str:
    (name,) = [name for name in archive.namelist() if name.endswith('/data.pkl') and name.count('/') == 1]
    return name


def _read_legacy(file: BinaryIO, size: int, admitted: Admitted) -> Any:
    """What torch wrote before 1.6, and writes on request: pickles, then the bytes of the storages."""

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

    found = _Unpickler(file, admitted, storage).load()
    for key in plain():
        content, kind, _ = storages[key]
        (count,) = struct.unpack('<q', file.read(8))
        if count * kind.itemsize != len(content) or file.readinto(content) != len(content):  # type: ignore[attr-defined]
            raise ValueError('cut off')
    return found


def _no_storage(identity: Any) -> Tensor:
    raise ValueError('a storage where there is none')


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
    # Those that make an object without one of our functions, and Python's own extensions.
    if bytes([code]) not in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4,
                             pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.PERSID)
}  # fmt: skip


class _Unpickler(_PythonUnpickler):
    """Python's unpickler in Python, which calls what is admitted and sets no attribute that is not expected."""

    dispatch: ClassVar[dict[int, Any]] = dict(_OPCODES)

    def __init__(self, file: Any, admitted: Admitted, storage: Callable[[Any], Tensor]):
        super().__init__(file, encoding='utf-8')
        self._admitted = admitted
        self._callables = {id(value) for value in admitted.values() if callable(value)}
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
            target.__dict__.update(state)  # The versions of modules, beside a state_dict.
        else:
            raise _RefusedError(f'attributes of {type(target).__name__}')

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.BUILD[0]] = load_build


# -- what is admitted -------------------------------------------------------------------------------------------------


class _Storage:
    """A typed storage's name."""

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
    """A tensor over a storage; what follows (gradients, hooks) is of no use here."""
    if not isinstance(storage, Tensor) or storage.dim() != 1:
        raise ValueError('a tensor without a storage')
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride) or len(size) > 64:
        raise ValueError('a tensor of no shape')
    if not all(map(_is_count, (offset, *size, *stride))):
        raise ValueError('a tensor of no shape')
    last = sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and offset + last >= len(storage):
        raise ValueError('a tensor beyond its storage')
    # Without elements it may begin anywhere.
    return torch.as_strided(storage, size, stride, 0 if 0 in size else offset)


def _parameter(data: Any, *others: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError('a parameter without a tensor')
    return data


def _latin1(text: Any, encoding: Any) -> bytes:
    """How pickles of protocol 2 write bytes."""
    if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
        raise ValueError('not bytes')
    return text.encode('latin1')


class _LeftOut:
    """In the place of a value that no weights need."""

    def __init__(self, *arguments: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Dtype:
    """In the place of NumPy's type: numbers and truth values alone."""

    def __init__(self, name: Any, *flags: Any):
        if not isinstance(name, str) or name not in {'b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4',
                                                     'f8'}:  # fmt: skip
            raise _RefusedError(f'a NumPy type {name!r}')
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Take the byte order; fields, shapes and metadata are for types that are not admitted."""
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ('<', '|', '=') or any(state[2:5]):
            raise ValueError('not a plain type')


class _Array(np.ndarray):
    """An array of numbers over bytes that are there, however it is pickled."""

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


def _left_out() -> dict[tuple[str, str], Any]:
    return dict.fromkeys(_STATE, _LeftOut)
