import os
import shutil

import pytest
import torch

from composer_kd.archive import Archive, read_parts, remove_parts, write_part
from composer_kd.archive.parts import merge_logits, write_logits
from composer_kd.storage.atomic import temporary_name
from tests.archive.common import losses, samples

FACTS = {'precision': 'fp32', 'augmentation': {'padding': 4, 'seed': 0}}


@pytest.fixture
def archive(tmp_path, manifest):
    archive = Archive(tmp_path / 'gen0')
    archive.begin(manifest({}))
    return archive


def read(*arguments):
    together = read_parts(*arguments)
    assert together is not None
    return together


def files(archive):
    return sorted(os.listdir(archive.run.path / 'archive' / 'parts'))


def test_parts_are_put_together_whatever_their_order(archive):
    assert read_parts(archive, 'loss', 3, FACTS) is None
    write_part(archive, 'loss', 3, samples((8, 80, 1), (5, 50, 0)), losses(0.8, 0.5), FACTS)
    write_part(archive, 'loss', 3, samples((9, 90, 0), (8, 80, 1), (9, 91, 0)), losses(0.9, 0.8, 0.91), FACTS)
    write_part(archive, 'loss', 4, samples((5, 50, 0)), losses(7.0), FACTS)
    write_part(archive, 'logits', 3, samples((5, 50, 0)), {'logits': torch.zeros(1, 9)}, FACTS)
    together, columns = read(archive, 'loss', 3, FACTS)
    found = {(i, c): value for i, c, value in zip(together.ids, together.content, columns['loss'], strict=True)}
    assert {key: round(value.item(), 6) for key, value in found.items()} == {
        (8, 80): 0.8,
        (5, 50): 0.5,
        (9, 90): 0.9,
        (9, 91): 0.91,
    }
    assert len(together) == 4
    assert columns['correct'].dtype == torch.uint8
    assert set(columns) == {'loss', 'correct'}


def test_the_same_part_twice_is_one_file(archive):
    for _ in range(2):
        write_part(archive, 'loss', 3, samples((8, 80, 1)), losses(0.8), FACTS)
    assert len(files(archive)) == 1


def test_parts_of_other_facts_are_somebody_elses(archive):
    write_part(archive, 'loss', 3, samples((8, 80, 1)), losses(0.8), FACTS)
    write_part(archive, 'loss', 3, samples((5, 50, 1)), losses(0.5), {**FACTS, 'precision': 'bf16'})
    together, _ = read(archive, 'loss', 3, dict(reversed(FACTS.items())))
    assert together.ids.tolist() == [8]
    assert read_parts(archive, 'loss', 3) is None
    assert len(files(archive)) == 2
    remove_parts(archive, 'loss', 3, FACTS)
    assert read_parts(archive, 'loss', 3, FACTS) is None
    assert len(files(archive)) == 1
    assert read(archive, 'loss', 3, {**FACTS, 'precision': 'bf16'})[0].ids.tolist() == [5]


def test_a_merge_leaves_the_parts_of_another_record(archive):
    how = [{'top_k': None, 'classes': 2, 'source': source} for source in ('model', 'fill')]
    for metadata, row in zip(how, ((8, 80, 1), (5, 50, 1)), strict=True):
        write_logits(archive, 0, samples(row), torch.full((1, 2), float(row[0])), metadata)
    merge_logits(archive, 0, how[1])
    merge_logits(archive, 0, how[0])
    assert archive.metadata('logits', 0)['seen'] == 2
    assert files(archive) == []


def test_damage_anywhere_in_a_part_is_found(archive):
    write_part(archive, 'loss', 3, samples((8, 80, 1)), losses(0.8), FACTS)
    (name,) = files(archive)
    path = archive.run.path / 'archive' / 'parts' / name
    whole = path.read_bytes()
    for position in range(0, len(whole), 11):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        assert read_parts(archive, 'loss', 3, FACTS) is None, position
        assert files(archive) == []
    path.write_bytes(whole[:-1])
    assert read_parts(archive, 'loss', 3, FACTS) is None
    path.write_bytes(whole)
    shutil.copy(path, path.with_name('loss-0003-copied.safetensors'))
    assert read(archive, 'loss', 3, FACTS)[0].ids.tolist() == [8]
    assert files(archive) == [name]


def test_what_is_removed(archive):
    for kind, number in (('loss', 3), ('loss', 4), ('logits', 3)):
        write_part(archive, kind, number, samples((8, 80, 1)), losses(0.8), FACTS)
    killed = archive.run.path / 'archive' / 'parts' / '.loss-0003-00ff.safetensors.12-ab.tmp'
    killed.touch()
    remove_parts(archive, 'loss', 4)
    assert [name[:9] for name in files(archive)] == ['.loss-000', 'logits-00', 'loss-0003']
    remove_parts(archive, 'loss')
    assert [name[:9] for name in files(archive)] == ['logits-00']
    remove_parts(archive)
    assert files(archive) == []


def test_what_a_killed_writer_left_is_removed_by_the_next_part(archive):
    child = os.fork()
    if child == 0:
        folder = archive.run.path / 'archive' / 'parts'
        folder.mkdir(parents=True, exist_ok=True)
        (folder / temporary_name('logits-0000-00ff.safetensors', 'tmp')).touch()
        os._exit(0)
    os.waitpid(child, 0)
    mine = archive.run.path / 'archive' / 'parts' / temporary_name('logits-0001-00ff.safetensors', 'tmp')
    mine.touch()
    assert len(files(archive)) == 2
    write_part(archive, 'loss', 3, samples((8, 80, 1)), losses(0.8), FACTS)
    assert [name[:9] for name in files(archive)] == [mine.name[:9], 'loss-0003']
    mine.unlink()
