"""Make the tables of keys and arguments on a page: ``python -m composer_kd.runs.reference docs/design.md``.

A table stands between ``<!-- keys: RunConfig -->`` or ``<!-- arguments: WarmStart -->`` and ``<!-- end -->``.
Meanings of keys are read at their fields, those of arguments in the docstring of the class. ``--check`` writes nothing,
and fails where the page is not up to date.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from composer_kd.algorithms import ALGORITHMS
from composer_kd.core.cli_errors import report_errors
from composer_kd.core.errors import UserError
from composer_kd.core.options import MAY_CHANGE, Section, check_keys, key_of
from composer_kd.data import section as data
from composer_kd.data.drift import scenarios
from composer_kd.runs import config
from composer_kd.storage.atomic import atomic_write

__all__ = ['arguments_table', 'filled', 'keys_table', 'main']

_BLOCK = re.compile(r'(<!-- (keys|arguments): ([\w ]+?) -->\n).*?(<!-- end -->)', re.DOTALL)


def filled(page: str) -> str:
    """Return a page with all of its tables made anew."""
    return _BLOCK.sub(lambda block: f'{block[1]}{_table(block[2], block[3])}\n{block[4]}', page)


def _table(kind: str, names: str) -> str:
    if kind == 'arguments':
        return arguments_table([ALGORITHMS.get(name, 'arguments') for name in names.split()])
    sections = {
        name: found
        for module in (config, data, scenarios)
        for name, found in vars(module).items()
        if inspect.isclass(found) and issubclass(found, Section)
    }
    check_keys([names], sections, 'keys')
    return keys_table(sections[names])


def keys_table(section: type[BaseModel]) -> str:
    """List a section's keys: default, whether a run that goes on may change it, and meaning."""
    changes = any(MAY_CHANGE in field.metadata for field in section.model_fields.values())
    rows = []
    for name, field in section.model_fields.items():
        default = 'required' if field.is_required() else _text(field.get_default(call_default_factory=True))
        may_change = [('yes' if MAY_CHANGE in field.metadata else '')] if changes else []
        meaning = ' '.join((field.description or '').split())
        if not meaning:
            raise UserError(f'{section.__name__}.{name}: it has no meaning; write it in a string below the field')
        rows.append([f'`{field.alias or name}`', default, *may_change, meaning])
    return _markdown(['key', 'default', *(['may change'] if changes else []), 'meaning'], rows)


def arguments_table(algorithms: Sequence[type]) -> str:
    """List the arguments of an algorithm with their meanings, or the defaults of several side by side."""
    if len(algorithms) > 1:
        given = [_parameters(one) for one in algorithms]
        names = list(dict.fromkeys(name for parameters in given for name in parameters))
        rows = [
            [f'`{key_of(name)}`', *(_default(parameters[name]) if name in parameters else '' for parameters in given)]
            for name in names
        ]
        return _markdown(['key', *(f'default of `{one.__name__}`' for one in algorithms)], rows)
    (algorithm,) = algorithms
    meanings = _meanings(algorithm)
    rows = []
    for name, parameter in _parameters(algorithm).items():
        check_keys([name], meanings, f'{algorithm.__name__}: Args')
        rows.append([f'`{key_of(name)}`', _default(parameter), meanings[name]])
    return _markdown(['key', 'default', 'meaning'], rows)


def _parameters(algorithm: type) -> Mapping[str, inspect.Parameter]:
    _, *parameters = inspect.signature(algorithm.__init__).parameters.items()
    return dict(parameters)


def _meanings(algorithm: type) -> dict[str, str]:
    """Read the section Args of a docstring, without the defaults, which have a column of their own."""
    _, _, rest = (inspect.getdoc(algorithm) or '').partition('Args:\n')
    block = re.match(r'(?:    .*\n|\n)*', f'{rest}\n')
    entries = re.findall(r'^    (\w+): (.*(?:\n(?:     .*)?)*)', block[0] if block else '', flags=re.MULTILINE)
    meanings = {}
    for name, text in entries:
        line = re.sub(r'\s*Default:\s*``.*?``\.', '', ' '.join(text.split()))
        line = re.sub(r':(?:class|meth|func|data):`[.~]*(?:[\w.]+\.)?(\w+)`', r'`\1`', line)
        meanings[name] = re.sub(r'`([^`<]+?)\s*<(\S+?)>`_', r'[\1](\2)', line.replace('``', '`').replace('|', '\\|'))
    return meanings


def _default(parameter: inspect.Parameter) -> str:
    return 'required' if parameter.default is parameter.empty else _text(parameter.default)


def _text(value: Any) -> str:
    """Write a default as YAML does; of a section, whose defaults are its own, nothing."""
    if isinstance(value, BaseModel) or (isinstance(value, list) and value and isinstance(value[0], BaseModel)):
        return 'its own'
    return f'`{_flow(value)}`'


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return '{' + ', '.join(f'{key}: {_flow(entry)}' for key, entry in value.items()) + '}'
    if isinstance(value, list | tuple):
        return '[' + ', '.join(map(_flow, value)) + ']'
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return re.sub(r'e-0(\d)$', r'e-\1', str(value))


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in lines).replace('|  |', '| |').replace('|  |', '| |')


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description='Make the tables of keys and arguments on a page.')
    parser.add_argument('page', type=Path)
    parser.add_argument('--check', action='store_true', help='write nothing; fail where the page is not up to date')
    arguments = parser.parse_args(argv)
    return report_errors(lambda: _work(arguments.page, arguments.check), debug=False)


def _work(page: Path, check: bool) -> int:
    text = page.read_text(encoding='utf-8')
    made = filled(text)
    if check and made != text:
        raise UserError(f'{page}: its tables are not up to date; run `python -m composer_kd.runs.reference {page}`')
    if made != text:
        atomic_write(page, made)
    return 0


if __name__ == '__main__':
    sys.exit(main())
