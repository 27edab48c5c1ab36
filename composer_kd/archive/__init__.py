"""Run directories and their tables of losses, logits and adversarial examples, verified when they are read."""

from composer_kd.archive.archive import Archive
from composer_kd.archive.manifest import Manifest, file_records, read_manifest, verify, write_manifest
from composer_kd.archive.parts import read_parts, remove_parts, write_part
from composer_kd.archive.run_dir import RunDir
from composer_kd.archive.samples import Samples
from composer_kd.archive.table import ArchiveTable, aligned
from composer_kd.storage.atomic import atomic_write, replacing, xxh3_of

__all__ = [
    'Archive',
    'ArchiveTable',
    'Manifest',
    'RunDir',
    'Samples',
    'aligned',
    'atomic_write',
    'file_records',
    'read_manifest',
    'read_parts',
    'remove_parts',
    'replacing',
    'verify',
    'write_manifest',
    'write_part',
    'xxh3_of',
]
