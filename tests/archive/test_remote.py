"""Run directories behind a URL; Streaming's downloader of file:// stands for all of them."""

import pytest
import torch

from composer_kd.archive import Archive, RunDir, file_records, verify
from composer_kd.archive import remote as module
from composer_kd.archive.remote import RemoteRun
from composer_kd.core.errors import UserError
from tests.archive.common import losses, samples, values

torch.set_num_threads(1)

ABC = samples((5, 50, 0), (6, 60, 1), (7, 70, 2))
CONFIG = {'name': 'gen0', 'max_duration': '12ep'}


@pytest.fixture
def there(tmp_path, manifest, monkeypatch):
    """A finished run with losses, where downloads go into a folder of this test."""
    monkeypatch.setenv('COMPOSER_KD_CACHE', str(tmp_path / 'cache'))
    run = RunDir(tmp_path / 'bucket' / 'gen0')
    run.write_config(CONFIG)
    run.append_metrics({'epoch': 12, 'val_accuracy': 0.5})
    archive = Archive(run.path)
    archive.begin(manifest(file_records(run.path, ['run.yaml', 'metrics.jsonl'])))
    archive.put('loss', 3, ABC, losses(0.5, 0.6, 0.7), {'source': 'training'})
    return archive


@pytest.fixture
def url(there):
    return f'file://{there.run.path}'


@pytest.fixture
def fetched(monkeypatch):
    """Names in the order in which they were downloaded."""
    names, download = [], module.Fetcher._download
    monkeypatch.setattr(
        module.Fetcher, '_download', lambda self, name, local: (names.append(name), download(self, name, local))
    )
    return names


def flip(path):
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def test_what_is_asked_for_is_fetched_once_and_nothing_else(url, fetched, tmp_path):
    archive = Archive(url)
    assert fetched == []
    assert archive.exists
    assert archive.epochs == [3]
    assert archive.metadata('loss', 3) == {'seen': 3, 'source': 'training'}
    assert fetched == ['archive/manifest.json']
    for _ in range(2):
        assert values(archive, 'loss', 3, 'loss') == {(5, 50): 0.5, (6, 60): 0.6, (7, 70): 0.7}
        assert archive.run.read_config() == CONFIG
        assert archive.run.metrics()[0]['val_accuracy'] == 0.5
    everything = {'archive/manifest.json', 'archive/samples.safetensors', 'archive/loss/ep0003.safetensors'}
    assert len(fetched) == 5
    assert set(fetched) == {*everything, 'run.yaml', 'metrics.jsonl'}
    assert archive.run.path.is_relative_to(tmp_path / 'cache' / 'downloads')
    Archive(url).table('loss', 3)
    assert fetched[5:] == ['archive/manifest.json'], 'a second look asks for the manifest alone'


def test_what_was_recorded_there_meanwhile_is_found(url, there):
    archive = Archive(url)
    archive.table('loss', 3)
    there.put('loss', 3, ABC, losses(1.0, 2.0, 3.0))
    archive.table('loss', 3)
    later = Archive(url)
    assert values(later, 'loss', 3, 'loss') == {(5, 50): 1.0, (6, 60): 2.0, (7, 70): 3.0}
    there.put('loss', 3, ABC, losses(4.0, 5.0, 6.0))
    behind = Archive(url)
    behind.manifest()
    there.put('loss', 3, ABC, losses(7.0, 8.0, 9.0))
    assert values(behind, 'loss', 3, 'loss')[5, 50] == 7.0, 'its manifest names a file that is gone: it asks again'


def test_a_download_that_was_damaged_is_fetched_again(url, fetched, monkeypatch):
    download = module.Fetcher._download

    def damaged_once(self, name, local):
        download(self, name, local)
        if fetched.count(name) == 1:
            flip(local)

    monkeypatch.setattr(module.Fetcher, '_download', damaged_once)
    archive = Archive(url)
    assert values(archive, 'loss', 3, 'loss') == {(5, 50): 0.5, (6, 60): 0.6, (7, 70): 0.7}
    assert fetched.count('archive/loss/ep0003.safetensors') == fetched.count('archive/manifest.json') == 2
    flip(archive.run.path / 'archive/loss/ep0003.safetensors')
    archive.table('loss', 3)
    assert fetched.count('archive/loss/ep0003.safetensors') == 3, 'a copy that was damaged here'


@pytest.mark.parametrize('name', ['archive/loss/ep0003.safetensors', 'archive/manifest.json', 'run.yaml'])
def test_a_damaged_remote_is_refused_by_name(url, there, name):
    flip(there.run.path / name)
    archive = Archive(url)

    def read():
        archive.table('loss', 3)
        archive.run.read_config()

    with pytest.raises(UserError, match=f'^{url}/{name}: ') as refusal:
        read()
    assert 'damaged' in str(refusal.value)
    assert '\n' not in str(refusal.value)
    assert not (archive.run.path / name).exists(), 'nothing of it is kept'


def test_all_files_of_a_remote_are_verified(url, there):
    assert RemoteRun(url).verify() == there.manifest()
    flip(there.run.path / 'metrics.jsonl')
    with pytest.raises(UserError, match=rf'^{url}/metrics\.jsonl: .* damaged'):
        RemoteRun(url).verify()


def test_a_file_that_is_missing_there(url, there):
    (there.run.path / 'archive/loss/ep0003.safetensors').unlink()
    with pytest.raises(UserError, match=rf'^{url}/archive/loss/ep0003\.safetensors: cannot be downloaded'):
        Archive(url).table('loss', 3)


def test_what_is_no_run(tmp_path, there):
    archive = Archive(f'file://{tmp_path}/nowhere')
    assert not archive.exists
    with pytest.raises(UserError, match=f'file://{tmp_path}/nowhere: nothing is recorded there'):
        archive.samples()
    with pytest.raises(UserError, match=f'file://{tmp_path}/nowhere: no finished run is there'):
        archive.run.read_config()
    with pytest.raises(UserError, match='Streaming cannot read this remote'):
        Archive('gopher://bucket/gen0').samples()


def test_a_remote_is_only_read(url, there):
    archive, before = Archive(url), there.run.manifest_file.read_bytes()
    writes = [
        lambda: archive.put('loss', 3, ABC, losses(1.0, 2.0, 3.0)),
        lambda: archive.drop('loss', lambda epoch: False),
        lambda: archive.begin(there.manifest()),
        lambda: archive.update(lambda manifest: manifest),
        lambda: archive.run.write_config({}),
        lambda: archive.run.append_metrics({}),
        lambda: archive.run.lock().__enter__(),
    ]
    for write in writes:
        with pytest.raises(UserError, match=f'^{url}: what lies on a remote is only read; copy the run here'):
            write()
    assert there.run.manifest_file.read_bytes() == before
    verify(there.run.path)


def test_its_name(url):
    run = RemoteRun(url + '/')
    assert (str(run), repr(run)) == (url, f'RemoteRun({url!r})')
