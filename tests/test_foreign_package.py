"""A method of another package, known by its entry point: it gets what this package's own methods get."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from composer.core import Event
from safetensors.torch import load_file

from composer_kd.algorithms import ALGORITHMS
from composer_kd.archive import RunDir
from composer_kd.core.errors import UserError
from composer_kd.models import plain
from composer_kd.report import report
from composer_kd.runs.execute import execute
from composer_kd.runs.plan import make_plan
from composer_kd.runs.progress import RunProgress
from tests.algorithms.common import CLASSES, logged, make_trainer, net, trained_net
from tests.foreign.acme_hints import AcmeHints

torch.set_num_threads(1)

FOREIGN = Path(__file__).parent / 'foreign'
HINTS = {'teacher': 'gen0', 'hint': 'stages.2', 'guided': 'stages.2', 'channels': [64, 64], 'every': 2}
RUN = {
    'name': 'hints',
    'seed': 3,
    'data': {'source': 'synthetic100', 'synthetic': {'train_size': 200, 'test_size': 100}},
    'model': {'name': 'resnet8'},
    'batch_size': 25,
    'max_duration': '2ep',
    'save_interval': '1ba',
}
LINEAGE = {'gen1': {'algorithms': {'AcmeHints': HINTS}}, 'gen0': None, 'alone': None}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package on the path, and this package's registry as if nobody had asked it yet."""
    monkeypatch.syspath_prepend(FOREIGN)
    monkeypatch.setattr(ALGORITHMS, '_entries', dict(ALGORITHMS._entries))
    monkeypatch.setattr(ALGORITHMS, '_plugins_seen', False)


def train(folder: Path, **changes) -> dict[str, RunDir]:
    plan = make_plan({**RUN, 'save_folder': str(folder), 'lineage': LINEAGE, **changes})
    execute(plan, RunProgress(False))
    return {run.name: RunDir(run.folder) for run in plan.runs}


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDir]:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(FOREIGN)
        patched.setattr(ALGORITHMS, '_entries', dict(ALGORITHMS._entries))
        patched.setattr(ALGORITHMS, '_plugins_seen', False)
        return train(tmp_path_factory.mktemp('runs'))


def test_it_trains_after_the_run_that_it_names(trained: dict[str, RunDir]) -> None:
    assert list(trained) == ['gen0', 'gen1', 'alone']
    manifest = trained['gen1'].manifest()
    assert manifest.model_dump()['teachers'] == {'gen0': trained['gen0'].manifest().weights.hash}
    assert manifest.weights.hash != trained['gen0'].manifest().weights.hash


def test_its_regressor_is_in_the_checkpoint_and_not_in_the_weights(trained: dict[str, RunDir]) -> None:
    hinted, alone = trained['gen1'], trained['alone']
    assert load_file(hinted.weights_file).keys() == load_file(alone.weights_file).keys()
    ours, theirs = hinted.manifest().model_dump(), alone.manifest().model_dump()
    assert (ours['parameters'], ours['multiply_adds']) == (theirs['parameters'], theirs['multiply_adds'])
    checkpoint = hinted.checkpoints / 'latest-rank0.pt'
    model = torch.load(checkpoint, weights_only=False)['state']['model']
    assert model['auxiliary_modules.AcmeHints.regressor.weight'].shape == (64, 64, 1, 1)


def test_its_cost_stands_in_the_lines_and_in_the_report(trained: dict[str, RunDir]) -> None:
    last, teacher = trained['gen1'].metrics()[-1], trained['gen0'].manifest().model_dump()['multiply_adds']
    hinted = 2 * 4 // 2 * 25  # Every second of two epochs' four batches.
    assert last['multiply_adds_teacher_total'] == hinted * teacher
    assert last['multiply_adds_other_total'] == hinted * 3 * 64 * 64 * 32 * 32
    assert trained['alone'].metrics()[-1]['multiply_adds_other_total'] == 0
    made = report([run.path for run in trained.values()])
    totals = made.sections['costs'].values['gen1']
    parts = ('student', 'teacher', 'attack', 'other')
    assert totals['multiply_adds'].mean == sum(last[f'multiply_adds_{part}_total'] for part in parts)
    assert totals['multiply_adds_other'].mean == last['multiply_adds_other_total']
    assert 'other algorithms in it' in made.brief()


class Stopped(Exception):  # noqa: N818
    pass


def test_it_resumes_inside_an_epoch(trained: dict[str, RunDir], tmp_path: Path, monkeypatch) -> None:
    from composer.core.engine import Engine

    run_event = Engine.run_event

    def stopping(self: Engine, event: Event | str) -> None:
        run_event(self, event)
        hinted = any(type(one).__name__ == 'AcmeHints' for one in self.state.algorithms)
        if hinted and Event(event) == Event.BATCH_CHECKPOINT and int(self.state.timestamp.batch) == 5:
            raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(Engine, 'run_event', stopping)
        with pytest.raises(Stopped):
            train(tmp_path)
    resumed = train(tmp_path)
    assert resumed['gen1'].manifest().weights == trained['gen1'].manifest().weights
    names = [run.checkpoints / 'latest-rank0.pt' for run in (resumed['gen1'], trained['gen1'])]
    ours, theirs = (torch.load(name, weights_only=False)['state'] for name in names)
    regressor = 'auxiliary_modules.AcmeHints.regressor.weight'
    assert torch.equal(ours['model'][regressor], theirs['model'][regressor])


@pytest.mark.parametrize(
    ('lineage', 'line'),
    [
        (
            {'one': {'algorithms': {'AcmeHints': {**HINTS, 'teacher': 'gen9'}}}},
            r"AcmeHints\.teacher: 'gen9' is neither",
        ),
        (
            {'gen0': None, 'one': {'algorithms': {'AcmeHints': HINTS, 'ColOut': {}}}},
            r'lineage\.one\.algorithms\.AcmeHints: ColOut changes the size of features; leave it out',
        ),
        (
            {'gen0': None, 'one': {'algorithms': {'AcmeHints': {**HINTS, 'wait': 1}}}},
            r'wait: unknown key; did you mean',
        ),
    ],
    ids=['unknown run', 'neighbour', 'unknown option'],
)
def test_mistakes_are_one_line_before_anything_trains(lineage: dict, line: str) -> None:
    with pytest.raises(UserError, match=line):
        make_plan({**RUN, 'lineage': lineage})


def test_a_misspelt_module_lists_the_near_ones() -> None:
    with pytest.raises(UserError, match=r"features: the student has no module 'layer33'; .*'?3'?"):
        make_trainer([AcmeHints(trained_net(2), '0', 'layer33', (8, 8))])
    with pytest.raises(UserError, match=r"features: teacher 'Sequential' has no module '00'"):
        make_trainer([AcmeHints(trained_net(2), '00', '0', (8, 8))])


def hints(**options) -> AcmeHints:
    torch.manual_seed(5)
    return AcmeHints(trained_net(2), '0', '0', (8, 8), **options)


def test_the_loss_is_the_formula() -> None:
    from torch.nn import functional as F

    from tests.algorithms.common import loader

    algorithm, student = hints(weight=0.5), net(1)
    images, labels = next(iter(loader()))
    with torch.no_grad():
        guided, hint = student[0](images), algorithm.teachers[0].module[0](images)  # type: ignore[attr-defined]
        term = 0.5 * (algorithm.regressor(guided) - hint).square().mean()
        expected = F.cross_entropy(student(images), labels) + term
    before = algorithm.regressor.weight.detach().clone()
    trainer, log = make_trainer([algorithm], student=student, epochs='1ba')
    trainer.fit()
    trainer.close()
    assert logged(log, 'loss/train/total') == pytest.approx([expected.item()], rel=1e-5)
    assert not torch.equal(algorithm.regressor.weight, before)


@pytest.mark.parametrize('beside', ['compiled', 'microbatches', 'EMA', 'SAM', 'bf16'])
def test_it_works_beside(beside: str) -> None:
    from composer.algorithms import EMA, SAM

    from composer_kd.models import classifier

    student, algorithm = net(1), hints()
    options: dict = {
        'compiled': {'compile_config': {'backend': 'eager'}},
        'microbatches': {'device_train_microbatch_size': 8},
        'bf16': {'model': classifier(student, CLASSES, cpu_autocast=True)},
    }.get(beside, {})
    others = {'EMA': [EMA(half_life='2ba')], 'SAM': [SAM()]}.get(beside, [])
    trainer, log = make_trainer([algorithm, *others], student=student, epochs='3ep', evaluate=True, **options)
    trainer.fit()
    losses = logged(log, 'hints/loss')
    trainer.close()
    assert losses[-1] < 0.7 * losses[0]
    modules = [*plain(trainer.state.model).modules(), *algorithm.teachers[0].module.modules()]  # type: ignore[attr-defined]
    assert not any(module._forward_hooks for module in modules)
    assert not algorithm.tap._taken


TWO_RANKS = """
import sys, torch
torch.set_num_threads(1)
from composer.utils import dist, get_device
dist.initialize_dist(get_device('cpu'))
from tests.algorithms.common import make_trainer, net
from tests.test_foreign_package import hints

trainer, _ = make_trainer([hints(every=2)], student=net(1, batch_norm=False), epochs='2ep')
trainer.fit()
weights = {name: value for name, value in trainer.state.model.state_dict().items()}
flat = torch.cat([value.reshape(-1) for value in weights.values()])
everyone = dist.all_gather_object(flat)
assert all(torch.equal(flat, other) for other in everyone)
if dist.get_global_rank() == 0:
    torch.save(flat, sys.argv[1])
trainer.close()
"""


def test_two_ranks_are_one(tmp_path: Path) -> None:
    script, root = tmp_path / 'train.py', Path(__file__).parents[1]
    script.write_text(TWO_RANKS)
    command = [sys.executable, '-m', 'composer.cli.launcher', '-n', '2', str(script), str(tmp_path / 'two.pt')]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    trainer, _ = make_trainer([hints(every=2)], student=net(1, batch_norm=False), epochs='2ep')
    trainer.fit()
    one = torch.cat([value.reshape(-1) for value in trainer.state.model.state_dict().values()])
    trainer.close()
    torch.testing.assert_close(torch.load(tmp_path / 'two.pt'), one, atol=2e-5, rtol=1e-4)
