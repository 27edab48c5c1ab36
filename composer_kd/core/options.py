"""Bind options to what takes them: sections of a YAML file, and arguments of classes and functions.

Whatever is wrong with an option is one line: where it stands, what is wrong, what would be right. YAML files, Python
calls and command lines say it with these functions, so that they say the same.
"""

from __future__ import annotations

import inspect
import keyword
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import InitErrorDetails, PydanticCustomError

from composer_kd.core.errors import UserError, name_fault, nearest, path_fault

__all__ = [
    'MAY_CHANGE',
    'BatchSize',
    'Count',
    'Name',
    'PathText',
    'Section',
    'Seed',
    'argument_of',
    'check_keys',
    'check_options',
    'instantiate',
    'key_of',
    'keys_of',
    'keys_that_may_change',
    'number',
    'one_of',
    'option_error',
    'parse_section',
    'schema_of',
    'split_name',
    'switch',
    'whole_number',
]


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

MAY_CHANGE = 'may change'
"""Marks the annotation of a key that does not decide a run's result: a run that goes on may change it."""

S = TypeVar('S', bound='Section')


# -- sections -------------------------------------------------------------------------------------------------------


class Section(BaseModel):
    """A part of a YAML file. Unknown keys are errors; values are not coerced from strings to numbers or back.

    The string below a field says what its key means; the pages' tables are made from it.
    """

    model_config = ConfigDict(
        extra='forbid', frozen=True, strict=True, arbitrary_types_allowed=True, use_attribute_docstrings=True
    )


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
    """List the keys of a section as a file writes them."""
    return [field.alias or name for name, field in section.model_fields.items()]


def keys_that_may_change(section: type[BaseModel], prefix: str = '') -> Iterator[str]:
    """List the keys of a section, and of the sections in it, that are marked with :data:`MAY_CHANGE`."""
    for key, field in section.model_fields.items():
        if MAY_CHANGE in field.metadata:
            yield f'{prefix}{key}'
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_that_may_change(field.annotation, f'{prefix}{key}.')


def option_error(key: str | None, message: str, value: Any) -> ValidationError:
    """Make an error for a validator: a line that says all by itself, at ``key`` of the section being checked."""
    # A ValidationError keeps the key in its path when the section stands inside a larger one; a ValueError would not.
    problem = PydanticCustomError('option', '{message}', {'message': message})
    where = () if key is None else (key,)
    return ValidationError.from_exception_data('option', [InitErrorDetails(type=problem, loc=where, input=value)])


def schema_of(factory: Callable[..., Any], without: Set[str]) -> type[Section]:
    """Make a section whose keys are the parameters of ``factory``, but for those in ``without``."""
    hints = get_type_hints(factory, include_extras=True)
    fields: dict[str, Any] = {}
    for name, parameter in _parameters(factory).items():
        if name not in without and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (hints.get(name, Any), default)
    return create_model('Options', __base__=Section, **fields)


def _explain(section: type[BaseModel], error: ValidationError, where: str) -> str:
    # Unknown keys first: a misspelt key often causes a "missing" complaint as well, and the spelling is the remedy.
    problem = min(error.errors(), key=lambda entry: entry['type'] != 'extra_forbidden')
    path = '.'.join([where, *map(str, problem['loc'])] if where else map(str, problem['loc']))
    if problem['type'] == 'extra_forbidden':
        owner = _section_at(section, problem['loc'][:-1])
        return f'{path}: unknown key; {nearest(problem["loc"][-1], keys_of(owner) if owner else [])}'
    if problem['type'] == 'missing':
        return f'{path}: this key is required'
    if problem['type'] == 'option':
        return f'{path}: {problem["msg"]}'
    return f'{path}: {_reason(problem["msg"])}, got {problem["input"]!r}'


def _reason(message: str) -> str:
    return message.removeprefix('Value error, ').removeprefix('Input ')


def _section_at(section: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel] | None:
    """Follow a path of field names, through optional and nested sections."""
    current: type[BaseModel] | None = section
    for step in path:
        field = current.model_fields.get(str(step)) if current else None
        if field is None:
            return None
        candidates = [field.annotation, *getattr(field.annotation, '__args__', ())]
        current = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return current


# -- names with options ---------------------------------------------------------------------------------------------


def split_name(value: Any, where: str) -> tuple[str, dict[str, Any]]:
    """Split ``sgd`` or ``{name: sgd, lr: 0.1}`` into the name and its options."""
    if isinstance(value, str):
        return value, {}
    if isinstance(value, dict) and isinstance(value.get('name'), str):
        return value['name'], {key: option for key, option in value.items() if key != 'name'}
    raise UserError(f'{where}: expected a name, or a mapping with name and options, got {value!r}')


def instantiate(factory: Callable[..., Any], options: Mapping[str, Any], where: str, **given: Any) -> Any:
    """Call ``factory(**given, **options)``; an option that it does not have, or refuses, is a :class:`UserError`.

    Args:
        factory: A class or function.
        options: What the YAML says.
        where: The options' place in the file.
        given: Arguments that are ours to give and that a YAML cannot.
    """
    check_options(factory, options, where, set(given))
    try:
        made = factory(**given, **{argument_of(key): value for key, value in options.items()})
    except UserError as error:
        # Most places end with the name that most lines begin with.
        text = str(error).removeprefix(f'{where.rpartition(".")[2]}: ')
        raise UserError(f'{where}: {text}') from None
    # Factories of other packages refuse options in any of these ways.
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f'{where}: {first}') from error
    for option, value in options.items():  # Our own factories say better what they want; others take anything.
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f'{where}.{option}: expected a finite number, got {value!r}')
    return made


def check_options(
    factory: Callable[..., Any], options: Mapping[str, Any], where: str, given: Set[str] = frozenset()
) -> None:
    """Refuse options that ``factory`` does not have, that are of a wrong type, or that are missing.

    Args:
        factory: A class or function.
        options: By their keys.
        where: Their place, for error lines.
        given: Parameters that the options cannot set.
    """
    parameters = _parameters(factory)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    known = [
        name
        for name, parameter in parameters.items()
        if name not in given and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    for option, value in options.items():
        if option in known and option != key_of(option):
            raise UserError(f'{where}.{option}: unknown key; write {key_of(option)}')
        if not open_ended:
            check_keys([option], map(key_of, known), where)
        _check_type(factory, argument_of(option), value, f'{where}.{option}')
    for name in known:
        if parameters[name].default is inspect.Parameter.empty and key_of(name) not in options:
            raise UserError(f'{where}.{key_of(name)}: this key is required')


def check_keys(keys: Iterable[Any], known: Iterable[str], where: str) -> None:
    """Refuse the first of ``keys`` that is not known; the line names the nearest one."""
    names = list(known)
    for key in keys:
        if key not in names:
            place = f'{where}.{key}' if where else str(key)
            raise UserError(f'{place}: unknown key; {nearest(str(key), names)}')


def argument_of(key: str) -> str:
    """Name the argument that a key sets: no argument can be called ``from``, so that is ``from_``."""
    return f'{key}_' if keyword.iskeyword(key) else key


def key_of(argument: str) -> str:
    """Name the key that sets an argument."""
    bare = argument.removesuffix('_')
    return bare if keyword.iskeyword(bare) else argument


def _parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Look at the constructor of a class that has one: a ``__new__`` before it may seem to take anything."""
    if inspect.isclass(factory) and factory.__init__ is not object.__init__:
        _, *parameters = inspect.signature(factory.__init__).parameters.items()
        return dict(parameters)
    return dict(inspect.signature(factory).parameters)


def _check_type(factory: Callable[..., Any], option: str, value: Any, where: str) -> None:
    function = factory.__init__ if inspect.isclass(factory) else factory
    try:
        hint = get_type_hints(function).get(option)
        adapter = None if hint is None else TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except (NameError, TypeError, AttributeError, PydanticUserError):
        return  # Hints that cannot be resolved here are the factory's own matter.
    if adapter is None:
        return
    try:
        read = adapter.validate_python(value)
    except ValidationError as error:
        raise UserError(f'{where}: {_reason(error.errors()[0]["msg"])}, got {value!r}') from None
    except UserError as error:
        raise UserError(f'{where}: {error}') from None
    # Factories get what is written: '0.1' would reach them as a text, true as 1, and 1 as a number.
    if isinstance(read, bool) and not isinstance(value, bool):
        raise UserError(f'{where}: expected true or false, got {value!r}')
    if isinstance(value, str | bool) and type(read) is not type(value) and isinstance(read, int | float):
        raise UserError(f'{where}: expected a number, got {value!r}')


# -- values ---------------------------------------------------------------------------------------------------------


def one_of(value: Any, known: Iterable[str], name: str) -> Any:
    """Return ``value`` if it is one of the ``known`` words; ``name`` says in the error line what it is."""
    names = list(known)
    if value not in names:
        raise UserError(f'{name}: {value!r} is not one of them; {nearest(value, names)}')
    return value


def number(
    value: Any,
    name: str,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> float:
    """Return ``value`` if it is a finite number within bounds; ``name`` says in the error line what it is."""
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not math.isfinite(value)
        or (above is not None and value <= above)
        or (least is not None and value < least)
        or (below is not None and value >= below)
        or (most is not None and value > most)
    ):
        raise UserError(f'{name}: expected a number {_bounds(above, least, below, most)}, got {value!r}')
    return float(value)


def _bounds(above: float | None, least: float | None, below: float | None, most: float | None) -> str:
    if least is not None:
        return f'from {least:g} on' if most is None else f'from {least:g} to {most:g}'
    upper = f'below {below:g}' if below is not None else f'at most {most:g}' if most is not None else ''
    lower = f'above {above:g}' if above is not None else ''
    return ' and '.join(part for part in (lower, upper) if part) or 'that is finite'


def whole_number(value: Any, name: str, least: int = 1, most: int = 10**9) -> int:
    """Return ``value`` if it is a whole number within bounds; ``name`` says in the error line what it is."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f'{name}: expected a whole number from {least} on, got {value!r}')
    if value > most:
        raise UserError(f'{name}: expected at most {most:,}, got {value!r}')
    return value


def switch(value: Any, name: str) -> bool:
    """Return ``value`` if it is true or false; ``name`` says in the error line what it is."""
    if not isinstance(value, bool):
        raise UserError(f'{name}: expected true or false, got {value!r}')
    return value
