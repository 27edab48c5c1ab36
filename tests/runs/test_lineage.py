"""A lineage from its YAML to its report, in this process; continued, changed, in use, and going wrong."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from composer_kd.archive import RunDir, verify
from composer_kd.run import main
from composer_kd.storage.import_weights import read_pickled_weights
from tests.runs.common import TINY, write_yaml


@pytest.fixture(autouse=True)
def _own_warnings():
    # The command shows warnings in its own way; other tests keep theirs.
    with warnings.catch_warnings():
        yield


def test_a_lineage_trains_reports_and_is_not_trained_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_yaml(tmp_path)
    assert main([str(file)]) == 0
    output = capsys.readouterr().out
    assert '[2/2] gen1: mlp, 3ep, seed 3, taught by gen0' in output
    assert 'report.html' in output
    runs = tmp_path / 'runs'
    for name in ('gen0', 'gen1'):
        run = RunDir(runs / name)
        assert [line['epoch'] for line in run.metrics()] == [1, 2, 3]
        assert run.finished
        assert verify(run.path).weights.hash
        assert sorted(run.read_config()) == sorted(['name', 'arm', 'lineage', 'stored_data', *_run_keys()])
    first, last = RunDir(runs / 'gen1').metrics()[0], RunDir(runs / 'gen1').metrics()[-1]
    assert last['loss_label'] < first['loss_label']
    assert last['loss_distill'] is not None
    assert last['multiply_adds_teacher_total'] * 3 == last['multiply_adds_student_total'], 'a teacher of the same size'
    assert 0 < last['seconds_teacher_total'] < last['seconds_train_total']
    assert RunDir(runs / 'gen0').metrics()[-1]['loss_distill'] is None
    assert (runs / 'report.html').stat().st_size > 10_000
    json.loads((runs / 'report.json').read_text())

    weights = runs / 'gen1' / 'weights.safetensors'
    written = weights.stat().st_mtime_ns
    assert main([str(file)]) == 0
    assert 'gen1: finished before, not trained again' in capsys.readouterr().out
    assert weights.stat().st_mtime_ns == written

    assert main([str(file), 'optimizer.lr=0.07']) == 1
    error = capsys.readouterr().err
    assert 'gen0 was begun with other settings (optimizer.lr: 0.05 -> 0.07)' in error
    assert error.count('\n') == 1
    assert main([str(file), 'keep_checkpoints=2', 'data.workers=1']) == 0, 'what does not change the result may change'
    capsys.readouterr()

    assert len(list((runs / 'gen1' / 'checkpoints').glob('ep*'))) == 1
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4])
    assert main([str(file)]) == 0
    assert 'gen1: finished before, but weights.safetensors is damaged or missing: made again' in capsys.readouterr().out
    assert weights.read_bytes() == whole, 'made again out of the last checkpoint'

    with RunDir(runs / 'gen0').lock():
        assert main([str(file)]) == 1
    assert 'gen0 is in use by process' in capsys.readouterr().err


def _run_keys() -> list[str]:
    from composer_kd.runs.config import RunConfig

    return list(RunConfig.model_fields)


def test_a_run_of_the_folder_teaches_from_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_yaml(tmp_path, lineage={'gen0': None}, max_duration='1ep')
    assert main([str(file), '--no-report']) == 0
    teacher = str(tmp_path / 'runs' / 'gen0')
    student = write_yaml(
        tmp_path,
        lineage=None,
        name='later',
        max_duration='1ep',
        algorithms={'teacher_mixup_kd': {'teachers': [teacher]}},
    )
    assert main([str(student), '--no-report']) == 0
    assert RunDir(tmp_path / 'runs' / 'later').metrics()[0]['loss_distill'] > 0


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_yaml(tmp_path, lineage={'gen0': None}, optimizer={'name': 'SGD', 'lr': 0.05}, save_interval='1ba')
    assert main([str(file), 'optimizer.lr=9999']) == 1
    error = capsys.readouterr().err
    assert 'the loss became NaN or infinite in epoch 0, batch' in error
    assert 'the last checkpoint in' in error
    assert error.count('\n') == 1
    checkpoint = RunDir(tmp_path / 'runs' / 'gen0').checkpoint()
    assert checkpoint is not None
    assert all(torch.isfinite(tensor).all() for tensor in read_pickled_weights(checkpoint).values())


WRONG: dict[str, tuple[list[str], str]] = {
    'misspelt optimizer': (
        ['optimizer.name=SDG'],
        r"optimizer: 'SDG' is not one of the optimizers; did you mean 'SGD'",
    ),
    'misspelt option': (['optimizer.momentun=0.9'], "optimizer.momentun: unknown key; did you mean 'momentum'"),
    'option of a wrong type': (['optimizer.lr=fast'], 'optimizer.lr: should be'),
    'option out of range': (['optimizer.lr=-1'], 'optimizer: Invalid learning rate: -1'),
    'unknown scheduler': (
        ['scheduler=cosin'],
        "scheduler: 'cosin' is not one of the schedulers; did you mean 'Cosine'",
    ),
    'unknown algorithm': (
        ['algorithms.MixUpp.alpha=1'],
        "algorithms.MixUpp: 'MixUpp' is not one of the algorithms; did you",
    ),
    'unknown callback': (['callbacks.Foo.a=1'], "callbacks.Foo: 'Foo' is not one of the callbacks"),
    'mix of the wrong count': (['lineage.gen1.algorithms.TeacherMixupKD.mix=[0.5, 0.5]'], '2 weights for 1 teachers'),
    'negative weight': (
        ['lineage.gen1.algorithms.TeacherMixupKD.mix=[-1]'],
        'mix: weights: expected a number from 0 on',
    ),
    'NaN weight': (['lineage.gen1.algorithms.TeacherMixupKD.mix=[.nan]'], 'mix: weights: expected a number from 0 on'),
    'dirichlet 0': (
        ['lineage.gen1.algorithms.TeacherMixupKD.mix={name: dirichlet, alpha: 0}'],
        'mix: dirichlet: alpha: expected a number above 0, got 0',
    ),
    'malformed schedule': (
        ['lineage.gen1.algorithms.TeacherMixupKD.schedule=every ten'],
        "schedule: 'every ten' is not a schedule; write one of 'always'",
    ),
    'reversed schedule': (
        ['lineage.gen1.algorithms.TeacherMixupKD.schedule=from 3ep to 1ep'],
        'ends before it begins',
    ),
    'late schedule': (
        ['lineage.gen1.algorithms.TeacherMixupKD.schedule=from 30ep to 50ep'],
        'begins after the training ends (1ep)',
    ),
    'overtaken without validation': (
        ['data.val_fraction=0', 'lineage.gen1.algorithms.TeacherMixupKD.schedule=until overtaken'],
        "lineage.gen1.data.val_fraction: schedule 'until overtaken' compares on validation data; set it to 0.1",
    ),
    'no such data': (['data.source=/nowhere'], 'data.source'),
    'no such remote': (['data.source=synthetic10'], "did you mean 'synthetic100'"),
    'batch larger than the data': (['batch_size=100000'], 'lower the batch size'),
    'no GPU': (['device=gpu'], 'device: there is no GPU here; use device=cpu or device=auto'),
    'a list as lineage': (['lineage=[a, b]'], 'lineage: '),
    'a run that is not there': (['lineage.gen7.seed=3'], "there is no run 'gen7' in the lineage"),
    'fp16 on the CPU': (['precision=fp16'], 'precision: fp16 needs a GPU'),
}


@pytest.mark.parametrize(('changes', 'line'), WRONG.values(), ids=WRONG.keys())
def test_wrong_values_are_one_line_and_leave_no_finished_run(
    changes: list[str], line: str, finished_teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = finished_teacher.parent / 'runs' / 'gen1'
    assert (
        main([str(finished_teacher), *changes, f'save_folder={finished_teacher.parent / "runs"}', '--only', 'gen1'])
        == 1
    )
    error = capsys.readouterr().err
    assert line in error
    lines = [text for text in error.splitlines() if text.startswith('composer-kd: ')]
    assert len(lines) == 1
    assert 'Traceback' not in error
    assert not (student / 'weights.safetensors').exists()
    # The next mistake meets no directory that this one began.
    for leftover in student.rglob('*'):
        if leftover.is_file():
            leftover.unlink()


@pytest.fixture(scope='module')
def finished_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('wrong')
    file = write_yaml(folder, max_duration='1ep')
    assert main([str(file), '--only', 'gen0', '--no-report']) == 0
    return file


def test_a_teacher_of_other_classes_or_without_weights_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    labels = np.arange(300) % 10
    np.savez(
        tmp_path / 'ten.npz',
        images=rng.integers(0, 255, (300, 32, 32, 3), dtype=np.uint8),
        labels=labels,
        split=(np.arange(300) >= 200).astype(np.uint8),
        classes=np.array([f'class {n}' for n in range(10)]),
    )
    from composer_kd.cli import main as composer_kd

    assert composer_kd(['convert', str(tmp_path / 'ten.npz'), str(tmp_path / 'ten')]) == 0
    file = write_yaml(tmp_path, max_duration='1ep')
    assert main([str(file), '--only', 'gen0', '--no-report']) == 0
    capsys.readouterr()
    assert main([str(file), '--only', 'gen1', '--no-report', f'data.source={tmp_path / "ten"}']) == 1
    assert "teacher 'gen0' gives 100 classes, the student 10" in capsys.readouterr().err
    weights = tmp_path / 'runs' / 'gen0' / 'weights.safetensors'
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    assert main([str(file), '--only', 'gen1', '--no-report']) == 1
    assert 'weights.safetensors' in capsys.readouterr().err
    weights.unlink()
    assert main([str(file), '--only', 'gen1', '--no-report']) == 1
    assert 'has no weights.safetensors' in capsys.readouterr().err


def test_every_named_thing_of_composer_trains_beside_the_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_yaml(
        tmp_path,
        max_duration='1ep',
        optimizer={'name': 'adamw', 'lr': 0.001},
        scheduler={'name': 'one_cycle', 'warmup': 0.2},
        algorithms=[
            {'label_smoothing': {'smoothing': 0.1}},
            {'GradientClipping': {'clipping_type': 'norm', 'clipping_threshold': 1.0}},
        ],
        callbacks=['LRMonitor'],
        loggers={'FileLogger': {'filename': str(tmp_path / 'log.txt')}},
        microbatch_size=16,
        precision='bf16',
    )
    assert main([str(file), '--no-report']) == 0, capsys.readouterr().err
    assert 'loss/train/distill' in (tmp_path / 'log.txt').read_text()
    assert TINY['model'] == RunDir(tmp_path / 'runs' / 'gen1').read_config()['model']
