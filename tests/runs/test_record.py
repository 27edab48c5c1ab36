"""Records against the model asked by hand; killed, shared, replaced, grown, and going wrong."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from composer.core import Callback

from composer_kd import Archive, Teacher
from composer_kd.archive import RunDir, Samples, verify
from composer_kd.archive.samples import Samples as ArchiveSamples
from composer_kd.cli import main
from composer_kd.functional.augment import augment, normalise
from composer_kd.functional.top_k import keep_top
from composer_kd.models import build_model, load_into, multiply_adds
from composer_kd.models.finished_run import FinishedRun
from composer_kd.run import main as train
from composer_kd.runs.record import open_run_data
from composer_kd.storage.locks import lock_or_refuse
from composer_kd.teachers.from_run import RunTeacher
from composer_kd.teachers.record import Inference, LogitRecorder
from tests.callbacks import keyed
from tests.runs.common import write_yaml

torch.set_num_threads(1)


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that trained on 300 of the 500 samples of its data's training part."""
    folder = tmp_path_factory.mktemp('trained')
    file = write_yaml(folder, lineage={'gen0': None}, max_duration='1ep')
    assert train([str(file), 'data.subset=300', '--no-report']) == 0
    return folder / 'runs' / 'gen0'


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / 'gen0'))


def by_hand(run: Path, view: int, samples: ArchiveSamples) -> torch.Tensor:
    """The net's answers to samples of the archive, without anything of the recording."""
    directory = RunDir(run)
    manifest, config = directory.manifest(), directory.read_config()
    net = build_model(config['model'], 100, (3, 32, 32))
    load_into(net, directory.weights_file)
    dataset = open_run_data(FinishedRun.open(directory), ['data.subset=null']).train_set
    rows = Samples.of(dataset).rows_by_key(samples)
    assert (rows >= 0).all()
    images = dataset.images(torch.from_numpy(rows))
    shown = augment(images, torch.from_numpy(samples.ids), view, seed=0, padding=4, flip=True)
    data = manifest.data.normalization
    with torch.no_grad():
        return net.eval()(normalise(shown, data.mean, data.std))


def files(run: Path) -> dict[str, str]:
    return {name: record.xxh3 for name, record in verify(run).files.items()}


def test_every_sample_in_every_view_is_what_the_model_says(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['record', str(run), '--views', '2']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(' in ')[0] for line in lines] == [f'{run}: view {n} of 2: 300 images' for n in (1, 2)]
    archive, manifest = Archive(run), verify(run)
    samples = archive.samples()
    assert len(samples) == manifest.data.num_samples == 300
    assert archive.views == [0, 1]
    net = build_model(RunDir(run).read_config()['model'], 100, (3, 32, 32))
    for view in archive.views:
        table, expected = archive.table('logits', view), by_hand(run, view, samples)
        assert bool((table['seen'] == 1).all())
        torch.testing.assert_close(table['logits'].float(), expected, rtol=2**-10, atol=1e-5)
        metadata = archive.metadata('logits', view)
        assert metadata.pop('seconds') > 0
        assert manifest.weights is not None
        assert metadata == {
            'augmentation': open_run_data(FinishedRun.open(run)).augmentation.as_mapping(),
            'classes': 100,
            'top_k': None,
            'precision': 'fp32',
            'weights': manifest.weights.hash,
            'source': 'model',
            'seen': 300,
            'clipped': 0,
            'images': 300,
            'multiply_adds': 300 * multiply_adds(net, (3, 32, 32)),
        }
    assert not torch.equal(archive.table('logits', 0)['logits'], archive.table('logits', 1)['logits'])

    before = files(run)
    assert main(['record', str(run), '--views', '2']) == 0
    assert capsys.readouterr().out.count('300 images, recorded before') == 2
    assert files(run) == before


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_a_live_teacher_says_the_same_bit_for_bit(precision: str, run: Path) -> None:
    teacher = Teacher.from_run(run)
    config = {**RunDir(run).read_config(), 'precision': precision}

    class Ask(Callback):
        """The answers of a live teacher to a student's first batch."""

        def fit_start(self, state, logger) -> None:
            state.model.cpu_autocast = precision == 'bf16'
            teacher.place(state)
            teacher.read_normalization(state.train_dataloader.dataset, state.device)  # type: ignore[attr-defined]

        def after_forward(self, state, logger) -> None:
            if int(state.timestamp.batch) == 0:
                self.keys, self.logits = state.batch[2], teacher.outputs(state.batch, state).logits

    ask = Ask()
    data = open_run_data(FinishedRun.open(run))
    trained_on = keyed.keyed_data(synthetic={'train_size': 600, 'test_size': 200}, val_fraction=0.1, subset=300)
    keyed.train([ask], trained_on, epochs='1ba')
    rows = np.searchsorted(data.train_set.ids, ask.keys[:, 0].numpy())
    metadata = {'top_k': None}
    state = Inference.like(config, 'cpu', 100)
    mine = LogitRecorder(Archive(run), data.train_set, metadata, RunTeacher(FinishedRun.open(run)), state, keyed.BATCH)
    assert torch.equal(torch.cat(list(mine.logits(0, rows))), ask.logits)


def test_killed_in_the_middle_it_goes_on_and_ends_with_the_same_files(
    run: Path, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ['record', str(run), '--views', '2', '--batch-size', '16', '--top-k', '9']
    whole = Path(shutil.copytree(trained, tmp_path / 'whole'))
    assert main(['record', str(whole), *command[2:]]) == 0
    # In the first view; where it was merged and its parts not yet removed; in the second view, with those still there.
    for deadly, calls in (('write_part', 3), ('remove_parts', 0), ('write_part', 2)):
        assert killed_at(deadly, calls, command) == -signal.SIGKILL
        verify(run)
    capfd.readouterr()
    assert main(command) == 0
    output = capfd.readouterr().out
    assert 'view 1 of 2: 300 images, recorded before' in output
    assert 'view 2 of 2: 300 images in' in output
    assert files(run).keys() == files(whole).keys()
    for name, xxh3 in files(whole).items():
        assert files(run)[name] == xxh3, name
    assert [Archive(run).metadata('logits', view)['images'] for view in (0, 1)] == [300, 300]
    assert list((run / 'archive' / 'parts').iterdir()) == []


def killed_at(function: str, calls: int, command: list[str]) -> int:
    """The status of a process that kills itself when the command calls a function for that many times."""
    child = os.fork()
    if child == 0:
        from composer_kd.archive import parts as logit_parts

        real, left = getattr(logit_parts, function), calls

        def deadly(*arguments, **options):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        setattr(logit_parts, function, deadly)
        main(command)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def test_an_interrupted_record_does_not_compute_anew_what_it_had(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = LogitRecorder.logits

    def counted(self, view, rows):
        asked.append(len(rows))
        if sum(asked) > 150:
            raise KeyboardInterrupt
        return real(self, view, rows)

    monkeypatch.setattr(LogitRecorder, 'logits', counted)
    assert main(['record', str(run), '--views', '1', '--batch-size', '16']) == 130
    done = sum(asked[:-1])
    assert done > 0
    asked.clear()
    monkeypatch.setattr(LogitRecorder, 'logits', lambda *a: asked.append(len(a[2])) or real(*a))
    assert main(['record', str(run), '--views', '1', '--batch-size', '16']) == 0
    assert sum(asked) == 300 - done
    torch.testing.assert_close(
        Archive(run).table('logits', 0)['logits'].float(), by_hand(run, 0, Archive(run).samples()), rtol=1e-3, atol=1e-5
    )


def test_top_k(run: Path) -> None:
    assert main(['record', str(run), '--views', '1', '--top-k', '5']) == 0
    archive = Archive(run)
    table = archive.table('logits', 0)
    values, _, rest = keep_top(by_hand(run, 0, archive.samples()), 5)
    torch.testing.assert_close(table['values'], values, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(table['rest'], rest, rtol=2e-3, atol=1e-4)


def test_other_data_adds_rows_and_computes_no_more_than_those(run: Path) -> None:
    assert main(['record', str(run), '--views', '1']) == 0
    before = Archive(run).table('logits', 0)['logits'].clone()
    assert main(['record', str(run), '--views', '1', 'data.subset=null']) == 0
    archive = Archive(run)
    table, samples = archive.table('logits', 0), archive.samples()
    assert len(samples) == len(table) == archive.metadata('logits', 0)['seen'] == 500
    assert archive.metadata('logits', 0)['images'] == 500
    assert torch.equal(table['logits'][:300], before)
    torch.testing.assert_close(table['logits'].float(), by_hand(run, 0, samples), rtol=2**-10, atol=1e-5)


def test_without_augmentation_there_is_one_view(run: Path) -> None:
    assert main(['record', str(run), '--views', '3', 'data.augment=false']) == 0
    assert Archive(run).views == [0]


def test_recordings_that_differ_are_not_mixed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['record', str(run), '--views', '2']) == 0
    before = files(run)
    for option, line in (
        ('data.augment_seed=1', 'the logits of view 0 are of another augmentation'),
        ('--top-k=3', 'the logits of view 0 are kept in another form (top_k)'),
    ):
        capsys.readouterr()
        assert main(['record', str(run), option]) == 1
        error = capsys.readouterr().err
        assert line in error
        assert '--replace' in error
        assert error.count('\n') == 1
    assert files(run) == before
    assert main(['record', str(run), '--views', '1', '--top-k', '3', '--replace']) == 0
    assert Archive(run).views == [0]
    assert Archive(run).metadata('logits', 0)['top_k'] == 3
    verify(run)


WRONG = {
    'no views': (['--views', '0'], 'views: a whole number from 1 on, got 0'),
    'a batch of none': (['--batch-size', '0'], 'batch_size: a whole number from 1 on, got 0'),
    'more than all classes': (['--top-k', '101'], 'top_k: 101 of 100 classes'),
    'what is not data': (['model.name=mlp'], "'model.name=mlp': only data.* can be changed"),
    'an unknown key': (['data.subste=3'], "data.subste: unknown key; did you mean 'subset'"),
    'data that is not here': (['data.source=/nowhere'], 'data.source: /nowhere: no such folder'),
    'no GPU': (['--device', 'gpu'], 'there is no GPU here'),
}


@pytest.mark.parametrize(('words', 'line'), WRONG.values(), ids=WRONG.keys())
def test_mistakes_are_one_line(words: list[str], line: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['record', str(run), *words]) == 1
    error = capsys.readouterr().err
    assert line in error
    assert error.count('\n') == 1
    assert not Archive(run).exists


def test_runs_that_cannot_be_harvested_are_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['record', str(run / 'nothing')]) == 1
    assert 'no such run directory' in capsys.readouterr().err
    with lock_or_refuse(run / 'archive' / '.record.lock', 'x'):
        assert main(['record', str(run)]) == 1
    assert f'{run} is in use by process {os.getpid()} on' in capsys.readouterr().err
    (run / 'weights.safetensors').unlink()
    assert main(['record', str(run)]) == 1
    assert 'the run has not finished' in capsys.readouterr().err


def test_an_unknown_option_is_not_taken_for_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(['record', str(run), '--viewz', '3'])
    assert 'unrecognized arguments: --viewz' in capsys.readouterr().err
