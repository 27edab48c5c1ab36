"""Reading a YAML file as a person means it: safe, no key twice, 5e-4 is a number, ``key=value`` on top."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from composer_kd.core.errors import UserError, nearest

__all__ = ['apply_overrides', 'find_yaml', 'read_yaml', 'shipped_yamls']


# Bounds that no file meets which a person has written; they keep reading it, and all that comes after, quick.
_LARGEST_FILE = 1_000_000
_MOST_VALUES = 10_000
_DEEPEST = 50
_LONGEST_TEXT = 4096
_LONGEST_KEY = 255
_LONGEST_NUMBER = 100
_LARGEST_WHOLE = 2**63

# What acts on a terminal, or hides: control characters but for line breaks and tabs, directions of writing, halves of
# characters.
_UNSHOWN = re.compile(r'[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]')


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses what would be read for ever: depth, number of values, aliases written out."""

    def __init__(self, stream: str):
        super().__init__(stream)
        self._level = 0
        # Of each finished node how many values it holds and how many levels, with everything that aliases stand for.
        self._extents: dict[yaml.Node, tuple[int, int]] = {}
        self._values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        line = self.peek_event().start_mark.line + 1
        is_alias = self.check_event(yaml.AliasEvent)
        self._level += 1
        self._values += 1
        self._refuse_more_than(self._values, self._level, line)
        node = super().compose_node(parent, index)
        assert node is not None
        self._level -= 1
        if not is_alias:
            parts = node.value if isinstance(node, yaml.CollectionNode) else []
            if isinstance(node, yaml.MappingNode):
                parts = [one for pair in parts for one in pair]
            values, levels = zip(*(self._extents[one] for one in parts), strict=True) if parts else ((), ())
            self._extents[node] = 1 + sum(values), 1 + max(levels, default=0)
        if node not in self._extents:
            raise UserError(f'line {line}: an alias stands for something that it is itself a part of; write it out')
        self._refuse_more_than(*self._extents[node], line)
        return node

    def _refuse_more_than(self, values: int, levels: int, line: int) -> None:
        if levels > _DEEPEST:
            raise UserError(f'line {line}: this is nested more than {_DEEPEST} levels deep; flatten it')
        if values > _MOST_VALUES:
            raise UserError(f'line {line}: these are more than {_MOST_VALUES:,} values, aliases written out; use fewer')

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        line = node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node, line)
        try:
            value = super().construct_object(node, deep)
        except UserError:
            raise
        except (ValueError, OverflowError):  # 0x_ looks like a number to YAML, and is none.
            raise UserError(f'line {line}: {node.value!r} cannot be read; write a text in quotes') from None
        if isinstance(value, int) and abs(value) >= _LARGEST_WHOLE:
            raise UserError(f'line {line}: {node.value} is too large a number')
        return value


def _check_scalar(node: yaml.ScalarNode, line: int) -> None:
    length, is_text = len(node.value), node.tag == 'tag:yaml.org,2002:str'
    if length > (_LONGEST_TEXT if is_text else _LONGEST_NUMBER):
        what = f'a text of more than {_LONGEST_TEXT:,}' if is_text else f'a number of more than {_LONGEST_NUMBER}'
        raise UserError(f'line {line}: {what} characters; use a shorter one')
    if unshown := _UNSHOWN.search(node.value):
        raise UserError(f'line {line}: {node.value!r} has a character that no terminal shows: {unshown[0]!r}')


# YAML 1.1 reads 5e-4 and 1e3 as strings: it wants a dot and a sign. Nobody who writes a learning rate does.
_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float',
    re.compile(r'^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$'),
    list('-+0123456789.'),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == 'tag:yaml.org,2002:merge':
            continue
        line = key_node.start_mark.line + 1
        key = loader.construct_object(key_node, deep=True) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            written = key_node.value if isinstance(key_node, yaml.ScalarNode) else f'a {key_node.id}'
            raise UserError(f'line {line}: {written} is a key that is no text; write a word, a number in quotes')
        if len(key) > _LONGEST_KEY:
            raise UserError(f'line {line}: a key of more than {_LONGEST_KEY} characters; use a shorter one')
        if key in seen:
            raise UserError(f'line {line}: {key!r} is there twice; give each name once')
        seen.add(key)
    # Puts what `<<` merges in before the mapping's own keys, which then win.
    loader.flatten_mapping(node)
    return {
        loader.construct_object(key, deep=True): loader.construct_object(value, deep=True) for key, value in node.value
    }


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# No key takes a date: 2026-03-01 is a name. And none takes bytes, sets or pairs.
_Loader.add_constructor('tag:yaml.org,2002:timestamp', yaml.SafeLoader.construct_yaml_str)
for _tag in ('binary', 'omap', 'pairs', 'set'):
    del _Loader.yaml_constructors[f'tag:yaml.org,2002:{_tag}']


def shipped_yamls() -> dict[str, Path]:
    """The YAML files that come with the package, by their names in it: ``kd.yaml``, ``cifar100/baseline.yaml``, ..."""
    root = Path(str(resources.files('composer_kd'))) / 'yamls'
    return {path.relative_to(root).as_posix(): path for path in sorted(root.rglob('*.yaml'))}


def find_yaml(name: str) -> Path:
    """The file called ``name``: a path, or else a YAML that comes with the package (with or without ``yamls/``)."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_yamls()
    short = name.removeprefix('yamls/')
    if short in shipped:
        return shipped[short]
    if path.is_dir():
        raise UserError(f'{name}: this is a folder; give a YAML file')
    raise UserError(
        f'{name}: there is no such file, and none of that name comes with the package; {nearest(short, shipped)}'
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        with path.open('rb') as file:
            content = file.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise UserError(f'the file is larger than {_LARGEST_FILE:,} bytes; is it the right one?')
        values = yaml.load(content.decode('utf-8'), Loader=_Loader)
    except UserError as error:
        raise UserError(f'{path}: {error}') from None
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        place = f'{path}, line {mark.line + 1}' if mark else str(path)
        problem = getattr(error, 'problem', None) or str(error).splitlines()[0]
        raise UserError(f'{place}: this is no YAML: {problem}') from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path}: cannot be read: {error}') from None
    if values is None:
        raise UserError(f'{path}: the file is empty; `composer-kd init` writes some to start from')
    if not isinstance(values, dict):
        raise UserError(f'{path}: expected a mapping at the top of the file, got {type(values).__name__}')
    return values


def apply_overrides(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """``values`` with every ``path.to.key=value`` of the command line put in; the value is read as YAML.

    The command line wins: a key that a run of the lineage sets for itself is replaced there too.
    """
    for override in overrides:
        path, equals, text = override.partition('=')
        if not equals or not path:
            raise UserError(f'{override!r}: expected key=value, as in max_duration=5ep or data.val_fraction=0.2')
        try:
            value = yaml.load(text, Loader=_Loader) if text else None
        except yaml.YAMLError:
            raise UserError(f'{override!r}: the value is no YAML') from None
        except UserError as error:
            raise UserError(f'{path}=...: {error}') from None
        keys = path.split('.')
        if len(keys) > _DEEPEST:
            raise UserError(f'{path}=...: this is nested more than {_DEEPEST} levels deep')
        lineage = values.get('lineage')
        runs = lineage if isinstance(lineage, dict) else {}
        if keys[0] == 'lineage' and len(keys) > 2 and keys[1] not in runs:
            raise UserError(f'{override!r}: there is no run {keys[1]!r} in the lineage; {nearest(keys[1], runs)}')
        values = _with(values, keys, value, path)
        if keys[0] != 'lineage':
            for name, entry in runs.items():
                if _has(entry, keys):
                    values['lineage'][name] = _with(entry, keys, value, path)
    return values


def _with(values: dict[str, Any], keys: list[str], value: Any, path: str) -> dict[str, Any]:
    copy = dict(values)
    if len(keys) == 1:
        copy[keys[0]] = value
        return copy
    inner = copy.get(keys[0])
    if isinstance(inner, str) and keys[1:] != ['name']:
        inner = {'name': inner}  # optimizer: sgd, and then optimizer.lr=0.2
    if inner is not None and not isinstance(inner, dict):
        raise UserError(f'{path}=...: {keys[0]!r} is {inner!r} in the file, not a mapping')
    copy[keys[0]] = _with(inner or {}, keys[1:], value, path)
    return copy


def _has(values: Any, keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True
