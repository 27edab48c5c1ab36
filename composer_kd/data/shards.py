"""Reading a folder of MDS shards: its description, its index, and samples out of files whose hash is right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from composer_kd.core.errors import UserError
from composer_kd.data.dataset import SampleTable, TableBuilder, as_image
from composer_kd.storage.atomic import atomic_write, make_folder, xxh3_of
from composer_kd.storage.fetch import Fetcher, is_remote

__all__ = ['DESCRIPTION', 'Description', 'ShardFolder', 'Split', 'open_shards']

# Which hash of an index is compared, the fastest first.
_HASHES = ('xxh64', 'xxh3_64', 'xxh128', 'xxh3_128', 'sha1', 'sha256', 'md5', 'blake2b')
_TEST_NAMES = ('test', 'val', 'validation')


@dataclass(frozen=True)
class ShardFile:
    """A file as the index describes it."""

    name: str
    bytes: int
    hashes: dict[str, str]

    def problem(self, data: bytes) -> str | None:
        """What is wrong with the file's content, or ``None``."""
        if len(data) != self.bytes:
            return f'it has {len(data)} bytes and the index says {self.bytes}'
        algorithm = next((name for name in _HASHES if name in self.hashes), None)
        if algorithm is None:
            return None
        from streaming.base.hashing import get_hash

        if get_hash(algorithm, data) != self.hashes[algorithm]:
            return f'its {algorithm} is not the one in the index'
        return None


class Split:
    """The shards of one split.

    Args:
        folder: Where ``index.json`` lies and the shards are, or will be once fetched.
        fetcher: Brings missing shards here; ``None`` when the folder is the source itself.
    """

    def __init__(self, folder: Path, fetcher: Fetcher | None = None):
        self.name = folder.name
        self.folder = folder
        self.fetcher = fetcher
        path = folder / 'index.json'
        try:
            self.index: dict[str, Any] = json.loads(path.read_bytes())
            self._entries = [
                (
                    _file(path, entry['raw_data']),
                    _file(path, entry['zip_data']) if entry['zip_data'] else None,
                    entry['compression'],
                    int(entry['samples']),
                )
                for entry in self.index['shards']
            ]
            self._columns = {name for entry in self.index['shards'] for name in entry['column_names']}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f'{path}: not an index of MDS shards ({_short(error)}); convert the data again') from None
        for column in ('x', 'y'):
            if self._entries and column not in self._columns:
                raise UserError(
                    f'{path}: the samples have no column {column!r} (they have {", ".join(sorted(self._columns))}); '
                    f'write x (image), y (label) and, better, i (id)'
                )

    def __len__(self) -> int:
        return sum(samples for _, _, _, samples in self._entries)

    @property
    def shard_count(self) -> int:
        return len(self._entries)

    def identity(self) -> list[Any]:
        """What names the split's content: size and hash of each shard, counted where the index has none."""
        named = []
        for number, (raw, _, _, samples) in enumerate(self._entries):
            if raw.hashes:
                algorithm = next((name for name in _HASHES if name in raw.hashes), min(raw.hashes))
                named.append([raw.bytes, samples, algorithm, raw.hashes[algorithm]])
            else:
                named.append([raw.bytes, samples, 'xxh64', xxhash.xxh64_hexdigest(self.read_shard(number))])
        return named

    def read_shard(self, number: int) -> bytes:
        """The uncompressed bytes of a shard, from a file whose size and hash are those of the index."""
        raw, packed, compression, _ = self._entries[number]
        if packed is None or (self.fetcher is None and not (self.folder / packed.name).exists()):
            return self._read(raw)
        from streaming.base.compression import decompress

        data = decompress(compression, self._read(packed))
        problem = raw.problem(data)
        if problem:
            raise UserError(f'{self.folder / packed.name}: damaged: unpacked, {problem}; {self._remedy()}')
        return data

    def unpacked_folder(self, cache: Path) -> Path:
        """Where the uncompressed shards are, or will be: this folder itself unless it is remote or compressed."""
        if self.fetcher is not None or all(packed is None for _, packed, _, _ in self._entries):
            return self.folder
        named = xxhash.xxh3_64_hexdigest(json.dumps([str(self.folder), self.identity()]))
        folder = make_folder(cache / 'unpacked' / named / self.name)
        if not (folder / 'index.json').exists():
            atomic_write(folder / 'index.json', (self.folder / 'index.json').read_bytes())
        return folder

    def verify_unpacked(self, number: int, folder: Path) -> None:
        """Refuse a damaged shard that lies in ``folder``; one that can be had again is removed instead."""
        raw = self._entries[number][0]
        path = folder / raw.name
        again = self.fetcher is not None or folder != self.folder
        if not path.exists():
            if not again:
                self._read(raw)  # says that it is missing
        elif again:
            if raw.problem(path.read_bytes()):
                path.unlink(missing_ok=True)
        else:
            self._read(raw)

    def unpack_shard(self, name: str, folder: Path) -> int:
        """Put the verified uncompressed shard of this file name into ``folder``; returns its size."""
        number = next(number for number, entry in enumerate(self._entries) if entry[0].name == name)
        raw = self._entries[number][0]
        data = self.read_shard(number)  # leaves the file itself in place where nothing is compressed
        if not (folder / raw.name).exists():
            atomic_write(folder / raw.name, data)
        return raw.bytes

    def samples(self) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        """(id, label, image [C, H, W]) of every sample, in the order of the shards."""
        from streaming.base.format import reader_from_json

        position = 0
        for number, entry in enumerate(self.index['shards']):
            shard = self.folder / self._entries[number][0].name
            data = self.read_shard(number)
            try:
                reader: Any = reader_from_json(str(self.folder.parent), self.name, entry)
                reader.validate(False)  # never unpickles
                begins = np.frombuffer(data, np.uint32, len(reader) + 1, 4)
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(f'{shard}: cannot be read: {_short(error)}') from None
            for begin, end in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True):
                try:
                    sample = reader.decode_sample(data[begin:end])
                    yield int(sample.get('i', position)), int(sample['y']), as_image(sample['x'])
                except (ValueError, TypeError, OSError) as error:
                    raise UserError(f'{shard}: sample {position} cannot be read: {_short(error)}') from None
                position += 1

    def scan(self) -> SampleTable:
        """The table of samples, counted by decoding all of them."""
        builder = TableBuilder()
        for sample_id, label, image in self.samples():
            builder.add(sample_id, label, image)
        return builder.finish()

    def _read(self, file: ShardFile) -> bytes:
        path = self.folder / file.name
        if self.fetcher is not None:
            try:
                path = self.fetcher.fetch(f'{self.name}/{file.name}', lambda path: file.problem(path.read_bytes()))
            except FileNotFoundError as error:
                raise UserError(f'{error}; check the network, the address and the rights') from None
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f'{path}: cannot be read: {error.strerror}; {self._remedy()}') from None
        problem = file.problem(data)
        if problem:
            raise UserError(f'{path}: damaged: {problem}; {self._remedy()}')
        return data

    def _remedy(self) -> str:
        return 'copy or convert the data again'


@dataclass(frozen=True)
class ShardFolder:
    """A data set of shards.

    Attributes:
        location: As the user named it, for error lines.
        train: The split that training, and validation out of it, come from.
        test: The split that is only reported.
        description: What ``dataset.json`` says; ``None`` for shards that somebody else wrote.
        fingerprint: Names the content: the shards' sizes and hashes.
    """

    location: str
    train: Split
    test: Split
    description: Description | None
    fingerprint: str

    def written_table(self, split: Split) -> SampleTable | None:
        """The verified table of a split that came with the shards; ``None`` for shards that somebody else wrote."""
        if self.description is None:
            return None
        if split.fetcher is not None:
            fetched = f'{split.name}/{Description.TABLE}'
            try:
                split.fetcher.fetch(fetched, self.description.table_problem)
            except FileNotFoundError as error:
                raise UserError(f'{error}; check the network, the address and the rights') from None
        return self.description.table(split.folder)


def open_shards(location: str, cache: Path, where: str = 'data.source') -> ShardFolder:
    """Open a folder or a remote of shards; nothing of a shard itself is read unless its index holds no hash."""
    fetcher = Fetcher(location, cache) if is_remote(location) else None
    if fetcher is None:
        root = Path(location).expanduser().absolute()
        if not root.is_dir():
            what = 'is a file, not a folder of shards; convert it first' if root.exists() else 'no such folder'
            raise UserError(f"{where}: {location}: {what}; 'composer-kd convert SOURCE OUT' writes such a folder")
    else:
        root = fetcher.folder
    description = _description(root, fetcher)
    train = _split(root, ('train',), fetcher, where, location)
    test = _split(root, _TEST_NAMES, fetcher, where, location)
    if description is not None:
        for split in (train, test):
            description.check_index(split.folder)
    named = json.dumps([1, train.identity(), test.identity()])
    return ShardFolder(location, train, test, description, xxhash.xxh3_128_hexdigest(named.encode()))


def _description(root: Path, fetcher: Fetcher | None) -> Description | None:
    if fetcher is not None:
        try:
            fetcher.fetch(DESCRIPTION)
        except FileNotFoundError:
            return None
    return Description.read(root) if (root / DESCRIPTION).exists() else None


def _split(root: Path, names: tuple[str, ...], fetcher: Fetcher | None, where: str, location: str) -> Split:
    """The first split of these names that exists."""
    reasons = []
    for name in names:
        if fetcher is not None:
            try:
                fetcher.fetch(f'{name}/index.json')
            except FileNotFoundError as error:
                reasons.append(str(error))
                continue
        if (root / name / 'index.json').exists():
            split = Split(root / name, fetcher)
            if len(split) == 0:
                raise UserError(f'{root / name}: the split is empty; convert data with samples in it')
            return split
    detail = f' ({reasons[0]})' if reasons else ''
    expected = ' or '.join(f'{name}/index.json' for name in names)
    raise UserError(
        f'{where}: {location}: not a data set of shards: it has no {expected}{detail}; '
        f"'composer-kd convert SOURCE OUT' writes such a folder"
    )


def _file(index: Path, entry: dict[str, Any]) -> ShardFile:
    name = entry['basename']
    if PurePosixPath(name).name != name or '\\' in name or name in ('', '.', '..'):
        raise UserError(f'{index}: the file name {name!r} leaves the folder; this is not a data set to trust')
    return ShardFile(name, int(entry['bytes']), dict(entry.get('hashes') or {}))


def _short(error: BaseException) -> str:
    text = str(error).strip().partition('\n')[0]
    return f'{type(error).__name__}: {text}' if text else type(error).__name__


DESCRIPTION = 'dataset.json'
_SCHEMA = 1


@dataclass(frozen=True)
class Description:
    """The content of ``dataset.json``, which ends with a hash of itself.

    Attributes:
        source: Where the images came from, in words.
        classes: The name of each class.
        superclasses: The names of the coarser classes, if there are any.
        coarse: The superclass of each class.
        shape: (C, H, W) of every image; ``None`` when they differ.
        mean: Of each channel of the training images, on the scale of 0 to 1.
        std: Likewise.
        splits: For each split its number of ``samples``, and the xxh3 of its ``index`` and its ``table``.
    """

    TABLE: ClassVar[str] = 'table.safetensors'

    source: str
    classes: list[str]
    superclasses: list[str] | None
    coarse: list[int] | None
    shape: list[int] | None
    mean: list[float]
    std: list[float]
    splits: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, root: Path) -> Description:
        path = root / DESCRIPTION
        try:
            values = json.loads(path.read_bytes())
            claimed = values.pop('xxh3')
            schema = values.pop('schema')
        except (ValueError, KeyError, AttributeError):
            raise UserError(f'{path}: damaged: not the JSON of a data set; copy or convert the data again') from None
        if schema != _SCHEMA:
            raise UserError(f'{path}: written in format {schema}, and this version reads {_SCHEMA}; convert again')
        if claimed != _hash_of(values):
            raise UserError(f'{path}: damaged: its xxh3 does not fit its content; copy or convert the data again')
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f'{path}: not the description of a data set ({error}); convert the data again') from None

    def write(self, root: Path) -> None:
        values = asdict(self)
        document = {'schema': _SCHEMA, **values, 'xxh3': _hash_of(values)}
        atomic_write(root / DESCRIPTION, json.dumps(document, indent=1, ensure_ascii=False) + '\n')

    def check_index(self, folder: Path) -> None:
        """Refuse an index that is not the one written with this description."""
        self._check(folder / 'index.json', 'index')

    def table(self, folder: Path) -> SampleTable:
        """The table of samples of the split in ``folder``, verified."""
        self._check(folder / self.TABLE, 'table')
        return SampleTable.load(folder / self.TABLE)

    def table_problem(self, path: Path) -> str | None:
        """What is wrong with a table, the split being the folder that it lies in."""
        return self._problem(path, 'table')

    def _problem(self, path: Path, part: str) -> str | None:
        if path.parent.name not in self.splits:
            return f'{DESCRIPTION} knows nothing of this split'
        if not path.exists():
            return 'the file is missing'
        if xxh3_of(path) != self.splits[path.parent.name][part]:
            return f'its xxh3 is not the one in {DESCRIPTION}'
        return None

    def _check(self, path: Path, part: str) -> None:
        problem = self._problem(path, part)
        if problem:
            raise UserError(f'{path}: damaged: {problem}; copy or convert the data again')


def _hash_of(values: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(values, sort_keys=True).encode())
