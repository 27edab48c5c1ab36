"""The ``compile:`` section of a YAML file: how ``torch.compile`` treats the student and its live teachers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import ValidationInfo, field_validator

from composer_kd.section import Section

__all__ = ['CompileSection', 'compile_options']


class CompileSection(Section):
    """Arguments of ``torch.compile``; what is null is its own choice.

    Attributes:
        mode: ``default``, ``reduce-overhead`` (CUDA graphs), ``max-autotune`` or ``max-autotune-no-cudagraphs``.
        backend: What makes code of the graph.
        fullgraph: Whether a graph that breaks is an error.
        dynamic: Whether shapes may change without another compilation.
        options: Inductor's own, instead of ``mode``.
    """

    mode: Literal['default', 'reduce-overhead', 'max-autotune', 'max-autotune-no-cudagraphs'] | None = None
    backend: str | None = None
    fullgraph: bool | None = None
    dynamic: bool | None = None
    options: dict[str, Any] | None = None

    @field_validator('options')
    @classmethod
    def _instead_of_mode(cls, options: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        if options is not None and info.data.get('mode') is not None:
            raise ValueError('torch.compile takes mode or options; leave one of them out')
        return options


def compile_options(section: CompileSection | None, on_gpu: bool, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The keyword arguments of ``torch.compile``; ``None`` where nothing is compiled, as on a machine without a GPU."""
    if section is None:
        return None
    if not on_gpu:
        # A ResNet-56 takes minutes to compile for the CPU, and its steps are no faster.
        say('compile: there is no GPU here, so the model runs as it is')
        return None
    return section.model_dump(exclude_none=True)
