"""``archive/manifest.json``: what a run left, with the size and hash of every file and of itself.

It is written after the files that it names. A run that trains may have one, for what its recorders have written; when
the run has finished, it has weights. Schema 1 may gain keys; readers keep those they do not know. A change that an old
reader would misread raises the schema's number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import xxhash
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from composer_kd.archive.table import KINDS, is_table
from composer_kd.core.errors import UserError
from composer_kd.core.options import Section, parse_section
from composer_kd.storage.atomic import atomic_write, xxh3_of

__all__ = [
    'DRIFTS_FILE',
    'SCHEMA',
    'ArchiveRecord',
    'DataRecord',
    'EvaluationRecord',
    'FileRecord',
    'InferenceRecord',
    'Manifest',
    'Normalization',
    'TableRecord',
    'WeightsRecord',
    'damage',
    'file_records',
    'inside',
    'manifest_file',
    'parse_manifest',
    'read_manifest',
    'verify',
    'verify_file',
    'write_manifest',
]

SCHEMA = 1
DRIFTS_FILE = 'drifts.json'


class Record(Section):
    """A part of the manifest; keys of later versions are kept, so that rewriting one loses nothing."""

    model_config = ConfigDict(extra='allow')


class FileRecord(Record):
    """Size and 128-bit xxh3 of a file."""

    bytes: NonNegativeInt
    xxh3: str = Field(pattern='^[0-9a-f]{32}$')


class Normalization(Record):
    mean: list[float]
    std: list[float]


class DataRecord(Record):
    """The data that the run was trained on; ``classes`` names them, in the order of the labels."""

    fingerprint: str
    num_samples: PositiveInt
    num_classes: PositiveInt
    classes: list[str] | None = None
    shape: list[PositiveInt]
    normalization: Normalization


class WeightsRecord(Record):
    """``hash`` is :func:`composer_kd.models.weights_hash` of the trained net: of its tensors, not of the file."""

    hash: str


class EvaluationRecord(Record):
    """What the predictions of a split say beside its accuracy; null for what is no number.

    ``agreement`` and ``teacher_kl`` go by the names of those teachers that kept predictions of the same samples.
    """

    calibration_error: float | None = None
    agreement: dict[str, float | None] = Field(default_factory=dict)
    teacher_kl: dict[str, float | None] = Field(default_factory=dict)


class InferenceRecord(Record):
    """Seconds of a forward pass in evaluation mode, by the size of the batch; null where memory was short."""

    model_config = ConfigDict(populate_by_name=True)

    batch_1: PositiveFloat | None = Field(None, alias='1')
    batch_256: PositiveFloat | None = Field(None, alias='256')
    device: Literal['cpu', 'gpu']
    threads: PositiveInt
    precision: str


class TableRecord(Record):
    """A table of the archive: its file, how many samples it knows, and what its kind has to say beside."""

    file: str
    seen: NonNegativeInt


# JSON has no keys but strings.
Number = Annotated[int, Field(strict=False, ge=0)]


class ArchiveRecord(Record):
    """The per-sample tables: the file of their samples, and number to table for each kind."""

    samples: str
    count: NonNegativeInt
    loss: dict[Number, TableRecord] = Field(default_factory=dict)
    logits: dict[Number, TableRecord] = Field(default_factory=dict)
    adversarial: dict[Number, TableRecord] = Field(default_factory=dict)

    def tables(self, kind: str) -> dict[int, TableRecord]:
        return getattr(self, kind)

    @property
    def files(self) -> list[str]:
        """The files of the samples and of all tables."""
        return [self.samples, *(table.file for kind in KINDS for table in self.tables(kind).values())]


class Manifest(Record):
    """Everything that later runs need to know about a run.

    ``files`` names files relative to the run directory. ``augmentation`` is None for a run without one. The keys from
    ``finished_epoch`` on are there when the run has finished: before, a manifest lists what its recorders have written.
    """

    model_config = ConfigDict(populate_by_name=True)

    # BaseModel.schema is taken, hence the alias.
    schema_version: Literal[1] = Field(SCHEMA, alias='schema')
    run: str
    arm: str | None = None
    seed: int
    data: DataRecord
    augmentation: dict[str, Any] | None = None
    files: dict[str, FileRecord]
    archive: ArchiveRecord | None = None
    hardware: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    finished_epoch: NonNegativeInt | None = None
    weights: WeightsRecord | None = None
    precision: str | None = None
    multiply_adds: NonNegativeInt | None = None
    parameters: NonNegativeInt | None = None
    inference: InferenceRecord | None = None
    evaluation: dict[str, EvaluationRecord] = Field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.weights is not None


def manifest_file(run_dir: Path) -> Path:
    return run_dir / 'archive' / 'manifest.json'


def file_records(run_dir: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    """Size and hash of the named files as they are now, for a new manifest."""
    records = {}
    for name in sorted(names):
        path = inside(run_dir, name, 'the manifest')
        records[name] = FileRecord(bytes=path.stat().st_size, xxh3=xxh3_of(path))
    return records


def write_manifest(run_dir: Path, manifest: Manifest) -> None:
    """Write the manifest, atomically; every file in it must have been written before."""
    _check_names(run_dir, manifest, 'the manifest')
    values = manifest.model_dump(mode='json', by_alias=True)
    content = json.dumps({**values, 'xxh3': _UNSEALED}, indent=1, ensure_ascii=False).encode() + b'\n'
    before, _, after = content.rpartition(_UNSEALED.encode())
    atomic_write(manifest_file(run_dir), before + xxhash.xxh3_128_hexdigest(content).encode() + after)


def read_manifest(run_dir: Path) -> Manifest:
    """The manifest, checked: its own hash, its schema, its types, and that its names stay in the run directory."""
    path = manifest_file(run_dir)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f'{path}: no such file: the run has not finished; run it to its end first') from None
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}); see to it and try again') from None
    return parse_manifest(run_dir, content)


def parse_manifest(run_dir: Path, content: bytes) -> Manifest:
    """What the bytes of a manifest say; see :func:`read_manifest`."""
    path = manifest_file(run_dir)
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        raise UserError(f'{path}: not JSON, the file is damaged; restore it') from None
    schema = values.get('schema') if isinstance(values, dict) else None
    if schema != SCHEMA:
        raise UserError(
            f'{path}: its schema is {schema!r}, this version of composer_kd reads {SCHEMA}; use the other one'
        )
    seal = values.pop('xxh3', None)
    if seal is not None and not _is_sealed(content, seal):
        raise UserError(
            f'{path}: damaged: its content is not what was written (the xxh3 in it differs); restore it, or, if you '
            f'changed it yourself, remove its last key, xxh3'
        )
    manifest = parse_section(Manifest, values, str(path))
    _check_names(run_dir, manifest, str(path))
    return manifest


# In place of the manifest's own hash while that is computed.
_UNSEALED = '-' * 32


def _is_sealed(content: bytes, seal: object) -> bool:
    if not isinstance(seal, str) or len(seal) != len(_UNSEALED):
        return False
    before, _, after = content.rpartition(seal.encode(errors='replace'))
    return xxhash.xxh3_128_hexdigest(before + _UNSEALED.encode() + after) == seal


def _check_names(run_dir: Path, manifest: Manifest, where: str) -> None:
    root = run_dir.resolve()
    for name in manifest.files:
        inside(run_dir, name, where, root)
    for name in manifest.archive.files if manifest.archive else ():
        if name not in manifest.files or not is_table(name):
            raise UserError(f'{where}: the archive names {name!r}, which is no table among its files; record anew')


def verify(run_dir: Path) -> Manifest:
    """Read every file that the manifest lists and compare size and hash; the first wrong one is named."""
    manifest = read_manifest(run_dir)
    for name in manifest.files:
        try:
            verify_file(run_dir, manifest, name)
        except UserError:
            if read_manifest(run_dir) == manifest:
                raise
            return verify(run_dir)  # Something was recorded meanwhile, and this file replaced.
    return manifest


def verify_file(run_dir: Path, manifest: Manifest, name: str) -> None:
    """Compare one file with the manifest; one that the manifest does not list is wrong too."""
    path = inside(run_dir, name, str(manifest_file(run_dir)))
    if name not in manifest.files:
        raise UserError(f'{path}: not listed in {manifest_file(run_dir)}, so it cannot be verified; run it again')
    again = 'record it again' if is_table(name) else 'remove the run directory and run again'
    if name == DRIFTS_FILE:
        again = 'remove it and measure again with `composer-kd evaluate --drifts`'
    if not path.is_file():
        raise UserError(f'{path}: this file of the run is missing; restore it, or {again}')
    problem = damage(path, manifest.files[name])
    if problem is not None:
        raise UserError(f'{path}: damaged: {problem}; restore it, or {again}')


def damage(path: Path, record: FileRecord) -> str | None:
    """What is wrong with a file, in words; ``None`` if it is what was written."""
    try:
        size = path.stat().st_size
        if size != record.bytes:
            return f'it has {size:,} bytes, the manifest says {record.bytes:,}'
        if xxh3_of(path) != record.xxh3:
            return 'its content is not what was written (the xxh3 differs)'
    except OSError as error:
        return f'it cannot be read ({error.strerror})'
    return None


def inside(run_dir: Path, name: str, where: str, root: Path | None = None) -> Path:
    """The path of ``name`` in the run directory; names that lead out of it, through links too, are refused.

    Args:
        run_dir: The run directory.
        name: Relative to it.
        where: Where the name stands, for the error line.
        root: ``run_dir`` resolved, for who asks about many names.
    """
    path = run_dir / name
    if '\0' in name or (root or run_dir.resolve()) not in path.resolve().parents:
        raise UserError(f'{where}: the file name {name!r} leads out of the run directory; nothing of it is used')
    return path
