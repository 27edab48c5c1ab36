"""``archive:`` in a YAML: recorded, recorded, made up for later; and what a run in an old folder inherits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from composer_kd import Archive
from composer_kd.archive import RunDir, Samples, verify
from composer_kd.archive.manifest import Manifest
from composer_kd.core.errors import UserError
from composer_kd.models.finished_run import FinishedRun
from composer_kd.run import main
from composer_kd.runs import recorders as recording
from composer_kd.runs.plan import make_plan
from composer_kd.runs.record import open_run_data
from tests.runs.common import TINY, write_yaml

torch.set_num_threads(1)

BOTH = {'losses': True, 'logits': {'views': 2}}


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs that are equal but for what they record."""
    folder = tmp_path_factory.mktemp('trained')
    lineage = {
        'plain': None,
        'recorded': {'archive': BOTH},
        'free': {'archive': {'logits': {'views': 2, 'from': 'training'}}},
    }
    assert main([str(write_yaml(folder, lineage=lineage, keep_checkpoints=-1)), '--no-report']) == 0
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained / 'runs', tmp_path / 'runs')
    return tmp_path


def again(folder: Path, name: str, archive: dict | None, **changes: object) -> int:
    """The command for one run, with what it records now."""
    file = write_yaml(folder, lineage={name: {'archive': archive}}, keep_checkpoints=-1, **changes)
    return main([str(file), '--no-report'])


def test_a_run_leaves_its_losses_and_logits(trained: Path) -> None:
    archive = Archive(trained / 'runs' / 'recorded')
    manifest = verify(archive.run.path)
    archive.check()
    assert manifest.finished
    assert archive.epochs == [0, 1, 2]
    assert archive.views == [0, 1]
    seen = 448  # 7 batches of 64 of 500 samples
    assert [archive.metadata('loss', epoch)['seen'] for epoch in archive.epochs] == [seen] * 3
    assert [archive.metadata('logits', view)['seen'] for view in archive.views] == [500, 500]
    data = open_run_data(FinishedRun.open(archive.run))
    assert (archive.samples().rows_by_key(Samples.of(data.train_set)) >= 0).all()
    table = archive.table('loss', 2)
    line = RunDir(archive.run.path).metrics()[2]
    losses = table['loss'][table['seen'].bool()]
    assert float(losses.mean()) == pytest.approx(line['loss_total'], rel=1e-5)
    assert float(table['correct'].sum()) / seen == pytest.approx(line['train_accuracy_running'])


def test_recording_does_not_change_the_training(trained: Path) -> None:
    runs = trained / 'runs'
    hashes = {name: weights_of(RunDir(runs / name).manifest()) for name in ('plain', 'recorded', 'free')}
    assert hashes['plain'] == hashes['recorded']
    assert hashes['free'] != hashes['plain'], 'its last epochs show the first views again'
    free = Archive(runs / 'free')
    assert free.views == [0, 1]
    assert [free.metadata('logits', view)['epoch'] for view in free.views] == [1, 2]
    verify(free.run.path)


def weights_of(manifest: Manifest) -> str:
    assert manifest.weights is not None
    return manifest.weights.hash


def test_what_a_finished_run_lacks_is_harvested_by_the_same_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = weights_of(RunDir(folder / 'runs' / 'plain').manifest())
    assert again(folder, 'plain', BOTH) == 0
    output = capsys.readouterr().out
    assert 'finished before, not trained again' in output
    assert 'plain: losses of samples are recorded while a run trains; of this one, some or all are not there' in output
    assert 'plain: view 2 of 2: 500 images in' in output
    manifest = verify(folder / 'runs' / 'plain')
    assert weights_of(manifest) == before
    assert manifest.finished
    assert Archive(folder / 'runs' / 'plain').views == [0, 1]
    assert again(folder, 'plain', {'logits': {'views': 2, 'from': 'training'}}) == 0
    capsys.readouterr()
    assert again(folder, 'recorded', BOTH) == 0
    assert 'view' not in capsys.readouterr().out
    assert again(folder, 'recorded', {'logits': {'views': 3, 'from': 'training'}}) == 0
    assert "'from: training' records while a run trains; use 'from: model'" in capsys.readouterr().out


def test_interrupted_in_the_record_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(recording, 'record_views', interrupted)
        assert again(tmp_path, 'one', BOTH, max_duration='1ep') == 130
    run = tmp_path / 'runs' / 'one'
    assert RunDir(run).finished
    assert Archive(run).views == []
    assert again(tmp_path, 'one', BOTH, max_duration='1ep') == 0
    assert 'finished before' in capsys.readouterr().out
    assert Archive(run).views == [0, 1]
    verify(run)


def test_logits_that_are_gone_are_recorded_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / 'runs' / 'recorded'
    wanted = Archive(run).table('logits', 1)['logits'].clone()
    (run / 'archive/logits/view0001.safetensors').unlink()
    assert again(folder, 'recorded', BOTH) == 0
    output = capsys.readouterr().out
    assert 'view 2 of 2: 500 images in' in output
    archive = Archive(run)
    assert RunDir(run).finished
    verify(run)
    assert archive.epochs == [0, 1, 2]
    assert torch.equal(archive.table('logits', 1)['logits'], wanted)
    # The same with the run's own files damaged.
    (run / 'weights.safetensors').unlink()
    (run / 'archive/logits/view0001.safetensors').unlink()
    assert again(folder, 'recorded', BOTH) == 0
    assert 'weights.safetensors is damaged or missing: made again' in capsys.readouterr().out
    verify(run)
    assert torch.equal(Archive(run).table('logits', 1)['logits'], wanted)
    # The samples say whose losses those are, which no training makes again.
    (run / archive.record().samples).unlink()
    assert again(folder, 'recorded', BOTH) == 1
    line = capsys.readouterr().err
    assert 'archive/samples' in line
    assert line.endswith('to train anew\n')


def test_a_training_that_begins_anew_inherits_nothing(folder: Path) -> None:
    run = folder / 'runs' / 'recorded'
    shutil.rmtree(run / 'checkpoints')
    (run / 'weights.safetensors').unlink()
    (run / 'archive' / 'parts').mkdir(exist_ok=True)
    (run / 'archive' / 'parts' / 'logits-0000-junk.safetensors').write_bytes(b'junk')
    assert again(folder, 'recorded', {'losses': True}) == 0
    archive = Archive(run)
    assert archive.epochs == [0, 1, 2]
    assert archive.views == []
    assert sorted(path.name for path in (run / 'archive' / 'logits').iterdir()) == []
    assert not list((run / 'archive' / 'parts').iterdir())
    verify(run)


def test_continued_from_a_checkpoint_it_keeps_what_was_recorded_before(folder: Path) -> None:
    run = folder / 'runs' / 'recorded'
    before = {epoch: Archive(run).table('loss', epoch)['loss'].clone() for epoch in (0, 1, 2)}
    for path in [*run.glob('checkpoints/*ep3*'), *run.glob('checkpoints/latest*'), run / 'weights.safetensors']:
        path.unlink()
    assert again(folder, 'recorded', BOTH) == 0
    archive = Archive(run)
    assert archive.epochs == [0, 1, 2]
    for epoch, loss in before.items():
        assert torch.equal(archive.table('loss', epoch)['loss'], loss)
    assert archive.views == [0, 1]
    verify(run)


def test_logits_of_weights_that_are_no_more_are_dropped(folder: Path) -> None:
    run = folder / 'runs' / 'recorded'
    (run / 'weights.safetensors').unlink()
    # As if the first training had been on another device.
    record = Archive(run).record()
    tables = {view: table.model_copy(update={'weights': 'f' * 32}) for view, table in record.logits.items()}
    Archive(run).update(lambda m: m.model_copy(update={'archive': record.model_copy(update={'logits': tables})}))
    assert again(folder, 'recorded', BOTH) == 0
    archive = Archive(run)
    own = weights_of(archive.manifest())
    assert [archive.metadata('logits', view)['weights'] for view in archive.views] == [own, own]


def test_what_is_recorded_of_the_training_itself_stays_what_it_was_begun_with(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder / 'runs' / 'free'
    (run / 'weights.safetensors').unlink()
    assert again(folder, 'free', None) == 1
    line = 'was begun with other settings (archive.logits, from training: 2 views, top_k None -> nothing)'
    assert line in capsys.readouterr().err


WRONG = {
    'batches': ({'max_duration': '9ba'}, {}, "archive.logits.from: 'training' records the last epochs"),
    'views': ({}, {'views': 4}, 'archive.logits.views: 4 are more than the epochs of 3ep'),
    'repeated': ({'data': {'views': 3}}, {}, "archive.logits.from: 'training' needs fresh views every epoch"),
    'MixUp': ({'algorithms': ['MixUp']}, {}, 'archive.logits.from: MixUp'),
}


@pytest.mark.parametrize(('changes', 'logits', 'line'), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_recorded_is_found_before_the_first_run_trains(changes, logits, line) -> None:
    archive = {'logits': {'views': 2, 'from': 'training', **logits}}
    with pytest.raises(UserError, match=line):
        make_plan({**TINY, 'lineage': None, 'archive': archive, **changes})


def test_mixed_images_have_no_losses(trained: Path) -> None:
    with pytest.raises(UserError, match=r'lineage.gen0.archive.losses: MixUp'):
        make_plan({**TINY, 'lineage': {'gen0': {'algorithms': ['MixUp']}}, 'archive': {'losses': True}})
