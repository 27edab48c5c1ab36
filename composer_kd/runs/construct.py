"""From a name's options to an object: every option checked against the factory's signature, mistakes in one line."""

from __future__ import annotations

import inspect
import keyword
import math
from collections.abc import Callable, Set
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from composer_kd.core.errors import UserError, nearest

__all__ = ['check_options', 'construct', 'split_name']


def split_name(value: Any, where: str) -> tuple[str, dict[str, Any]]:
    """The name and the options in ``sgd`` or ``{name: sgd, lr: 0.1}``."""
    if isinstance(value, str):
        return value, {}
    if isinstance(value, dict) and isinstance(value.get('name'), str):
        return value['name'], {key: option for key, option in value.items() if key != 'name'}
    raise UserError(f'{where}: expected a name, or a mapping with name and options, got {value!r}')


def construct(factory: Callable[..., Any], options: dict[str, Any], where: str, **given: Any) -> Any:
    """Call ``factory(**given, **options)``; an option that it does not have, or refuses, is a :class:`UserError`.

    Args:
        factory: A class or function.
        options: What the YAML says.
        where: The options' place in the file.
        given: Arguments that are ours to give and that a YAML cannot.
    """
    check_options(factory, options, where, set(given))
    try:
        made = factory(**given, **{_argument(key): value for key, value in options.items()})
    except UserError as error:
        # Most places end with the name that most lines begin with.
        told = str(error).removeprefix(f'{where.rpartition(".")[2]}: ')
        raise UserError(f'{where}: {told}') from None
    # Factories of other packages tell of options that cannot be in any of these ways.
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f'{where}: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}'
        ) from error
    for option, value in options.items():  # Ours say better what they want; others take anything.
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f'{where}.{option}: expected a finite number, got {value!r}')
    return made


def check_options(
    factory: Callable[..., Any], options: dict[str, Any], where: str, given: Set[str] = frozenset()
) -> None:
    """Refuse options that ``factory`` does not have, that are of a wrong type, or that are missing."""
    parameters = _parameters(factory)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    known = [
        name
        for name, parameter in parameters.items()
        if name not in given and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    for option, value in options.items():
        if option in known and option != _key(option):
            raise UserError(f'{where}.{option}: unknown key; write {_key(option)}')
        if _argument(option) not in known and not open_ended:
            raise UserError(f'{where}.{option}: unknown key; {nearest(option, map(_key, known))}')
        _check_type(factory, _argument(option), value, f'{where}.{option}')
    for name in known:
        if parameters[name].default is inspect.Parameter.empty and _key(name) not in options:
            raise UserError(f'{where}.{_key(name)}: this key is required')


def _argument(key: str) -> str:
    """Name the argument of a key: a word of Python's cannot name one, so that ``from`` is ``from_``."""
    return f'{key}_' if keyword.iskeyword(key) else key


def _key(argument: str) -> str:
    """Name the key of an argument."""
    bare = argument.removesuffix('_')
    return bare if keyword.iskeyword(bare) else argument


def _parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Those of the constructor, where there is one: a ``__new__`` before it may seem to take anything."""
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
        # Factories get what is written: '0.1' would reach them as a text, and true as 1.
        if isinstance(value, str | bool) and type(read) is not type(value) and isinstance(read, int | float):
            raise UserError(f'expected a number, got {value!r}')
    except ValidationError as error:
        reason = error.errors()[0]['msg'].removeprefix('Value error, ').removeprefix('Input ')
        raise UserError(f'{where}: {reason}, got {value!r}') from None
    except UserError as error:
        raise UserError(f'{where}: {error}') from None
