"""Simulate a GPU: tensors that say ``cuda:0``, hold their data on the CPU, and follow the rules of two devices.

Inside ``with FakeGpu() as gpu`` a tensor is put there by ``gpu.put``, by ``.to('cuda')`` and ``.cuda()``, or by a
factory with ``device='cuda'``. What computes with a tensor from there and one from the CPU raises the RuntimeError that
torch raises, and every read back to the host is noted in ``gpu.reads``, with the line of this package it came from.

It cannot find: kernels that CUDA lacks or that compute differently, and other rounding; what autocast does on CUDA;
memory; anything that is late on a real GPU (streams, races, ``non_blocking`` copies that are read too soon); copies to
the device that stall it; pinned memory; generators of the device; what C++ does by itself (DistributedDataParallel,
the synchronisation inside of a kernel that is not named below); and mixed devices inside of one function of torch that
is written in Python, whose arguments alone are looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import composer_kd

__all__ = ['GPU', 'FakeGpu', 'OnGpu', 'Read']

GPU = torch.device('cuda', 0)
_PACKAGE = str(Path(composer_kd.__file__).parent)

# What waits for the device because the host, or the shape of the result, needs a value.
_READS = {
    '__bool__', '__complex__', '__contains__', '__float__', '__format__', '__index__', '__int__', '__repr__',
    'allclose', 'argwhere', 'bincount', 'equal', 'is_nonzero', 'item', 'masked_select', 'nonzero', 'tolist', 'unique',
    'unique_consecutive',
}  # fmt: skip
_MOVES = {'to', 'cpu', 'cuda', 'type_as'}
# They look at shapes, types or values across devices, and compute nothing.
_MIXES = {
    'broadcast_tensors', 'can_cast', 'copy_', 'expand_as', 'is_same_size', 'reshape_as', 'result_type', 'view_as',
    '_has_compatible_shallow_copy_type',
}  # fmt: skip
# Elsewhere a number without dimensions may lie on the CPU.
_NO_SCALARS = {'bmm', 'cat', 'einsum', 'gather', 'index_add', 'index_select', 'matmul', 'mm', 'scatter', 'stack'}


class Read(NamedTuple):
    """A read back to the host.

    Attributes:
        function: What was called.
        place: The innermost line of this package that led to it, ``None`` where the stack has none.
    """

    function: str
    place: str | None


class OnGpu(Tensor):
    """A tensor on the simulated GPU."""

    device = GPU  # type: ignore[assignment]
    is_cuda = True  # type: ignore[assignment]
    is_cpu = False  # type: ignore[assignment]

    def get_device(self) -> int:
        return 0

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first.")

    __array__ = numpy  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copy = memo[id(self)] = FakeGpu.put(self).requires_grad_(self.requires_grad)
            copy.__dict__.update(deepcopy(self.__dict__, memo))
        return memo[id(self)]

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        # Who is outside of every FakeGpu (a printed error, a cache) may look, and nothing is noted.
        return _call(func, args, kwargs or {}, [])


class FakeGpu(TorchFunctionMode):
    """The simulated GPU, for the length of a ``with`` block.

    Args:
        free: How many bytes of its memory it says are free.

    Attributes:
        reads: All reads back to the host so far.
    """

    def __init__(self, free: int = 1 << 30) -> None:
        super().__init__()
        self.free = free
        self.reads: list[Read] = []
        self._patches = ExitStack()

    def __enter__(self) -> FakeGpu:
        # Clocks put marks into the device's queue; tables that fit are put on the device.
        asked = {'Event': _Mark, 'current_stream': _Mark, 'mem_get_info': lambda *_: (self.free, 1 << 36)}
        for name, answer in asked.items():
            self._patches.enter_context(patch.object(torch.cuda, name, answer))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _call(func, args, kwargs or {}, self.reads)

    @property
    def own_reads(self) -> list[Read]:
        """The reads that this package caused."""
        return [read for read in self.reads if read.place]

    @staticmethod
    def put(value: Tensor) -> Tensor:
        """A copy of a tensor on the GPU."""
        return _on_gpu(value.detach().clone())

    @staticmethod
    def put_module(module: nn.Module) -> nn.Module:
        """Put a module on the GPU as it is: an optimizer that holds its parameters holds them still."""
        return module._apply(_on_gpu)


class _Mark:
    """A mark in a queue without a device: everything before it is done."""

    def __init__(self, **_: Any) -> None: ...

    def record(self, *_: Any) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, other: _Mark) -> float:
        return 0.0


def _call(func: Callable, args: tuple, kwargs: dict[str, Any], reads: list[Read]) -> Any:
    name = getattr(func, '__name__', '')
    tensors = list(_tensors((args, kwargs)))
    here = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
    asked = kwargs.get('device')
    if name == 'pin_memory':
        return args[0].clone()  # Needs a real one.
    if not here and not _is_gpu(asked) and name not in _MOVES:
        return func(*args, **kwargs)
    if name in _MOVES and args and isinstance(args[0], Tensor):
        return _moved(func, name, args, kwargs, reads)
    in_a_list = name == 'tensor' and not isinstance(args[0], Tensor)
    on_gpu = bool(here) and not in_a_list
    if asked is None:
        _refuse_mixed(name, args, tensors, here)
    else:
        on_gpu, kwargs = _is_gpu(asked), {**kwargs, 'device': 'cpu'}
    for _ in range(len(here) if in_a_list else _waits(name, args)):
        _add(name, reads)
    with torch._C.DisableTorchFunctionSubclass():
        result = func(*args, **kwargs)
        if name == 'as_tensor' and on_gpu != isinstance(result, OnGpu):
            result = result.clone()  # It was handed on as it is.
    for made in _tensors(result) if on_gpu else ():
        if not any(made is tensor for tensor in tensors):
            _on_gpu(made)
    return result


def _moved(func: Callable, name: str, args: tuple, kwargs: dict[str, Any], reads: list[Read]) -> Tensor:
    """``.to``, ``.cpu``, ``.cuda`` or ``.type_as``: from one device to another it is a copy."""
    source, *rest = args
    wanted = [kwargs.get('device'), *rest, *(['cpu'] if name == 'cpu' else ['cuda'] if name == 'cuda' else [])]
    devices = [one.device if isinstance(one, Tensor) else one for one in wanted if not isinstance(one, bool)]
    devices = [torch.device(one) for one in devices if isinstance(one, str | torch.device)]
    was, becomes = isinstance(source, OnGpu), _is_gpu(devices[0]) if devices else isinstance(source, OnGpu)
    if name == 'cuda':
        func, rest = Tensor.to, ['cpu']
    rest = ['cpu' if isinstance(one, str | torch.device) else one for one in rest]
    kwargs = {key: 'cpu' if key == 'device' and value is not None else value for key, value in kwargs.items()}
    with torch._C.DisableTorchFunctionSubclass():
        moved = func(source, *rest, **kwargs)
        if was != becomes and (moved is source or moved.data_ptr() == source.data_ptr()):
            moved = moved.clone()
    if was and not becomes:
        _add(name, reads)
    return _on_gpu(moved) if becomes and moved is not source else moved


def _refuse_mixed(name: str, args: tuple, tensors: list[Tensor], here: list[OnGpu]) -> None:
    if name in _MIXES or not here:
        return
    there = [tensor for tensor in tensors if not isinstance(tensor, OnGpu)]
    first = args[0] if args and isinstance(args[0], Tensor) else None
    if name in ('__getitem__', '__setitem__', 'index_put_', 'index_put'):
        indices = list(_tensors(args[1]))
        if not isinstance(first, OnGpu):
            if any(isinstance(index, OnGpu) for index in indices):
                raise RuntimeError('indices should be either on cpu or on the same device as the indexed tensor (cpu)')
            return  # What remains is a copy.
        # Indices may lie on the CPU, and a plain slice is filled by a copy; by an index only what is there too is put.
        there = [tensor for tensor in _tensors(args[2:]) if not isinstance(tensor, OnGpu)] if indices else []
    # What is changed in place stays where it is, a number too.
    in_place = name.startswith('__i') or (name.endswith('_') and not name.endswith('__'))
    kept = in_place and first is not None and not isinstance(first, OnGpu)
    if kept or any(tensor.dim() or name in _NO_SCALARS for tensor in there):
        raise RuntimeError(
            'Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!'
        )


def _waits(name: str, args: tuple) -> bool:
    """Whether the host has to wait for what the GPU computes."""
    first, rest = (args[0], args[1:]) if args else (None, ())
    if name in ('__getitem__', '__setitem__') and isinstance(first, OnGpu):
        indices = [index for index in _tensors(rest[0]) if isinstance(index, OnGpu)]
        masked = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
        # A mask becomes places, unless a number is put there; a number as an index is read.
        fills = name == '__setitem__' and not (isinstance(rest[1], Tensor) and rest[1].dim())
        return (masked and not fills) or any(index.dim() == 0 for index in indices)
    if name in ('__setitem__', 'copy_'):
        return not isinstance(first, OnGpu)
    if name == 'where':
        return not rest
    if name == 'repeat_interleave':
        return any(isinstance(one, OnGpu) for one in rest)
    if name == 'one_hot':
        return not rest or rest[0] == -1
    return name in _READS


def _add(name: str, reads: list[Read]) -> None:
    frame = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    reads.append(Read(name, frame and f'{frame.f_code.co_filename[len(_PACKAGE) + 1 :]}:{frame.f_lineno}'))


def _on_gpu(value: Tensor) -> Tensor:
    """The same object, on the GPU from now on: its storage, its graph and who holds it stay."""
    if not isinstance(value, OnGpu):
        if isinstance(value, nn.Parameter):
            value._is_param = True  # type: ignore[attr-defined]
        value.__class__ = OnGpu
    return value


def _is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == 'cuda'


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, slice):
        yield from _tensors((value.start, value.stop, value.step))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
