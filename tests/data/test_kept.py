"""Caches: built once by however many processes, whole or not there, and never believed without their hash."""

import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path

import pytest
import torch

from composer_kd.core.errors import UserError
from composer_kd.data import open_data
from composer_kd.data.cache import kept
from composer_kd.data.convert import convert
from composer_kd.data.section import DataSection

_fork = multiprocessing.get_context('fork')


def write_slowly(folder):
    (folder / 'part').write_text('half')
    time.sleep(0.3)
    (folder / 'part').write_text(f'whole, by {os.getpid()}')


def ask(cache, answers):
    answers.put((kept(cache, 'thing', write_slowly) / 'part').read_text())


def test_of_four_processes_one_builds(tmp_path):
    answers = _fork.Queue()
    processes = [_fork.Process(target=ask, args=(tmp_path, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    texts = {answers.get(timeout=20) for _ in processes}
    for process in processes:
        process.join()
    assert len(texts) == 1
    assert texts.pop().startswith('whole')


def test_a_killed_build_is_not_taken_for_a_cache(tmp_path):
    def hang(folder):
        (folder / 'part').write_text('half')
        time.sleep(60)

    process = _fork.Process(target=kept, args=(tmp_path, 'thing', hang))
    process.start()
    while not list(tmp_path.glob('.thing.building/part')):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / 'thing').exists()
    folder = kept(tmp_path, 'thing', lambda folder: (folder / 'part').write_text('whole'))
    assert (folder / 'part').read_text() == 'whole'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['.thing.lock', 'thing']


def test_a_failed_build_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / 'part').write_text('half')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path, 'thing', fail)
    assert [path.name for path in tmp_path.iterdir()] == ['.thing.lock']


@pytest.fixture
def section(gray_npz, tmp_path):
    convert(str(gray_npz()), tmp_path / 'out')
    return DataSection(source=str(tmp_path / 'out'), cache_dir=str(tmp_path / 'cache'))


def test_a_flipped_byte_in_any_cached_file_is_found_and_mended(section, flip_byte, caplog):
    expected = open_data(section, 8, 0)
    images = expected.train_set.images(torch.arange(8)).clone()
    [built] = Path(section.cache_dir).glob('images-*')
    for file in sorted(built.iterdir()):
        caplog.clear()
        flip_byte(file)
        again = open_data(section, 8, 0)
        assert file.name in caplog.text
        assert torch.equal(again.train_set.images(torch.arange(8)), images)


def test_a_flipped_cache_whose_shards_are_damaged_is_refused(section, flip_byte):
    open_data(section, 8, 0)
    [built] = Path(section.cache_dir).glob('images-*')
    shard = Path(section.source) / 'train/shard.00000.mds'
    flip_byte(shard)
    open_data(section, 8, 0)  # the cache is whole and the shard is not read
    flip_byte(built / 'train.u8')
    with pytest.raises(UserError, match=str(shard)):
        open_data(section, 8, 0)
    assert not built.exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(section):
    def open_with_little_room(answers):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            open_data(section, 8, 0)
        except UserError as error:
            answers.put(str(error))
        except BaseException as error:
            answers.put(repr(error))

    answers = _fork.Queue()
    process = _fork.Process(target=open_with_little_room, args=(answers,))
    process.start()
    message = answers.get(timeout=30)
    process.join()
    assert message.startswith(f'{section.cache_dir}: cannot write: ')
    assert '\n' not in message
    assert not list(Path(section.cache_dir).glob('images-*'))


def test_a_cache_folder_that_is_a_file(section, tmp_path):
    (tmp_path / 'file').write_text('')
    for place in ('file', 'file/below'):
        with pytest.raises(UserError, match=r'file.*: cannot write: .*choose another folder'):
            open_data(section.model_copy(update={'cache_dir': str(tmp_path / place)}), 8, 0)
