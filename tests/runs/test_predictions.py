"""A run keeps what its last evaluation said, and says what follows; through interruptions and a new beginning."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from composer_kd import Teacher, TeacherMixupKD, UserError
from composer_kd.archive import RunDir, verify
from composer_kd.archive.predictions import Predictions, predictions_of, read_predictions
from composer_kd.runs.execute import execute
from composer_kd.runs.plan import make_plan
from composer_kd.runs.predictions import evaluation, teacher_runs
from composer_kd.runs.progress import RunProgress
from tests.runs.common import TINY

FILES = ['predictions/test.safetensors', 'predictions/val.safetensors']


def trained(folder: Path, **changes) -> dict[str, RunDir]:
    """The tiny lineage, or what ``changes`` make of it; ``None`` takes a key away."""
    values = {**TINY, 'save_folder': str(folder), 'max_duration': '2ep', **changes}
    plan = make_plan({key: value for key, value in values.items() if value is not None})
    execute(plan, RunProgress(False))
    return {run.name: RunDir(run.folder) for run in plan.runs}


@pytest.fixture(scope='module')
def lineage(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDir]:
    return trained(tmp_path_factory.mktemp('lineage'))


@pytest.fixture
def alone(tmp_path: Path, lineage: dict[str, RunDir]) -> RunDir:
    """A copy of the first run, as it lies in the folder of a command that names it alone."""
    shutil.copytree(lineage['gen0'].path, tmp_path / 'gen0')
    return RunDir(tmp_path / 'gen0')


def again(run: RunDir, **changes) -> None:
    trained(run.path.parent, lineage={'gen0': None}, **changes)


def probabilities(predictions: Predictions) -> np.ndarray:
    powers = np.exp(predictions.logits.double().numpy())
    return powers / powers.sum(axis=1, keepdims=True)


def test_the_numbers_in_the_manifest_are_those_of_the_files(lineage: dict[str, RunDir]) -> None:
    gen0, gen1 = lineage['gen0'].manifest(), lineage['gen1'].manifest()
    assert set(gen0.evaluation) == set(gen1.evaluation) == {'val', 'test'}
    assert gen0.evaluation['test'].agreement == gen0.evaluation['test'].teacher_kl == {}
    for split, found in gen1.evaluation.items():
        own, theirs = predictions_of(lineage['gen1'], split), predictions_of(lineage['gen0'], split)
        p, q = probabilities(own), probabilities(theirs)
        confidence, right = p.max(axis=1), p.argmax(axis=1) == own.labels.numpy()
        bins = np.ceil(confidence * 15)
        gaps = [abs((right[bins == b] - confidence[bins == b]).sum()) for b in range(1, 16)]
        assert found.calibration_error == pytest.approx(sum(gaps) / len(p), abs=1e-6)
        assert found.agreement == {'gen0': pytest.approx((p.argmax(axis=1) == q.argmax(axis=1)).mean())}
        assert found.teacher_kl == {'gen0': pytest.approx((q * np.log(q / p)).sum(axis=1).mean(), rel=1e-4)}


def test_they_are_of_the_accuracy_that_was_measured(lineage: dict[str, RunDir]) -> None:
    for run in lineage.values():
        for split in ('val', 'test'):
            kept = predictions_of(run, split)
            accuracy = (kept.logits.argmax(dim=1) == kept.labels).float().mean().item()
            assert accuracy == pytest.approx(run.metrics()[-1][f'{split}_accuracy'], abs=1e-6)
            assert kept.metadata['fingerprint'] == run.manifest().data.fingerprint
            assert torch.equal(kept.ids, kept.ids.unique())


def test_verify_looks_at_them(alone: RunDir) -> None:
    assert set(FILES) < set(verify(alone.path).files)
    path = alone.path / FILES[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r'test\.safetensors: damaged'):
        verify(alone.path)
    with pytest.raises(UserError, match=r'test\.safetensors: damaged'):
        predictions_of(alone, 'test')


def test_killed_before_it_could_say_that_it_finished(alone: RunDir) -> None:
    before = alone.manifest()
    alone.manifest_file.unlink()
    alone.weights_file.unlink()
    again(alone)
    after = alone.manifest()
    assert after.evaluation == before.evaluation
    assert after.files == before.files


def test_killed_before_its_last_evaluation_was_kept(alone: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    alone.manifest_file.unlink()
    (alone.path / FILES[0]).unlink()
    (alone.path / FILES[1]).write_bytes(b'cut off')
    again(alone)
    assert 'there are no predictions of val and test: the training was interrupted' in capsys.readouterr().out
    assert alone.finished
    assert alone.manifest().evaluation == {}
    assert not set(FILES) & set(verify(alone.path).files)


def test_those_of_an_earlier_training_are_forgotten(alone: RunDir) -> None:
    alone.manifest_file.unlink()
    shutil.rmtree(alone.checkpoints)
    alone.config_file.unlink()  # It names other settings, which would be refused.
    again(alone, predictions=False, seed=4)
    assert not (alone.path / 'predictions').exists()
    assert alone.manifest().evaluation == {}


def test_whether_they_are_kept_may_be_changed(alone: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    again(alone, predictions=False)
    assert 'finished before' in capsys.readouterr().out
    assert set(FILES) < set(verify(alone.path).files), 'what a finished run has, it keeps'


def test_without_a_validation_part(tmp_path: Path, lineage: dict[str, RunDir]) -> None:
    data = {**TINY['data'], 'val_fraction': 0, 'synthetic': {'train_size': 600, 'test_size': 100}}
    taught = {'TeacherMixupKD': {'teachers': [str(lineage['gen0'].path)]}}
    (run,) = trained(tmp_path, lineage=None, data=data, algorithms=taught, max_duration='1ep').values()
    assert set(run.manifest().evaluation) == {'test'}
    assert [path.name for path in (run.path / 'predictions').iterdir()] == ['test.safetensors']
    assert run.manifest().evaluation['test'].agreement == {}, 'the teacher was evaluated on other samples'


def test_teachers_that_are_run_directories(lineage: dict[str, RunDir]) -> None:
    path = lineage['gen0'].path
    looked_up, live = str(path), Teacher.from_run(path, name='live')
    method = TeacherMixupKD(teachers=[looked_up, live, torch.nn.Linear(2, 2)])
    found = {name: run.path for name, run in teacher_runs([method]).items()}
    assert found == {'gen0': path, 'live': path}


def test_a_teacher_on_a_remote(lineage: dict[str, RunDir]) -> None:
    teacher = Teacher.from_run(f'file://{lineage["gen0"].path.resolve()}')
    own = {'test': read_predictions(lineage['gen1'].path / FILES[0])}
    found = evaluation(own, teacher_runs([TeacherMixupKD(teachers=[teacher])]), print)
    assert found['test']['agreement'] == lineage['gen1'].manifest().evaluation['test'].agreement


def test_a_damaged_teacher_is_left_out_and_named(alone: RunDir, lineage: dict[str, RunDir]) -> None:
    own = {'test': read_predictions(lineage['gen1'].path / FILES[0])}
    (alone.path / FILES[0]).unlink()
    said: list[str] = []
    found = evaluation(own, {'gone': alone, 'gen0': lineage['gen0']}, said.append)
    assert list(found['test']['agreement']) == ['gen0']
    (line,) = said
    assert line.startswith('how faithful the student is to gone is not known: ')
    assert 'test.safetensors' in line


def test_logits_that_are_no_numbers_leave_no_number(lineage: dict[str, RunDir]) -> None:
    good = read_predictions(lineage['gen0'].path / FILES[0])
    bad = Predictions(torch.full_like(good.logits, torch.nan), good.labels, good.ids, good.metadata)
    found = evaluation({'test': bad}, {'gen0': lineage['gen0']}, print)['test']
    assert found['calibration_error'] is None
    assert found['teacher_kl'] == {'gen0': None}
