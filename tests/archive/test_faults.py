"""Damage done to a real archive: found, named, and nothing of it used."""

import json
import os
import shutil

import numpy as np
import pytest
import torch

from composer_kd.archive import Archive, file_records, verify
from composer_kd.archive.samples import Samples
from composer_kd.archive.table import write_table
from composer_kd.core.errors import UserError
from tests.archive.common import losses, samples

torch.set_num_threads(1)

ABC = samples((5, 50, 0), (6, 60, 1), (7, 70, 2))


@pytest.fixture(scope='module')
def whole(tmp_path_factory, manifest):
    run = tmp_path_factory.mktemp('whole') / 'gen0'
    archive = Archive(run)
    archive.begin(manifest({}))
    archive.put('loss', 11, ABC, losses(0.5, 0.6, 0.7))
    archive.put('logits', 2, ABC, {'logits': torch.randn(3, 5).half()}, {'augmentation': {'version': 1, 'seed': 0}})
    archive.put('adversarial', 0, ABC, {'delta': torch.ones(3, 1, 2, 2, dtype=torch.int8)})
    (run / 'run.yaml').write_text('max_duration: 12ep\n')
    return run


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / 'gen0')


TABLES = {
    'archive/loss/ep0011.safetensors': lambda archive: archive.table('loss', 11),
    'archive/logits/view0002.safetensors': lambda archive: archive.table('logits', 2),
    'archive/adversarial/set0000.safetensors': lambda archive: archive.table('adversarial', 0),
    'archive/samples.safetensors': lambda archive: archive.samples(),
}


@pytest.mark.parametrize('name', TABLES)
def test_flipped_bytes_and_cuts_in_every_file(run, name):
    path = run / name
    content = path.read_bytes()
    for position in range(0, len(content), 13):
        path.write_bytes(content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :])
        with pytest.raises(UserError, match=f'{name}: damaged: its content is not what was written.*record it again'):
            TABLES[name](Archive(run))
    with pytest.raises(UserError, match=f'{name}: damaged'):
        verify(run)
    os.truncate(path, len(content) - 1)
    for find in (verify, lambda run: TABLES[name](Archive(run))):
        with pytest.raises(UserError, match=f'{name}: damaged: it has .* bytes'):
            find(run)
    path.unlink()
    for find in (verify, lambda run: TABLES[name](Archive(run))):
        with pytest.raises(UserError, match=f'{name}: this file of the run is missing; restore it, or record it again'):
            find(run)


def test_flipped_bytes_of_the_manifest(run):
    """A flipped byte may leave it JSON with another number in it; its own hash tells."""
    path = run / 'archive' / 'manifest.json'
    content = path.read_bytes()
    for position in range(0, len(content), 17):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        if (
            b'"xxh3": ' not in path.read_bytes()[-46:]
        ):  # Without the key's name nothing is sealed, and all else is right.
            continue
        with pytest.raises(UserError, match=r'archive/manifest\.json'):
            verify(run)
    path.write_bytes(content[: len(content) // 2])
    for find in (verify, lambda run: Archive(run).samples()):
        with pytest.raises(UserError, match=r'manifest\.json: not JSON, the file is damaged'):
            find(run)


def test_a_damaged_table_is_never_merged_into_a_new_one(run):
    path = run / 'archive/loss/ep0011.safetensors'
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r'ep0011\.safetensors: damaged'):
        Archive(run).put('loss', 11, samples((8, 80, 0)), losses(0.8))
    assert path.read_bytes() == content
    Archive(run).put('loss', 11, ABC, losses(1.0, 2.0, 3.0), merge=False)
    Archive(run).check()


def test_a_manifest_that_cannot_be_read_leaves_all_files(run):
    (run / 'archive' / 'manifest.json').write_text('{')
    with pytest.raises(UserError, match='not JSON'):
        Archive(run).put('loss', 11, ABC, losses(1.0, 2.0, 3.0))
    assert all((run / name).is_file() for name in TABLES)


def edited(run, change):
    path = run / 'archive' / 'manifest.json'
    values = json.loads(path.read_text())
    values.pop('xxh3')
    change(values)
    path.write_text(json.dumps(values))


NAMES = [
    '../../loss.safetensors',
    '/etc/passwd',
    'run.yaml',
    'archive/loss/../../x.safetensors',
    'archive/none.safetensors',
]


@pytest.mark.parametrize('name', NAMES)
def test_tables_outside_of_their_folders_are_refused(run, name):
    edited(run, lambda values: values['archive']['loss']['11'].update(file=name))
    for use in (lambda one: one.table('loss', 11), lambda one: one.drop('loss', lambda epoch: False)):
        with pytest.raises(UserError, match=r'manifest\.json: the archive names .* which is no table among its files'):
            use(Archive(run))


def test_a_linked_folder_is_not_swept(run, tmp_path):
    """A folder of tables that somebody linked elsewhere: what is there is not ours to remove."""
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    (elsewhere / 'ep0000.safetensors').write_bytes(b'of another')
    Archive(run).drop('adversarial', lambda number: False)
    (run / 'archive' / 'adversarial').rmdir()
    (run / 'archive' / 'adversarial').symlink_to(elsewhere)
    for kind, columns in (
        ('loss', losses(1.0, 2.0, 3.0)),
        ('adversarial', {'delta': torch.ones(3, 1, 2, 2, dtype=torch.int8)}),
    ):
        with pytest.raises(UserError, match=r'archive/adversarial: a symbolic link out of .*: remove it'):
            Archive(run).put(kind, 12, ABC, columns)
    assert [(path.name, path.read_bytes()) for path in elsewhere.iterdir()] == [('ep0000.safetensors', b'of another')]


def planted(run, name, columns):
    """A table of somebody's own, with the manifest's hashes rewritten to match."""
    write_table(run / name, columns)
    record = file_records(run, [name])[name].model_dump()
    edited(run, lambda values: values['files'].update({name: record}))


SEEN = torch.ones(3, dtype=torch.uint8)
PLANTED = [
    ({'logits': torch.zeros(3, 5).half()}, 'is not a table of logits: expected seen uint8'),
    ({'logits': torch.zeros(3, 5).half(), 'seen': SEEN.float()}, 'is not a table of logits'),
    ({'logits': torch.zeros(3, 5), 'seen': SEEN}, r'expected .* logits float16 \[n, C\] or values float16 \[n, k\]'),
    ({'logits': torch.zeros(3, 5, 1).half(), 'seen': SEEN}, 'is not a table of logits'),
    ({'probabilities': torch.zeros(3, 5).half(), 'seen': SEEN}, 'is not a table of logits'),
    ({'logits': torch.zeros(4, 5).half(), 'seen': torch.ones(4).byte()}, 'has 4 rows for 3 samples'),
    ({'logits': torch.zeros(0, 5).half(), 'seen': torch.ones(0).byte()}, 'has 0 rows for 3 samples'),
]


@pytest.mark.parametrize(('columns', 'line'), PLANTED)
def test_tables_of_another_form_are_refused(run, columns, line):
    planted(run, 'archive/logits/view0002.safetensors', columns)
    verify(run)
    for use in (lambda one: one.table('logits', 2), Archive.check):
        with pytest.raises(UserError, match=line) as refusal:
            use(Archive(run))
        assert 'view0002.safetensors' in str(refusal.value)
    Archive(run).table('loss', 11)


def test_counts_that_are_not_those_of_the_manifest(run):
    planted(run, 'archive/logits/view0002.safetensors', {'logits': torch.zeros(3, 5).half(), 'seen': SEEN * 0})
    with pytest.raises(UserError, match=r'view0002\.safetensors knows 0 samples, but the manifest says 3'):
        Archive(run).check()


@pytest.mark.parametrize('rows', [[0, 1], [0, 1, 1]])
def test_samples_that_are_not_those_of_the_manifest(run, rows):
    planted(run, 'archive/samples.safetensors', ABC.take(np.array(rows)).columns())
    with pytest.raises(UserError, match=rf'has {len(rows)} samples, 2 of them distinct, but the manifest says 3'):
        Archive(run).check()


def test_lost_tables_do_not_make_a_run_train_again(run):
    """The run is what it was; its archive says what it lacks when it is asked."""
    assert Archive(run).run.finished
    (run / 'archive/logits/view0002.safetensors').unlink()
    assert Archive(run).run.finished
    assert isinstance(Archive(run).samples(), Samples)
