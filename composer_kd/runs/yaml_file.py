"""Reading a YAML file as a person means it: safe, no key twice, 5e-4 is a number, ``key=value`` on top."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from composer_kd.errors import UserError, nearest

__all__ = ['apply_overrides', 'find_yaml', 'read_yaml', 'shipped_yamls']


class _Loader(yaml.SafeLoader):
    pass


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
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            line = key_node.start_mark.line + 1
            raise UserError(f'line {line}: {key!r} is there twice; give each name once')
        seen.add(key)
    # Puts what `<<` merges in before the mapping's own keys, which then win.
    loader.flatten_mapping(node)
    return {
        loader.construct_object(key, deep=True): loader.construct_object(value, deep=True) for key, value in node.value
    }


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


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
        values = yaml.load(path.read_text(encoding='utf-8'), Loader=_Loader)
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
        keys = path.split('.')
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
