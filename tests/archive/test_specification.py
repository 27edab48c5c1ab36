"""docs/archive.md is what the code does: its tables, its formulas, and the reader that it prints."""

import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash

from composer_kd.archive import Archive
from composer_kd.archive.evaluations import DriftFile
from composer_kd.archive.manifest import (
    ArchiveRecord,
    DataRecord,
    EvaluationRecord,
    FileRecord,
    InferenceRecord,
    Manifest,
)
from composer_kd.archive.predictions import Predictions, predictions_file
from composer_kd.archive.table import KINDS, read_table
from composer_kd.data.dataset import pixel_hash
from composer_kd.data.transform import Augmentation
from tests.archive.common import losses, samples
from tests.test_docs import ROOT, blocks, tables

torch.set_num_threads(1)

PAGE = ROOT / 'docs' / 'archive.md'


@pytest.fixture
def run(tmp_path: Path, manifest) -> Path:
    archive = Archive(tmp_path / 'gen0')
    archive.begin(manifest({}))
    archive.put('loss', 3, samples((5, 2**64 - 3, 0), (6, 60, 1), (7, 70, 2)), losses(0.5, 0.6, 0.7))
    logits = torch.tensor([[1.5, -65504.0, 0.25], [3.0, 2.0, 1.0]]).half()
    archive.put('logits', 12, samples((7, 70, 2), (-8, 80, 9)), {'logits': logits})
    top = {'values': logits[:1, :1], 'indices': torch.tensor([[2]], dtype=torch.int16), 'rest': logits[:1, 2]}
    archive.put('logits', 13, samples((6, 60, 1)), top)
    archive.put('adversarial', 0, samples((6, 60, 1)), {'delta': torch.tensor([[[[-128, 127]]]], dtype=torch.int8)})
    return archive.run.path


def column(heading: str, number: int = 0) -> list[str]:
    return [name for row in tables(PAGE)[heading][0][1:] for name in re.findall(r'`(\w+)`', row[number])]


def test_the_keys_of_the_manifest() -> None:
    keys = [field.alias or name for name, field in Manifest.model_fields.items()]
    assert sorted(column('The manifest')) == sorted([*keys, 'xxh3'])
    assert column('data') == list(DataRecord.model_fields)
    assert column('An entry of files') == list(FileRecord.model_fields)
    assert column('archive') == list(ArchiveRecord.model_fields)
    assert column('inference') == [field.alias or name for name, field in InferenceRecord.model_fields.items()]
    assert column('evaluation') == list(EvaluationRecord.model_fields)
    assert column('Drift') == ['format', 'version', *(field.name for field in fields(DriftFile))]
    assert column('Epochs and views') == [field.name for field in fields(Augmentation)]


def test_the_columns_of_the_tables() -> None:
    stated = tables(PAGE)['Tables'][1][1:]
    rows = [(kind.name, name, one) for kind in KINDS.values() for form in kind.layouts for name, one in form.items()]
    assert [(row[0].strip('`'), row[1].strip('`')) for row in stated] == [(kind, name) for kind, name, _ in rows]
    for row, (_, _, one) in zip(stated, rows, strict=True):
        assert row[2] == ' or '.join(str(dtype).removeprefix('torch.') for dtype in one.dtypes)
        assert row[3] == ', '.join(one.shape)


def test_the_samples_are_as_specified(run: Path) -> None:
    rows = tables(PAGE)['Tables'][0][1:]
    for name, tensor in Archive(run).samples().columns().items():
        assert [name, 'int64', 'n'] in [[row[0].strip('`'), *row[1:3]] for row in rows]
        assert tensor.dtype == torch.int64


def test_predictions_are_as_specified(tmp_path: Path) -> None:
    metadata = {'split': 'test', 'epoch': 1, 'batch': 2, 'fingerprint': None}
    kept = Predictions(torch.zeros(2, 3).half(), torch.tensor([0, 2]), torch.tensor([4, 9]), metadata)
    kept.write(tmp_path / predictions_file('test'))
    assert (tmp_path / predictions_file('test')).is_file()
    assert f'`{predictions_file("test")}`' in PAGE.read_text()
    table = read_table(tmp_path / predictions_file('test'))
    assert sorted(column('Predictions')) == sorted(table.columns)
    for name, dtype, shape in (row[:3] for row in tables(PAGE)['Predictions'][0][1:]):
        tensor = table[name.strip('`')]
        assert (f'torch.{dtype}', len(shape.split(','))) == (str(tensor.dtype), tensor.dim())
    assert json.loads(table.metadata['metadata']) == metadata
    assert all(f'`{fact}`' in PAGE.read_text().partition('header has under `metadata`')[2] for fact in metadata)


def test_the_files_of_the_folder(run: Path) -> None:
    (tree,) = (block for block in blocks(PAGE) if block.text.startswith('runs/gen0/archive/'))
    names = [line.split()[0] for line in tree.text.splitlines()[1:]]
    assert {name for name in names if '/' in name and not name.endswith('/')} == {
        KINDS['loss'].file(3).removeprefix('archive/'),
        KINDS['logits'].file(3).removeprefix('archive/'),
        KINDS['adversarial'].file(0).removeprefix('archive/'),
    }
    there = {re.sub(r'-\d+\.', '.', path.name) for path in (run / 'archive').iterdir()}
    assert there == {name.split('/')[0] for name in names} - {'parts'}


def test_the_measured_table_is_the_benchmarks() -> None:
    measured = [line for line in (ROOT / 'benchmarks/top_k/top_k.md').read_text().splitlines() if line.startswith('|')]
    assert '\n'.join(measured) in PAGE.read_text()


def test_the_hash_of_the_manifest(run: Path) -> None:
    text = (run / 'archive' / 'manifest.json').read_text()
    seal = json.loads(text)['xxh3']
    assert xxhash.xxh3_128(text.replace(seal, '-' * 32).encode(), seed=0).hexdigest() == seal


def test_the_content_of_a_sample() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 4)).astype(np.uint8)
    plain = b''.join(number.to_bytes(8, 'little') for number in (3, 5, 4))
    plain += bytes(int(image[c, h, w]) for c in range(3) for h in range(5) for w in range(4))
    assert pixel_hash(image) == xxhash.xxh3_64(plain).intdigest()


def test_the_reader_reads_what_the_archive_reads(run: Path) -> None:
    (block,) = (block for block in blocks(PAGE) if block.file == 'reader.py')
    assert len([line for line in block.text.splitlines() if line.strip()]) <= 30
    names: dict = {}
    exec(compile(block.text, 'reader.py', 'exec'), names)
    archive = Archive(run)
    for kind in KINDS:
        for number in archive.numbers(kind):
            ids, content, labels, columns = names['read'](run, kind, number)
            table = archive.table(kind, number)
            seen = np.flatnonzero(table['seen'].numpy())
            known = archive.samples().take(seen)
            assert ids.tolist() == known.ids.tolist()
            assert content.tolist() == known.content.tolist()
            assert labels.tolist() == known.labels.tolist()
            assert columns.keys() == table.columns.keys() - {'seen'}
            for name, values in columns.items():
                assert values.tolist() == table[name][seen].tolist()
    assert names['read'](run, 'logits', 12)[0].tolist() == [7, -8]
