"""A directory goes on as it was begun, or is refused in one line: never re-signed, never on other data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from composer_kd.archive import Archive, RunDir, verify
from composer_kd.core.errors import UserError
from composer_kd.data.convert import convert
from composer_kd.report import report
from composer_kd.runs.execute import execute
from composer_kd.runs.plan import make_plan
from composer_kd.runs.progress import RunProgress
from tests.runs.common import TINY

torch.set_num_threads(1)

ALONE = {**{key: value for key, value in TINY.items() if key != 'lineage'}, 'name': 'solo', 'max_duration': '2ep'}
ALL = {'losses': True, 'logits': {'views': 2, 'from': 'training'}}


def train(folder: Path, **changes) -> RunDir:
    plan = make_plan({**ALONE, 'save_folder': str(folder), **changes})
    execute(plan, RunProgress(False))
    return RunDir(plan.runs[0].folder)


@pytest.fixture(scope='module')
def made(tmp_path_factory) -> RunDir:
    return train(tmp_path_factory.mktemp('made'), archive={'losses': True})


@pytest.fixture
def run(made: RunDir, tmp_path: Path) -> RunDir:
    """A finished run of one's own."""
    shutil.copytree(made.path, tmp_path / 'solo', symlinks=True)
    return RunDir(tmp_path / 'solo')


def again(run: RunDir, **changes) -> RunDir:
    return train(run.path.parent, archive={'losses': True}, **changes)


# -- stopped before its first step ------------------------------------------------------------------------------------


BEGUN = {
    'losses': {'archive': {'losses': True}},
    'logits': {'archive': {'logits': {'views': 2, 'from': 'training'}}},
    'examples': {
        'archive': {'adversarial': True},
        'algorithms': {'AdversarialRecycling': {'mode': 'recycle'}},
        'model': {'name': 'mlp', 'hidden': [8]},
        'max_duration': '1ep',
    },
}
# One process imports everything and forks before torch has threads of its own, which a fork would not survive.
KILLED = """
import json, os, pathlib, signal, sys
import torch
from composer.core import Event
from composer.core.engine import Engine
from tests.runs.test_resume import BEGUN, train

run_event = Engine.run_event

def stopping(self, event):
    if Event(event) == Event.BEFORE_TRAIN_BATCH:
        os.kill(os.getpid(), signal.SIGKILL)
    return run_event(self, event)

Engine.run_event = stopping
for name, changes in BEGUN.items():
    if not (child := os.fork()):
        try:
            train(pathlib.Path(sys.argv[1]) / name, **changes)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
"""


@pytest.fixture(scope='module')
def killed(tmp_path_factory) -> Path:
    """Runs that were killed when recorders had begun and no step had been trained, a folder each."""
    folder = tmp_path_factory.mktemp('killed')
    subprocess.run([sys.executable, '-c', KILLED, str(folder)], check=True, cwd=Path(__file__).parents[2])
    return folder


@pytest.mark.parametrize('name', BEGUN)
def test_killed_before_the_first_step_it_begins_again(killed: Path, capsys, name: str) -> None:
    begun = RunDir(killed / name / 'solo')
    assert begun.manifest_file.exists()
    assert not begun.config_file.exists()
    train(killed / name, **BEGUN[name])
    assert 'was stopped before its first step had ended: begins again' in capsys.readouterr().out
    verify(begun.path)


def test_settings_that_were_removed_are_missed(run: RunDir) -> None:
    run.config_file.unlink()
    with pytest.raises(UserError, match=r'run\.yaml: this file of the run is missing; restore it, or remove'):
        again(run)


# -- damage -----------------------------------------------------------------------------------------------------------


def test_edited_metrics_are_refused_and_stay_refused(run: RunDir) -> None:
    lines = run.metrics_file.read_text()
    wanted = json.loads(lines.splitlines()[-1])['test_accuracy']
    edits = [
        lines.replace(str(wanted), f'{0.99:.{len(str(wanted)) - 2}f}'),  # Of the same length.
        lines.replace(str(wanted), '0.99'),
        lines.partition('\n')[2],
        None,
    ]
    for edited in edits:
        if edited is None:
            run.metrics_file.unlink()
        else:
            assert edited != lines
            run.metrics_file.write_text(edited)
        for _ in range(2):
            with pytest.raises(UserError, match=r'metrics\.jsonl: .* cannot be made again; restore the file'):
                again(run)
        with pytest.raises(UserError, match=r'metrics\.jsonl'):
            verify(run.path)
        run.metrics_file.write_text(lines)
        again(run)
        verify(run.path)


def test_lost_losses_are_refused(run: RunDir) -> None:
    table = run.path / Archive(run.path).record().loss[1].file
    content = table.read_bytes()
    for hurt in (content[:-8], None):
        table.unlink() if hurt is None else table.write_bytes(hurt)
        with pytest.raises(UserError, match='recorded while the run trained cannot be made again'):
            again(run)
    table.write_bytes(content)
    again(run)


def test_lost_weights_are_made_again_and_are_the_same(run: RunDir, capsys) -> None:
    before = run.manifest()
    content = bytearray(run.weights_file.read_bytes())
    content[-1] ^= 1
    run.weights_file.write_bytes(content)
    again(run)
    assert 'finished before, but weights.safetensors is damaged or missing: made again' in capsys.readouterr().out
    assert verify(run.path).weights == before.weights
    assert run.manifest().files['metrics.jsonl'] == before.files['metrics.jsonl']


def test_metrics_are_looked_at_before_lost_weights_are_made_again(run: RunDir) -> None:
    run.weights_file.unlink()
    run.metrics_file.write_text(run.metrics_file.read_text().replace('0.', '1.', 1))
    with pytest.raises(UserError, match=r'metrics\.jsonl'):
        again(run)
    assert not run.weights_file.exists()


def test_the_report_names_an_edited_file(run: RunDir) -> None:
    assert not any('is not what the run wrote' in line for line in report([run.path]).caveats)
    text = run.metrics_file.read_text()
    last = text.rindex('"test_accuracy": 0.') + len('"test_accuracy": 0.')
    run.metrics_file.write_text(text[:last] + ('9' if text[last] != '9' else '8') + text[last + 1 :])
    (caveat,) = [line for line in report([run.path]).caveats if 'is not what the run wrote' in line]
    assert str(run.metrics_file) in caveat


# -- other data -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def shards(tmp_path_factory) -> tuple[Path, Path]:
    """Two data sets of the same shapes, one of them larger."""
    import numpy as np

    folder = tmp_path_factory.mktemp('shards')
    made = []
    for name, count in (('one', 120), ('two', 150)):
        draw = np.random.default_rng(count)
        np.savez(
            folder / f'{name}.npz',
            images=draw.integers(0, 256, (count + 20, 8, 8, 3), dtype=np.uint8),
            labels=np.arange(count + 20) % 4,
            split=(np.arange(count + 20) >= count).astype(np.int64),
        )
        convert(str(folder / f'{name}.npz'), folder / name)
        made.append(folder / name)
    return made[0], made[1]


@pytest.mark.parametrize('finished', [True, False], ids=['finished', 'interrupted'])
def test_data_that_changed_under_the_same_path_is_refused(shards, tmp_path: Path, finished: bool) -> None:
    data = tmp_path / 'data'
    shutil.copytree(shards[0], data)
    settings = {
        'data': {'source': str(data), 'val_fraction': 0.2, 'cache_dir': str(tmp_path / 'cache')},
        'batch_size': 16,
    }
    run = train(tmp_path, **settings)
    weights = run.manifest().weights
    if not finished:
        run.manifest_file.unlink()
        run.weights_file.unlink()
    shutil.rmtree(data)
    shutil.copytree(shards[1], data)
    with pytest.raises(UserError) as refusal:
        train(tmp_path, **settings)
    line = str(refusal.value)
    assert 'was begun on other data' in line
    assert 'now has 150 training and 20 test samples, then 120 and 20' in line
    assert 'put that data back, or choose another save_folder' in line
    shutil.rmtree(data)
    if finished:
        train(tmp_path, **settings)  # It needs its data no more.
    shutil.copytree(shards[0], data)
    assert train(tmp_path, **settings).manifest().weights == weights


# -- checkpoints ------------------------------------------------------------------------------------------------------


def unfinished(run: RunDir) -> Path:
    """Take back that the run has finished; its last checkpoint."""
    run.manifest_file.unlink()
    run.weights_file.unlink()
    checkpoint = run.checkpoint()
    assert checkpoint is not None
    return checkpoint


class Harms:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.system, (f'touch {self.file}',)


def test_a_replaced_checkpoint_is_named_before_it_is_read(run: RunDir, tmp_path: Path) -> None:
    checkpoint = unfinished(run)
    torch.save({'state': Harms(tmp_path / 'harmed')}, checkpoint)
    with pytest.raises(UserError, match=r'ep2-ba.*: not the checkpoint that was written here'):
        again(run)
    assert not (tmp_path / 'harmed').exists()


def test_a_checkpoint_runs_nothing_even_where_its_hash_was_taken_away(run: RunDir, tmp_path: Path) -> None:
    checkpoint = unfinished(run)
    (run.checkpoints / 'hashes.json').unlink()
    again(run)  # A kill may leave a checkpoint whose hash was not noted.
    unfinished(run)
    torch.save({'state': Harms(tmp_path / 'harmed')}, checkpoint)
    with pytest.raises(UserError, match=r'ep2-ba.*: refused: it names posix\.system'):
        again(run)
    assert not (tmp_path / 'harmed').exists()


def test_a_linked_checkpoint_is_refused(run: RunDir, tmp_path: Path) -> None:
    checkpoint = unfinished(run)
    shutil.move(checkpoint, tmp_path / 'elsewhere.pt')
    checkpoint.symlink_to(tmp_path / 'elsewhere.pt')
    with pytest.raises(UserError, match=r'ep2-ba.*: a symbolic link out of'):
        again(run)


def test_a_checkpoint_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    run = train(tmp_path, keep_checkpoints=2)
    weights = run.manifest().weights
    checkpoint = unfinished(run)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.warns(UserWarning, match='damaged or was cut off'):
        train(tmp_path, keep_checkpoints=2)
    assert run.manifest().weights == weights
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert run.checkpoint() is not None


def test_the_hash_of_every_kept_checkpoint_is_noted(tmp_path: Path) -> None:
    run = train(tmp_path, keep_checkpoints=-1, save_interval='5ba')
    kept = {path.name for path in run.checkpoints.glob('ep*.pt')}
    assert len(kept) == 3
    assert set(run.checkpoint_hashes()) == kept


# -- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['.lock', 'archive/.lock', 'metrics.jsonl'])
def test_nothing_is_written_through_a_link(run: RunDir, tmp_path: Path, name: str) -> None:
    target = tmp_path / 'precious'
    target.write_text('precious')
    link = run.path / name
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    write = {
        '.lock': lambda: again(run),
        'archive/.lock': lambda: Archive(run.path).drop('loss', lambda epoch: False),
        'metrics.jsonl': lambda: run.append_metrics({'epoch': 3}),
    }
    with pytest.raises(UserError, match='symbolic link') as refusal:
        write[name]()
    assert '\n' not in str(refusal.value)
    assert target.read_text() == 'precious'


@pytest.mark.parametrize('name', ['archive', 'checkpoints', 'predictions'])
def test_no_folder_of_a_run_is_a_link_out_of_it(run: RunDir, tmp_path: Path, name: str) -> None:
    shutil.move(run.path / name, tmp_path / 'elsewhere')
    (run.path / name).symlink_to(tmp_path / 'elsewhere')
    before = sorted(path.name for path in (tmp_path / 'elsewhere').rglob('*'))
    with pytest.raises(UserError, match=f'{name}: a symbolic link out of .*: remove it'):
        again(run)
    assert sorted(path.name for path in (tmp_path / 'elsewhere').rglob('*')) == before


def test_a_report_is_not_written_through_a_link(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'report').symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(UserError, match='report: a symbolic link'):
        report([run.path], out=tmp_path / 'out')
    assert not any((tmp_path / 'elsewhere').iterdir())


# -- tables -----------------------------------------------------------------------------------------------------------


def test_exchanged_tables_are_found(run: RunDir) -> None:
    """Files, sizes and hashes are right, and each table is in the other's place."""

    def exchange(manifest):
        tables = dict(manifest.archive.loss)
        tables[0], tables[1] = tables[1], tables[0]
        return manifest.model_copy(update={'archive': manifest.archive.model_copy(update={'loss': tables})})

    Archive(run.path).update(exchange)
    verify(run.path)
    for read in (lambda archive: archive.table('loss', 0), lambda archive: archive.check()):
        with pytest.raises(UserError, match='holds loss 1, but the manifest says loss 0: two files were exchanged'):
            read(Archive(run.path))
