"""The base of every YAML section: strict pydantic models whose errors are one line for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from composer_kd.core.errors import UserError, name_fault, nearest, path_fault

__all__ = ['BatchSize', 'Count', 'Name', 'PathText', 'Section', 'Seed', 'keys_of', 'parse_section']


def _faultless(fault_of: Callable[[str], str | None]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if fault := fault_of(text):
            raise ValueError(fault)
        return text

    return check


# Bounds that nobody meets who means what he writes.
Count = Annotated[int, Field(ge=1, le=10**9)]
BatchSize = Annotated[int, Field(ge=1, le=2**20)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Name = Annotated[str, AfterValidator(_faultless(name_fault))]
PathText = Annotated[str, AfterValidator(_faultless(path_fault))]

S = TypeVar('S', bound='Section')


class Section(BaseModel):
    """A part of a YAML file. Unknown keys are errors; values are not coerced from strings to numbers or back."""

    model_config = ConfigDict(extra='forbid', frozen=True, strict=True, arbitrary_types_allowed=True)


def parse_section(section: type[S], values: Any, where: str) -> S:
    """Check ``values`` against ``section``; the first mistake becomes a :class:`UserError` naming the key's path.

    Args:
        section: The pydantic model of the section.
        values: What the YAML said there.
        where: The path of the section in the file, as ``'data'`` or ``'lineage.gen1.data'``; may be empty.
    """
    if not isinstance(values, dict):
        raise UserError(f'{where or "the file"}: expected a mapping of {", ".join(keys_of(section))}, got {values!r}')
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(section, error, where)) from None


def keys_of(section: type[BaseModel]) -> list[str]:
    """The keys of a section as a file writes them."""
    return [field.alias or name for name, field in section.model_fields.items()]


def _explain(section: type[BaseModel], error: ValidationError, where: str) -> str:
    # Unknown keys first: a misspelt key often causes a "missing" complaint as well, and the spelling is the remedy.
    problem = min(error.errors(), key=lambda entry: entry['type'] != 'extra_forbidden')
    path = '.'.join([where, *map(str, problem['loc'])] if where else map(str, problem['loc']))
    if problem['type'] == 'extra_forbidden':
        owner = _model_at(section, problem['loc'][:-1])
        return f'{path}: unknown key; {nearest(problem["loc"][-1], keys_of(owner) if owner else [])}'
    if problem['type'] == 'missing':
        return f'{path}: this key is required'
    if problem['type'] == 'model_option':
        return f'{path}: {problem["msg"]}'  # Says already what is wrong and what would be right.
    message = problem['msg'].removeprefix('Value error, ').removeprefix('Input ')
    return f'{path}: {message}, got {problem["input"]!r}'


def _model_at(section: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel] | None:
    """The model that a path of field names leads to, through optional and nested sections."""
    current: type[BaseModel] | None = section
    for step in path:
        field = current.model_fields.get(str(step)) if current else None
        if field is None:
            return None
        candidates = [field.annotation, *getattr(field.annotation, '__args__', ())]
        current = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return current
