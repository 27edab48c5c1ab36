"""Recorded teachers by name in a lineage."""

from __future__ import annotations

import os

import pytest

from composer_kd.archive import Archive, RunDir
from composer_kd.cli import main
from composer_kd.core.errors import UserError
from composer_kd.runs.execute import execute
from composer_kd.runs.plan import make_plan
from composer_kd.runs.progress import RunProgress
from composer_kd.runs.record import record_run
from tests.runs.common import TINY


def plan_with(teachers, **changes):
    lineage = {'gen0': None, 'gen1': {'algorithms': {'TeacherMixupKD': {'teachers': teachers}}}}
    return make_plan({**TINY, 'lineage': lineage, **changes})


def test_a_recorded_teacher_is_named_like_any_other() -> None:
    plan = plan_with([{'recorded': 'gen0', 'fill': True}], repeat=2)
    taught = {run.name: run for run in plan.runs}['gen1-s1']
    assert taught.teachers == ('gen0-s1',)
    resolved = taught.config.algorithms['TeacherMixupKD']['teachers']
    assert resolved == [{'recorded': 'runs/gen0-s1', 'fill': True}]


BAD = {
    'kind': ([{'record': 'gen0'}], r"algorithms\.TeacherMixupKD\.teachers: .*one of 'recorded' and 'live'"),
    'option': ([{'recorded': 'gen0', 'fil': True}], r"recorded\.fil: unknown key; did you mean 'fill'"),
    'type': ([{'recorded': 'gen0', 'fill': 1}], r'recorded\.fill: expected true or false, got 1'),
    'unseen': (
        [{'recorded': 'gen0', 'unseen': 'skip'}],
        r"recorded\.unseen: 'skip' is not one of them; known: label, live",
    ),
    'name': ([{'recorded': 'gen9'}], "'gen9' is neither a run of this file"),
    'twice': (['gen0', {'live': 'gen0'}], 'there twice'),
    'live': ([{'live': 'gen0', 'fill': True}], r'live\.fill: unknown key; known: name'),
}


@pytest.mark.parametrize(('teachers', 'line'), BAD.values(), ids=BAD.keys())
def test_mistakes_are_found_before_anything_trains(teachers, line) -> None:
    with pytest.raises(UserError, match=line):
        plan_with(teachers)


LOGITS = {'logits': {'views': 2}}
UNFIT = {
    'too few views by itself': ({}, {}, "'gen0' records 4 views .* a fresh view every epoch; set its data.views to 4"),
    'fresh views': (LOGITS, {}, "'gen0' records 2 views .* a fresh view every epoch; set its data.views to 2"),
    'more views': (LOGITS, {'views': 3}, "'gen0' records 2 views .* asks for 3 views"),
    'other padding': (LOGITS, {'views': 2, 'padding': 2}, 'data.padding: 4 and this run has 2'),
    'another seed': (LOGITS, {'views': 1, 'augment_seed': 9}, 'data.augment_seed: 0 and this run has 9'),
}


@pytest.mark.parametrize(('archive', 'data', 'line'), UNFIT.values(), ids=UNFIT.keys())
def test_recordings_that_will_not_fit_are_found_before_anything_trains(archive, data, line) -> None:
    student = {'data': data, 'algorithms': {'TeacherMixupKD': {'teachers': [{'recorded': 'gen0'}]}}}
    lineage = {'gen0': {'archive': archive} if archive else None, 'gen1': student}
    with pytest.raises(UserError, match=line):
        make_plan({**TINY, 'lineage': lineage})
    # What the student completes for itself need not be there.
    student['algorithms']['TeacherMixupKD']['teachers'][0]['fill'] = True
    make_plan({**TINY, 'lineage': lineage})


def test_a_window_of_fresh_views_can_be_looked_up() -> None:
    options = {'teachers': [{'recorded': 'gen0'}], 'schedule': 'first 2ep'}
    lineage = {'gen0': {'archive': LOGITS}, 'gen1': {'algorithms': {'TeacherMixupKD': options}}}
    assert [run.name for run in make_plan({**TINY, 'lineage': lineage}).runs] == ['gen0', 'gen1']


def executed(folder, lineage, **changes) -> dict[str, RunDir]:
    plan = make_plan({**TINY, 'save_folder': str(folder), 'lineage': lineage, **changes})
    with open(os.devnull, 'w') as nowhere:
        execute(plan, RunProgress(False, stream=nowhere))
    return {run.name: RunDir(run.folder) for run in plan.runs}


def test_a_lineage_that_looks_up_ends_where_one_with_live_teachers_does(tmp_path) -> None:
    student = {'seed': 5, 'data': {'views': 2}}
    runs = executed(
        tmp_path,
        {
            'gen0': {'archive': {'losses': True, 'logits': {'views': 2}}},
            'recorded': {**student, 'algorithms': {'TeacherMixupKD': {'teachers': [{'recorded': 'gen0'}]}}},
            'either': {**student, 'algorithms': {'TeacherMixupKD': {'teachers': ['gen0']}}},
            'live': {**student, 'algorithms': {'TeacherMixupKD': {'teachers': [{'live': 'gen0'}]}}},
        },
    )
    recorded, either, live = (runs[name].metrics() for name in ('recorded', 'either', 'live'))
    for one, two, other in zip(recorded, live, either, strict=True):
        # float16 moves a logit by a two-thousandth at most; 200 test images differ in a few at the very most.
        assert one['test_accuracy'] == pytest.approx(two['test_accuracy'], abs=0.011)
        assert one['loss_distill'] == pytest.approx(two['loss_distill'], rel=5e-3)
        assert one['multiply_adds_teacher_total'] == 0
        assert one['multiply_adds_teacher_saved_total'] == two['multiply_adds_teacher_total'] > 0
        assert other['test_accuracy'] == one['test_accuracy']  # The same, chosen for itself.
    hashes = [runs[name].manifest().model_extra['teachers']['gen0'] for name in ('recorded', 'live')]
    assert hashes == [runs['gen0'].manifest().weights.hash] * 2
    archive = Archive(runs['gen0'].path)
    assert (archive.epochs, archive.views) == ([0, 1, 2], [0, 1])


def test_a_sweep_pays_for_its_teacher_once(tmp_path) -> None:
    taught = {'algorithms': {'TeacherMixupKD': {'teachers': [{'recorded': 'gen0', 'fill': True}]}}}
    sweep = {f'lr{number}': {**taught, 'optimizer': {'lr': 0.01 * number}} for number in (1, 2, 3)}
    runs = executed(tmp_path, {'gen0': None, **sweep})
    totals = [runs[name].metrics()[-1] for name in sweep]
    assert totals[0]['multiply_adds_teacher_total'] > 0
    assert [total['multiply_adds_teacher_total'] for total in totals[1:]] == [0, 0]
    assert len({total['images_recorded_total'] for total in totals}) == 1


def test_a_refused_recording_can_be_put_right(tmp_path, capfd) -> None:
    executed(tmp_path, {'gen0': None})
    folder = tmp_path / 'gen0'
    student = {'name': 'gen1', 'lineage': None, 'save_folder': str(tmp_path)}
    with pytest.raises(UserError, match='no recorded logits'):
        one_run(student, {'recorded': str(folder)})
    # Nothing was trained, so nothing was begun: the remedy of the line works.
    one_run(student, {'live': str(folder)})
    one_run({**student, 'name': 'gen2'}, str(folder))
    assert 'teacher gen0 is live: ' in capfd.readouterr().out


def one_run(changes, teacher) -> None:
    values = {**TINY, **changes, 'algorithms': {'TeacherMixupKD': {'teachers': [teacher]}}}
    execute(make_plan({key: value for key, value in values.items() if value is not None}), RunProgress(False))


def test_record_anew_looks_at_the_weights_first(tmp_path) -> None:
    run = executed(tmp_path, {'gen0': {'archive': {'logits': {'views': 1}}}})['gen0']
    weights = bytearray(run.weights_file.read_bytes())
    weights[-9] ^= 1
    run.weights_file.write_bytes(bytes(weights))
    with pytest.raises(UserError, match='damaged'):
        record_run(run.path, replace=True)
    assert Archive(run.path).views == [0]


def test_more_logits_than_classes_are_refused_before_the_training(tmp_path) -> None:
    with pytest.raises(UserError, match=r'archive\.logits\.top_k: 101 of 100 classes'):
        executed(tmp_path, {'gen0': {'archive': {'logits': {'views': 1, 'top_k': 101}}}})
    assert not (tmp_path / 'gen0' / 'metrics.jsonl').exists()


def test_verify_looks_at_every_run(tmp_path, capfd) -> None:
    runs = executed(tmp_path, {'a': None, 'b': None, 'c': None}, max_duration='1ep')
    (runs['a'].path / 'run.yaml').write_text('changed')
    runs['b'].weights_file.unlink()
    assert main(['verify', *(str(run.path) for run in runs.values())]) == 1
    out, err = capfd.readouterr()
    assert f'{runs["c"].path}: 5 files are as they were written' in out
    assert 'run.yaml: damaged' in err
    assert 'weights.safetensors: this file of the run is missing' in err
