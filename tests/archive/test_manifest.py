import json
import os

import pytest

from composer_kd.archive import atomic_write, file_records, read_manifest, verify, write_manifest
from composer_kd.archive.manifest import FileRecord, manifest_file
from composer_kd.core.errors import UserError


@pytest.fixture
def run_dir(tmp_path, manifest):
    atomic_write(tmp_path / 'weights.safetensors', b'weights')
    atomic_write(tmp_path / 'archive' / 'loss' / 'ep0001.safetensors', bytes(300))
    names = ['weights.safetensors', 'archive/loss/ep0001.safetensors']
    write_manifest(tmp_path, manifest(file_records(tmp_path, names)))
    return tmp_path


def edited(run_dir, change):
    values = json.loads(manifest_file(run_dir).read_text())
    values.pop('xxh3', None)
    change(values)
    manifest_file(run_dir).write_text(json.dumps(values))


def test_what_is_written(run_dir):
    values = json.loads(manifest_file(run_dir).read_text())
    assert values['schema'] == 1
    assert values['files']['weights.safetensors']['bytes'] == 7
    assert values['data']['normalization'] == {'mean': [0.5, 0.5, 0], 'std': [0.25, 0.25, 1]}
    assert 'schema_version' not in values
    assert list(values)[-1] == 'xxh3'
    assert read_manifest(run_dir) == verify(run_dir)
    assert read_manifest(run_dir).data.num_samples == 100


def test_a_manifest_of_recorders_is_not_that_of_a_finished_run(run_dir):
    assert read_manifest(run_dir).finished
    for key in ('weights', 'finished_epoch', 'precision', 'multiply_adds', 'parameters'):
        edited(run_dir, lambda values, key=key: values.pop(key))
    assert not read_manifest(run_dir).finished
    assert verify(run_dir).weights is None, 'what is recorded is checked all the same'


def test_the_speed_of_inference_goes_by_the_batch_and_may_be_unknown(run_dir):
    assert read_manifest(run_dir).inference is None, 'as in the manifests of earlier versions'
    seconds = {'1': 0.001, '256': None, 'device': 'cpu', 'threads': 2, 'precision': 'bf16'}
    edited(run_dir, lambda values: values.update(inference=seconds))
    found = read_manifest(run_dir)
    assert found.inference is not None
    assert (found.inference.batch_1, found.inference.batch_256) == (0.001, None)
    write_manifest(run_dir, found)
    assert json.loads(manifest_file(run_dir).read_text())['inference'] == seconds
    edited(run_dir, lambda values: values['inference'].update({'1': -1.0}))
    with pytest.raises(UserError, match=r'inference\.1: .*greater than 0'):
        read_manifest(run_dir)


def test_keys_of_later_versions_are_kept(run_dir):
    edited(run_dir, lambda values: values.update(hints={'layers': [0, 1]}))
    edited(run_dir, lambda values: values['files']['weights.safetensors'].update(kind='weights'))
    write_manifest(run_dir, read_manifest(run_dir))
    values = json.loads(manifest_file(run_dir).read_text())
    assert values['hints'] == {'layers': [0, 1]}
    assert values['files']['weights.safetensors']['kind'] == 'weights'


@pytest.mark.parametrize('name', ['weights.safetensors', 'archive/loss/ep0001.safetensors'])
def test_every_flipped_byte_is_found(run_dir, name):
    path = run_dir / name
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(UserError, match=f'{name}: damaged: its content'):
            verify(run_dir)
    path.write_bytes(whole[:-1])
    with pytest.raises(
        UserError, match=f'{name}: damaged: it has {len(whole) - 1} bytes, the manifest says {len(whole)}'
    ):
        verify(run_dir)
    path.unlink()
    with pytest.raises(UserError, match=f'{name}: this file of the run is missing'):
        verify(run_dir)


OUTSIDE = ['../secret', '/etc/passwd', 'archive/../../secret', '..', '', '.', 'a\0b', 'link/secret', 'link']


@pytest.mark.parametrize('name', OUTSIDE)
def test_names_that_lead_outside_are_refused(run_dir, manifest, name):
    (run_dir.parent / 'secret').write_bytes(b'weights')
    os.symlink(run_dir.parent, run_dir / 'link')
    record = {'bytes': 7, 'xxh3': '0' * 32}
    with pytest.raises(UserError, match='leads out of the run directory'):
        file_records(run_dir, [name])
    with pytest.raises(UserError, match='leads out of the run directory'):
        write_manifest(run_dir, manifest({name: FileRecord.model_validate(record)}))
    edited(run_dir, lambda values: values['files'].update({name: record}))
    for read in (read_manifest, verify):
        with pytest.raises(UserError, match=r'manifest\.json: the file name .* leads out of the run directory'):
            read(run_dir)


MISTAKES = [
    (lambda values: values.update(schema=2), 'its schema is 2, this version of composer_kd reads 1'),
    (lambda values: values.pop('schema'), 'its schema is None'),
    (lambda values: values.pop('data'), r'manifest\.json\.data: this key is required'),
    (lambda values: values.update(seed='x'), r'manifest\.json\.seed: should be a valid integer'),
    (lambda values: values['data'].update(num_classes=0), r'data\.num_classes: should be greater than 0'),
    (lambda values: values['files']['weights.safetensors'].update(bytes=-1), 'bytes: should be greater than or equal'),
    (lambda values: values['files']['weights.safetensors'].update(xxh3='zz'), 'xxh3: String should match'),
]


@pytest.mark.parametrize(('change', 'line'), MISTAKES)
def test_mistakes_are_named(run_dir, change, line):
    edited(run_dir, change)
    with pytest.raises(UserError, match=line) as refusal:
        read_manifest(run_dir)
    assert '\n' not in str(refusal.value)


@pytest.mark.parametrize('content', [b'', b'{', b'\xff', b'[]', b'3'])
def test_what_is_no_manifest(run_dir, content):
    manifest_file(run_dir).write_bytes(content)
    with pytest.raises(UserError, match=r'manifest\.json: '):
        read_manifest(run_dir)


def test_no_manifest(tmp_path):
    with pytest.raises(UserError, match='has not finished'):
        read_manifest(tmp_path)
