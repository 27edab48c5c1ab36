"""Recorded teachers and views stronger than crop and flip: what they said of these very boxes and colours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from composer_kd import Archive, Teacher, TeacherMixupKD, UserError
from composer_kd.cli import main
from composer_kd.runs.execute import execute
from composer_kd.runs.plan import make_plan
from composer_kd.runs.progress import RunProgress
from composer_kd.teachers.recorded import RecordedTeacher
from tests.teachers.recorded_runs import MODEL, SYNTHETIC, plain_state, record, tiny_data, train, trained_run

VIEWS = 2
STRONG = {'name': 'resized_crop', 'scale': [0.2, 1.0], 'colour_jitter': True, 'rand_augment': {'operations': 1}}
DATA = {'source': 'synthetic100', 'synthetic': SYNTHETIC, 'val_fraction': 0.1}


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
    """A run whose logits are recorded in two strong views."""
    run = trained_run(tmp_path_factory.mktemp('strong'), data={**DATA, 'augment': STRONG})
    record(run, tiny_data(VIEWS, augment=STRONG), VIEWS)
    return run


def test_a_recorded_teacher_trains_the_student_that_the_live_one_does(run) -> None:
    live = train(TeacherMixupKD([Teacher.from_run(run)]), tiny_data(VIEWS, augment=STRONG))
    recorded = train(TeacherMixupKD([Teacher.recorded(run)]), tiny_data(VIEWS, augment=STRONG))
    assert recorded.algorithm.pool.images_computed == [0]
    torch.testing.assert_close(recorded.weights, live.weights, atol=2e-4, rtol=1e-3)
    other = train(TeacherMixupKD([Teacher.from_run(run)]), tiny_data(VIEWS))
    assert not torch.allclose(other.weights, live.weights, atol=2e-3)


OTHERS = {
    'crop_flip': (True, r"\(name 'resized_crop' there, 'crop_flip' here\)"),
    'no augmentation': (False, r"\(name 'resized_crop' there, 'none' here\)"),
    'another scale': ({**STRONG, 'scale': [0.3, 1.0]}, r'\(scale \[0\.2, 1\.0\] there, \[0\.3, 1\.0\] here\)'),
    'no colours': ({**STRONG, 'colour_jitter': False}, r'\(colour_jitter \{.*\} there, None here\)'),
    'more operations': ({**STRONG, 'rand_augment': True}, r"\(rand_augment \{.*'operations': 1.*there.*2.*here\)"),
}


@pytest.mark.parametrize(('augment', 'line'), OTHERS.values(), ids=OTHERS.keys())
def test_a_recording_of_another_family_is_refused(run, augment, line) -> None:
    teacher = RecordedTeacher(run)
    with pytest.raises(UserError, match='was recorded with another augmentation ' + line) as refusal:
        teacher.choose(plain_state(tiny_data(VIEWS, augment=augment)), range(VIEWS))
    assert '\n' not in str(refusal.value)


def test_a_recording_of_crop_and_flip_is_refused_for_resized_crops(tmp_path) -> None:
    run = trained_run(tmp_path)
    record(run, tiny_data(VIEWS), VIEWS)
    metadata = Archive(run).metadata('logits', 0)['augmentation']
    assert metadata == {'name': 'crop_flip', 'version': 1, 'seed': 0, 'padding': 4, 'flip': True}
    with pytest.raises(UserError, match="name 'crop_flip' there, 'resized_crop' here"):
        RecordedTeacher(run).choose(plain_state(tiny_data(VIEWS, augment='resized_crop')), range(VIEWS))


def test_record_and_verify_know_the_family(run, capsys) -> None:
    assert Archive(run).manifest().augmentation == tiny_data(augment=STRONG).augmentation.as_mapping()
    assert main(['verify', str(run)]) == 0
    assert 'what is recorded' in capsys.readouterr().out
    assert main(['record', str(run), '--views', '3', 'data.augment=true']) == 1
    assert 'the logits of view 0 are of another augmentation' in capsys.readouterr().err


def test_a_begun_run_continues_with_its_family_alone(tmp_path) -> None:
    def again(augment) -> None:
        values = {'name': 'gen0', 'save_folder': str(tmp_path), 'data': {**DATA, 'augment': augment}, 'model': MODEL}
        with open('/dev/null', 'w') as nowhere:
            execute(make_plan({**values, 'max_duration': '1ep'}), RunProgress(False, stream=nowhere))

    again(STRONG)
    again(STRONG)
    with pytest.raises(UserError, match=r'begun with other settings \(data\.augment: not set -> True; data\.augment\.'):
        again(True)
    with pytest.raises(
        UserError, match=r'begun with other settings \(data\.augment\.scale: \[0\.2, 1\.0\] -> \[0\.3, 1'
    ):
        again({**STRONG, 'scale': [0.3, 1]})


def test_a_plan_knows_which_recordings_will_not_fit() -> None:
    student = {'data': {'views': 1, 'augment': 'resized_crop'}, 'algorithms': {'TeacherMixupKD': {'teachers': []}}}
    student['algorithms']['TeacherMixupKD']['teachers'] = [{'recorded': 'gen0'}]
    values = {'data': DATA, 'model': MODEL, 'max_duration': '1ep', 'archive': {'logits': {'views': 1}}}
    with pytest.raises(UserError, match=r"recorded with data\.augment: True and this run has {'name': 'resized_crop'"):
        make_plan({**values, 'lineage': {'gen0': None, 'gen1': student}})
    # The border is crop_flip's: resized crops do without.
    teacher = {'data': {'augment': 'resized_crop', 'padding': 2}}
    make_plan({**values, 'lineage': {'gen0': teacher, 'gen1': student}})
