"""What is put in comes out: for grown, changed and re-ordered data, and for every kind of table."""

import numpy as np
import pytest
import torch

from composer_kd.archive import Archive, aligned, verify
from composer_kd.archive import archive as module
from composer_kd.core.errors import UserError
from tests.archive.common import losses, samples, values

torch.set_num_threads(1)

ABC = samples((5, 50, 0), (6, 60, 1), (7, 70, 2))


@pytest.fixture
def archive(tmp_path, manifest):
    archive = Archive(tmp_path / 'gen0')
    archive.begin(manifest({}))
    return archive


def test_nothing_recorded_is_said_with_the_remedy(tmp_path, archive):
    assert not archive.exists
    for ask in (archive.samples, archive.record, lambda: archive.epochs, lambda: archive.table('loss', 0)):
        with pytest.raises(UserError, match=r'gen0: nothing is recorded there; .*archive:.*composer-kd record'):
            ask()
    assert archive.bytes() == {}
    with pytest.raises(UserError, match='gen9: no such run directory'):
        Archive(tmp_path / 'gen9').samples()


def test_tables_grow_by_rows(archive):
    archive.put('loss', 3, ABC.take(np.array([0, 2])), losses(0.5, 0.7), {'source': 'training'})
    archive.put('loss', 3, samples((6, 60, 1), (7, 70, 2)), losses(0.6, 7.0))
    assert values(archive, 'loss', 3, 'loss') == {(5, 50): 0.5, (6, 60): 0.6, (7, 70): 7.0}
    assert archive.samples().ids.tolist() == [5, 7, 6]
    assert archive.metadata('loss', 3) == {'seen': 3, 'source': 'training'}
    archive.put('loss', 4, samples((8, 80, 0)), losses(0.8))
    assert len(archive.table('loss', 3)) == 3, 'older tables are not rewritten'
    assert archive.table('loss', 4)['seen'].tolist() == [0, 0, 0, 1]
    assert archive.epochs == [3, 4]
    assert archive.views == []
    archive.check()
    verify(archive.run.path)
    assert archive.record().count == 4


def test_anew_instead_of_merged(archive):
    archive.put('loss', 0, ABC, losses(0.5, 0.6, 0.7), {'source': 'training'})
    archive.put('loss', 0, ABC.take(np.array([1])), losses(6.0), merge=False)
    assert values(archive, 'loss', 0, 'loss') == {(6, 60): 6.0}
    assert archive.metadata('loss', 0) == {'seen': 1}


def test_costs_add_up_and_facts_are_replaced(archive):
    for precision in ('fp32', 'bf16'):
        archive.put(
            'loss', 0, ABC, losses(1.0, 2.0, 3.0), {'precision': precision}, counts={'images': 3, 'seconds': 0.5}
        )
    assert archive.metadata('loss', 0) == {'seen': 3, 'precision': 'bf16', 'images': 6, 'seconds': 1.0}


def test_padding_duplicates_count_once(archive):
    archive.put('loss', 0, samples((5, 50, 0), (6, 60, 1), (5, 50, 0)), losses(0.5, 0.6, 9.0))
    assert values(archive, 'loss', 0, 'loss') == {(5, 50): 0.5, (6, 60): 0.6}
    archive.put('loss', 1, samples(), losses())
    assert archive.epochs == [0], 'nothing entered, nothing written'


FORMS = [
    ('logits', {'logits': torch.randn(3, 10).half()}),
    (
        'logits',
        {
            'values': torch.randn(3, 2).half(),
            'indices': torch.tensor([[1, 2], [3, 4], [9, 0]], dtype=torch.int16),
            'rest': torch.randn(3).half(),
        },
    ),
    ('adversarial', {'delta': torch.randint(-128, 128, (3, 3, 4, 4), dtype=torch.int8)}),
]


@pytest.mark.parametrize(('kind', 'columns'), FORMS)
def test_every_kind_comes_back_bit_for_bit(archive, kind, columns):
    metadata = {'attack': 'pgd', 'epsilon': 0.03, 'weights': 'abc'}
    first, last = np.array([0, 1]), np.array([2])
    archive.put(kind, 2, ABC.take(first), {name: column[:2] for name, column in columns.items()}, metadata)
    archive.put(kind, 2, ABC.take(last), {name: column[2:] for name, column in columns.items()})
    table = Archive(archive.run.path).table(kind, 2)
    assert table.columns.keys() == {*columns, 'seen'}
    assert all(torch.equal(table[name], column) for name, column in columns.items())
    assert archive.metadata(kind, 2) == {**metadata, 'seen': 3}
    assert archive.numbers(kind) == [2]
    assert archive.bytes()[kind] > 0


@pytest.mark.parametrize(
    'columns',
    [
        {'loss': torch.zeros(3)},
        {'loss': torch.zeros(3).double(), 'correct': torch.zeros(3).byte()},
        {'loss': torch.zeros(3, 1), 'correct': torch.zeros(3).byte()},
        {'loss': torch.zeros(2), 'correct': torch.zeros(2).byte()},
        {**losses(1.0, 2.0, 3.0), 'seen': torch.ones(3).byte()},
    ],
)
def test_other_columns_are_refused(archive, columns):
    with pytest.raises(UserError, match=r'a table of loss for 3 samples has loss float32 \[n\], correct uint8 \[n\]'):
        archive.put('loss', 0, ABC, columns)
    assert not archive.exists


def test_a_table_keeps_its_form(archive):
    archive.put('logits', 0, ABC, {'logits': torch.zeros(3, 10).half()})
    with pytest.raises(UserError, match=r'logits float16 \[10\], the new values logits float16 \[11\]'):
        archive.put('logits', 0, ABC, {'logits': torch.zeros(3, 11).half()})
    archive.put('logits', 0, ABC, {'logits': torch.zeros(3, 11).half()}, merge=False)
    assert archive.table('logits', 0)['logits'].shape == (3, 11)


def test_unknown_kinds_and_numbers(archive):
    archive.put('loss', 0, ABC, losses(1.0, 2.0, 3.0))
    for ask in (lambda: archive.table('loss', 2), lambda: archive.metadata('loss', 2)):
        with pytest.raises(UserError, match='the archive has no losses of epoch 2; recorded: 0'):
            ask()
    with pytest.raises(UserError, match='no logits of view 0; recorded: none'):
        archive.table('logits', 0)
    for ask in (lambda: archive.numbers('losses'), lambda: archive.table('samples', 0)):
        with pytest.raises(UserError, match='is not a kind of table'):
            ask()


def test_dropping_tables(archive):
    for epoch in range(4):
        archive.put('loss', epoch, ABC, losses(1.0, 2.0, epoch))
    archive.put('logits', 3, ABC, {'logits': torch.zeros(3, 10).half()})
    archive.drop('loss', lambda epoch: epoch < 2)
    assert (archive.epochs, archive.views) == ([0, 1], [3])
    files = sorted(path.name for path in (archive.run.path / 'archive' / 'loss').iterdir())
    assert files == ['ep0000.safetensors', 'ep0001.safetensors']
    assert set(archive.manifest().files) == {
        'archive/samples.safetensors',
        'archive/loss/ep0000.safetensors',
        'archive/loss/ep0001.safetensors',
        'archive/logits/view0003.safetensors',
    }


def test_the_manifest_may_change_beside_the_tables(archive):
    archive.put('loss', 0, ABC, losses(1.0, 2.0, 3.0))
    archive.update(lambda manifest: manifest.model_copy(update={'finished_epoch': 12}))
    assert archive.manifest().finished_epoch == 12
    archive.begin(archive.manifest().model_copy(update={'finished_epoch': 1}))
    assert archive.manifest().finished_epoch == 12, 'one that is there stays'
    assert values(archive, 'loss', 0, 'loss') == {(5, 50): 1.0, (6, 60): 2.0, (7, 70): 3.0}


def test_in_the_order_of_other_data(archive):
    archive.put('loss', 0, ABC, losses(0.5, 0.6, 0.7))
    archive.put('loss', 1, samples((8, 80, 0)), losses(0.8))
    data = samples((1, 80, 0), (7, 70, 2), (9, 90, 0), (6, 60, 1), (5, 51, 0))
    rows = archive.samples().rows_by_content(data)
    assert rows.tolist() == [3, 2, -1, 1, -1]
    table = aligned(archive.table('loss', 0), rows)
    assert table['seen'].tolist() == [0, 1, 0, 1, 0], 'the table of epoch 0 knows nothing of the fourth sample'
    assert table['loss'][[1, 3]].tolist() == pytest.approx([0.7, 0.6])
    assert aligned(archive.table('loss', 1), rows)['seen'].tolist() == [1, 0, 0, 0, 0]


def test_what_another_process_wrote_is_noticed(archive):
    """Names alternate between two files, so that the third table has the first one's name."""
    reader = Archive(archive.run.path)
    opened = []
    for step in range(3):
        archive.put('loss', 0, ABC, losses(1.0, 2.0, step))
        opened.append(reader.table('loss', 0))
        assert opened[-1]['loss'][2] == step
    assert [table['loss'][2].item() for table in opened] == [0, 1, 2], 'tables that are open stay what they were'
    assert reader.record().loss[0].file == 'archive/loss/ep0000.safetensors'


def test_a_reader_between_two_states(archive, monkeypatch):
    """A table that is replaced after the manifest was read is found by the next manifest."""
    archive.put('loss', 0, ABC, losses(1.0, 2.0, 3.0))
    reader, check = Archive(archive.run.path), module.verify_file

    def late(*arguments):
        monkeypatch.setattr(module, 'verify_file', check)
        archive.put('loss', 0, ABC, losses(4.0, 5.0, 6.0))
        check(*arguments)

    monkeypatch.setattr(module, 'verify_file', late)
    assert reader.table('loss', 0)['loss'].tolist() == [4, 5, 6]


def test_samples_that_are_known_are_not_written_again(archive):
    archive.put('loss', 0, ABC, losses(1.0, 2.0, 3.0))
    file = archive.run.path / 'archive' / 'samples.safetensors'
    before = file.stat()
    archive.put('loss', 1, ABC, losses(1.0, 2.0, 3.0))
    after = file.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
