"""Recorded teachers: what they look up is what the model said, and everything that does not fit is refused."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from composer.algorithms import CutMix, MixUp, SelectiveBackprop

from composer_kd import Archive, RecordLogits, Teacher, TeacherMixupKD, UserError
from composer_kd.archive import RunDir
from composer_kd.data.transform import Prepare
from composer_kd.functional.top_k import keep_top, spread_rest
from composer_kd.teachers.record import fill_view
from composer_kd.teachers.recorded import RecordedTeacher
from composer_kd.teachers.recordings import LogitTables
from tests.teachers.recorded_runs import plain_state, record, tiny_data, train, trained_run

VIEWS = 2


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Two runs whose logits are recorded in two views."""
    folder = tmp_path_factory.mktemp('recorded')
    runs = [trained_run(folder, seed) for seed in (3, 4)]
    for run in runs:
        record(run, tiny_data(VIEWS), VIEWS)
    return runs


@pytest.fixture
def run(made, tmp_path) -> Path:
    """A copy of the first, to be changed."""
    return Path(shutil.copytree(made[0], tmp_path / made[0].name))


def computed(run: Path, data, rows, view: int) -> torch.Tensor:
    """What the run's model says, by hand: its own weights on the pixels that the key names."""
    module = Teacher.from_run(run).module  # type: ignore[attr-defined]
    batch = data.train_set.__getitems__([int(row) + len(data.train_set) * view for row in rows])
    with torch.no_grad():
        return module.eval()(Prepare(data.augmentation, *data.normalization)(batch)[0])


@pytest.mark.parametrize('budget', [None, 1], ids=['in-memory', 'from-files'])
def test_one_gather_gives_what_each_model_said_of_the_very_view(made, budget) -> None:
    data = tiny_data(VIEWS)
    teachers = [RecordedTeacher(run) for run in made]
    recordings = LogitTables(teachers, data.train_set, torch.device('cpu'), budget)
    assert recordings.place == ('device' if budget is None else 'files')
    rows = np.array([17, 3, 199, 3])
    for view in range(VIEWS):
        keys = torch.stack([torch.from_numpy(data.train_set.ids[rows]), torch.full((4,), view)], 1)
        looked = recordings.look_up(keys)
        assert looked.seen is None
        for place, run in enumerate(made):
            torch.testing.assert_close(looked.logits[place], computed(run, data, rows, view), atol=2e-3, rtol=1e-3)
    # Of two views in one batch, each sample gets its own.
    keys = torch.stack([torch.from_numpy(data.train_set.ids[rows]), torch.tensor([0, 1, 0, 1])], 1)
    mixed = recordings.look_up(keys).logits[0]
    for position, view in enumerate([0, 1, 0, 1]):
        expected = computed(made[0], data, rows[position : position + 1], view)[0]
        torch.testing.assert_close(mixed[position], expected, atol=2e-3, rtol=1e-3)


def test_the_view_of_evaluation_is_never_looked_up(made) -> None:
    data = tiny_data(VIEWS)
    recordings = LogitTables([RecordedTeacher(made[0])], data.train_set, torch.device('cpu'))
    with pytest.raises(UserError, match='view -1'):
        recordings.look_up(torch.tensor([[int(data.train_set.ids[0]), -1]]))


@pytest.mark.parametrize('budget', [None, 1], ids=['in-memory', 'from-files'])
def test_a_row_serves_only_the_content_that_it_bears(made, budget) -> None:
    data = tiny_data(VIEWS)
    dataset = data.train_set
    dataset.content_hashes = dataset.content_hashes.copy()
    dataset.content_hashes[7] += np.uint64(1)  # The image was mended since.
    teachers = [RecordedTeacher(run) for run in made]
    recordings = LogitTables(teachers, dataset, torch.device('cpu'), budget)
    keys = torch.stack([torch.from_numpy(dataset.ids[[6, 7, 8]]), torch.zeros(3, dtype=torch.int64)], 1)
    looked = recordings.look_up(keys)
    assert looked.seen is not None
    assert looked.seen.tolist() == [[True, False, True]] * 2
    assert looked.logits[:, 1].abs().sum() == 0


def test_reordered_and_grown_data_find_their_rows(made) -> None:
    data = tiny_data(VIEWS)
    dataset = data.train_set
    expected = computed(made[0], data, [11], 1)[0]
    key = torch.tensor([[int(dataset.ids[11]), 1], [987654, 1]])
    order = np.random.default_rng(0).permutation(len(dataset))
    dataset.ids = np.append(dataset.ids[order], 987654)
    dataset.content_hashes = np.append(dataset.content_hashes[order], np.uint64(1))
    dataset.labels = np.append(dataset.labels[order], 0)
    looked = LogitTables([RecordedTeacher(made[0])], dataset, torch.device('cpu')).look_up(key)
    assert looked.seen is not None
    assert looked.seen.tolist() == [[True, False]]
    torch.testing.assert_close(looked.logits[0, 0], expected, atol=2e-3, rtol=1e-3)


def test_top_k_tables_are_spread_when_looked_up(run) -> None:
    data, archive = tiny_data(1), Archive(run)
    rows = np.arange(len(data.train_set))
    logits = computed(run, data, rows, 0)
    values, indices, rest = keep_top(logits, 5)
    metadata = {**archive.metadata('logits', 0), 'top_k': 5}
    archive.drop('logits', lambda view: False)
    archive.put('logits', 0, archive.samples(), {'values': values, 'indices': indices, 'rest': rest}, metadata)
    keys = torch.stack([torch.from_numpy(data.train_set.ids), torch.zeros(len(rows), dtype=torch.int64)], 1)
    looked = LogitTables([RecordedTeacher(run)], data.train_set, torch.device('cpu')).look_up(keys)
    torch.testing.assert_close(looked.logits[0], spread_rest(values, indices, rest, 100))
    # And a view that is filled beside them takes their form.
    teacher = RecordedTeacher(run, fill=True)
    state = plain_state(data)
    teacher.settle(state, [0, 1], looks_up=True)
    assert fill_view(teacher, state, 1, np.ones(len(rows), bool)) == len(rows)
    assert set(archive.table('logits', 1).columns) == {'values', 'indices', 'rest', 'seen'}


def rewrite(run: Path, change) -> None:
    path = run / 'archive' / 'manifest.json'
    manifest = {**json.loads(path.read_text()), 'xxh3': None}  # edited by hand: no longer sealed
    change(manifest)
    path.write_text(json.dumps(manifest))


def other_weights(manifest) -> None:
    for table in manifest['archive']['logits'].values():
        table['weights'] = 'of another training'


def other_version(manifest) -> None:
    for table in manifest['archive']['logits'].values():
        table['augmentation']['version'] += 1


REFUSALS = {
    'fresh views': (lambda run: None, {'views': None}, r'holds views 0, 1, .* views 0 to 29; set data\.views to 2'),
    'too many views': (lambda run: None, {'views': 3}, r'holds views 0, 1, the training wants views 0 to 2'),
    'another augment seed': (lambda run: None, {'views': 2, 'augment_seed': 1}, r'seed 0 there, 1 here.*--replace'),
    'another padding': (lambda run: None, {'views': 2, 'padding': 2}, r'padding 4 there, 2 here'),
    'another version': (lambda run: rewrite(run, other_version), {'views': 2}, r'version 2 there, 1 here'),
    'another training': (lambda run: rewrite(run, other_weights), {'views': 2}, r'of other weights.*--replace'),
    'nothing recorded': (
        lambda run: Archive(run).drop('logits', lambda view: False), {'views': 2}, r'no recorded logits.*record.*fill',
    ),
    'a missing view': (
        lambda run: Archive(run).drop('logits', lambda v: v > 0), {'views': 2}, r'holds views 1, .* wants views 0, 1',
    ),
    'other data': (lambda run: None, {'views': 2, 'images': 'others'}, r'holds none of this data.*data\.source'),
}  # fmt: skip


@pytest.mark.parametrize(('fault', 'section', 'line'), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_mismatch_is_refused_in_one_line_and_taught_live_where_that_may_be(run, fault, section, line) -> None:
    fault(run)
    data = tiny_data(**{key: value for key, value in section.items() if key != 'images'})
    if 'images' in section:
        data.train_set.content_hashes = data.train_set.content_hashes + np.uint64(1)
    teacher = RecordedTeacher(run)
    views = range(data.views) if data.views else range(30)
    with pytest.raises(UserError, match=line) as refusal:
        teacher.choose(plain_state(data), views)
    assert '\n' not in str(refusal.value)
    # The same run directory without a wish: the model teaches, and says why.
    either = Teacher.of(run)
    assert isinstance(either, RecordedTeacher)
    either.settle(plain_state(data), views, looks_up=bool(either.choose(plain_state(data), views)))
    assert not either.looks_up
    assert either.live is not None


def test_a_run_directory_looks_up_when_its_archive_covers_the_training(made, caplog) -> None:
    caplog.set_level('INFO', logger='composer_kd')
    algorithm = TeacherMixupKD(teachers=[made[0]])
    train(algorithm, tiny_data(VIEWS))
    assert algorithm.pool.images_computed == [0]
    assert algorithm.pool.images_recorded == [2 * 3 * 64]
    assert 'is looked up, in 2 views' in caplog.text
    assert algorithm.pool.live == []  # Its model is not kept.


class MyMixUp(MixUp):
    """Somebody's own, which mixes as well."""


CHANGING = {'MixUp': MixUp(), 'CutMix': CutMix(), 'own': MyMixUp(), 'drops': SelectiveBackprop(0.0, 1.0)}


@pytest.mark.parametrize('beside', CHANGING.values(), ids=CHANGING.keys())
def test_what_changes_the_input_is_refused_beside_recorded_teachers(made, beside) -> None:
    with pytest.raises(UserError, match=f'{type(beside).__name__}.*live teacher'):
        train(TeacherMixupKD(teachers=[Teacher.recorded(made[0])]), tiny_data(VIEWS), beside=(beside,))


def test_mixup_makes_a_run_directory_a_live_teacher(made) -> None:
    algorithm = TeacherMixupKD(teachers=[made[0]])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        train(algorithm, tiny_data(VIEWS), epochs='1ep', beside=(MixUp(),))
    assert algorithm.pool.images_computed == [3 * 64]
    assert algorithm.pool.images_recorded == [0]


def test_a_table_that_was_replaced_meanwhile_is_not_used(run) -> None:
    data = tiny_data(VIEWS)
    recordings = LogitTables([RecordedTeacher(run)], data.train_set, torch.device('cpu'))
    ids = torch.from_numpy(data.train_set.ids[:3])
    recordings.look_up(torch.stack([ids, torch.zeros(3, dtype=torch.int64)], 1))
    archive = Archive(run)
    metadata = archive.metadata('logits', 1)
    for change in ({'augmentation': {**metadata['augmentation'], 'padding': 2}}, {'weights': 'of another training'}):
        logits = {'logits': archive.table('logits', 1)['logits'].clone()}
        archive.put('logits', 1, archive.samples(), logits, {**metadata, **change}, merge=False)
        with pytest.raises(UserError, match=r'another augmentation|other weights'):
            recordings.look_up(torch.stack([ids, torch.ones(3, dtype=torch.int64)], 1))
    archive.drop('logits', lambda view: view == 0)
    with pytest.raises(UserError, match='holds no view 1, which this epoch asks for'):
        recordings.look_up(torch.stack([ids, torch.ones(3, dtype=torch.int64)], 1))


def test_a_flipped_byte_is_found_before_anything_is_taught(run) -> None:
    file = run / 'archive/logits/view0001.safetensors'
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r'view0001\.safetensors: damaged'):
        train(TeacherMixupKD(teachers=[Teacher.recorded(run)]), tiny_data(VIEWS))


BAD = {
    'unseen': (lambda: Teacher.recorded('x', unseen='skip'), "unseen is 'live' or 'label'"),
    'fill': (lambda: Teacher.recorded('x', fill='yes'), 'fill is true or false'),  # type: ignore[arg-type]
    'remote': (
        lambda: Teacher.recorded('s3://bucket/runs/gen0', fill=True),
        'a remote is only read; copy',
    ),
    'no run': (lambda: Teacher.recorded('runs/nowhere'), 'runs/nowhere'),
    'two kinds': (lambda: Teacher.of({'recorded': 'a', 'live': 'b'}), "one of 'recorded' and 'live'"),
    'option': (
        lambda: Teacher.of({'recorded': 'a', 'filled': True}),
        "teachers.recorded.filled: unknown key; did you mean 'fill'",
    ),
}


@pytest.mark.parametrize(('make', 'line'), BAD.values(), ids=BAD.keys())
def test_bad_options_are_one_line(make, line, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=line):
        make()


def test_a_run_on_a_remote_is_looked_up_where_it_lies(made) -> None:
    algorithm = TeacherMixupKD(teachers=[Teacher.recorded(f'file://{made[0]}')])
    here = TeacherMixupKD(teachers=[Teacher.recorded(made[0])])
    there = train(algorithm, tiny_data(VIEWS)).weights
    assert (algorithm.pool.images_computed, algorithm.teachers[0].name) == ([0], made[0].name)
    assert torch.equal(there, train(here, tiny_data(VIEWS)).weights)


def test_a_run_that_has_not_finished_cannot_be_looked_up(run) -> None:
    rewrite(run, lambda manifest: manifest.update(weights=None, finished_epoch=None))
    (run / 'weights.safetensors').unlink()
    with pytest.raises(UserError, match='has not finished'):
        Teacher.recorded(run)


def test_what_a_trainer_of_ones_own_recorded_teaches_without_a_run(tmp_path) -> None:
    recorder = RecordLogits(tmp_path / 'mine', views=VIEWS)
    train(TeacherMixupKD([torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 100))]), tiny_data(None),
          callbacks=[recorder])  # fmt: skip
    student = TeacherMixupKD([Teacher.recorded(tmp_path / 'mine', unseen='label')])
    train(student, tiny_data(VIEWS))
    assert student.pool.images_computed == [0]
    assert 0 < student.pool.images_recorded[0] <= 2 * 3 * 64
    with pytest.raises(UserError, match=r'no run\.yaml'):
        Teacher.recorded(tmp_path / 'mine')


def test_options_of_a_yaml_make_the_teacher(made) -> None:
    teacher = Teacher.of({'recorded': str(made[0]), 'fill': True, 'unseen': 'label', 'name': 'first'})
    assert isinstance(teacher, RecordedTeacher)
    assert (teacher.fill, teacher.unseen, teacher.name, teacher.or_live) == (True, 'label', 'first', False)
    assert RunDir(made[0]).finished
