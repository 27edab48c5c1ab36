"""What every algorithm has to do: train, resume bit for bit, survive two ranks, leave nothing of a teacher behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from composer_kd.errors import UserError
from composer_kd.models import weights_hash
from tests.algorithms.common import logged, make_trainer, net
from tests.algorithms.settings import SETTINGS

every_algorithm = pytest.mark.parametrize('make', SETTINGS.values(), ids=SETTINGS.keys())


@every_algorithm
def test_trains_and_the_loss_decreases(make) -> None:
    trainer, log = make_trainer([make()], epochs='4ep', evaluate=True)
    trainer.fit()
    trainer.close()
    losses = logged(log, 'loss/train/label')
    assert sum(losses[-6:]) < 0.7 * sum(losses[:6])


@every_algorithm
@pytest.mark.parametrize(
    ('interrupted', 'interval'),
    [('ep1-ba6', '1ep'), ('ep1-ba8', '2ba')],
    ids=['at-an-epoch-boundary', 'inside-an-epoch'],
)
def test_resumes_bit_for_bit(make, interrupted: str, interval: str, tmp_path: Path) -> None:
    whole, _ = make_trainer([make()], epochs='3ep', folder=tmp_path, evaluate=True, save_interval=interval)
    whole.fit()
    whole.close()
    checkpoint = tmp_path / f'{interrupted}-rank0.pt'
    assert checkpoint.exists()
    resumed, _ = make_trainer([make()], student=net(5), epochs='3ep', load=checkpoint, evaluate=True)
    resumed.fit()
    resumed.close()
    assert weights_hash(resumed.state.model) == weights_hash(whole.state.model)


@every_algorithm
def test_leaves_no_teacher_behind(make, tmp_path: Path) -> None:
    plain, _ = make_trainer([], epochs='1ep', folder=tmp_path / 'plain', evaluate=True)
    plain.fit()
    plain.close()
    algorithm = make()
    teachers = [teacher.module for teacher in algorithm.teachers]
    before = [weights_hash(teacher) for teacher in teachers]
    trainer, _ = make_trainer([algorithm], epochs='1ep', folder=tmp_path / 'taught', evaluate=True)
    trainer.fit()
    trainer.close()
    # Nothing in the checkpoint: the same tensors under the same names as without a teacher.
    states = [
        torch.load(next((tmp_path / kind).glob('ep1-ba6-*')), weights_only=False)['state']
        for kind in ('plain', 'taught')
    ]
    assert states[0]['model'].keys() == states[1]['model'].keys()
    assert [len(state['optimizers']['SGD']['state']) for state in states] == [6, 6]
    # Nothing in the student, nothing in the optimizer, no hook, no gradient; and the teachers are what they were.
    assert not any(module in set(trainer.state.model.modules()) for module in teachers)
    trained = {id(p) for group in trainer.state.optimizers[0].param_groups for p in group['params']}
    for teacher, hash_before in zip(teachers, before, strict=True):
        assert weights_hash(teacher) == hash_before
        assert not teacher.training
        for parameter in teacher.parameters():
            assert id(parameter) not in trained
            assert parameter.grad is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in trainer.state.model.modules())


@every_algorithm
def test_state_dict_holds_plain_values(make) -> None:
    trainer, _ = make_trainer([make()], epochs='1ep', evaluate=True)
    trainer.fit()
    state = trainer.state.algorithms[0].state_dict()
    trainer.close()

    def plain(value) -> bool:
        if isinstance(value, dict):
            return all(plain(inner) for inner in value.values())
        if isinstance(value, list | tuple):
            return all(plain(inner) for inner in value)
        return value is None or isinstance(value, bool | int | float | str | torch.Tensor)

    assert plain(state)
    assert state['repr'].startswith(type(make()).__name__ + '(teachers=')


@every_algorithm
def test_refuses_a_second_instance(make) -> None:
    with pytest.raises(UserError, match='one with several teachers'):
        make_trainer([make(), make()])


TWO_RANKS = """
import sys, torch
torch.set_num_threads(1)
from composer.utils import dist, get_device
dist.initialize_dist(get_device('cpu'))
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from composer.algorithms import SAM
from composer_kd.models import weights_hash
from tests.algorithms.common import images_and_labels, loader, make_trainer, net
from tests.algorithms.settings import SETTINGS

# Without BatchNorm, which sees each rank's part of the batch: then two ranks are one, but for the order of sums.
for name, make in SETTINGS.items():
    data = TensorDataset(*images_and_labels())
    per_rank = 32 // dist.get_world_size()
    spec = DataLoader(data, per_rank, sampler=DistributedSampler(data, shuffle=True, seed=3), drop_last=True)
    student = net(1, batch_norm=False)
    held_out = TensorDataset(*images_and_labels(seed=1))
    evaluation = DataLoader(held_out, per_rank, sampler=DistributedSampler(held_out, shuffle=False))
    trainer, log = make_trainer(
        [make()], student=student, train_dataloader=spec, eval_dataloader=evaluation, epochs='2ep'
    )
    trainer.fit()
    hashes = dist.all_gather_object(weights_hash(trainer.state.model))
    assert len(set(hashes)) == 1, f'{name}: the ranks disagree'
    if dist.get_global_rank() == 0:
        flat = torch.cat([p.detach().reshape(-1) for p in trainer.state.model.parameters()])
        torch.save({'flat': flat, 'label': float(log.data['loss/train/label'][-1][1])}, f'{sys.argv[1]}/{name}.pt')
    trainer.close()
trainer, _ = make_trainer([SETTINGS['TeacherMixupKD'](), SAM()], train_dataloader=spec, epochs='1ep')
trainer.fit()
# Composer's SAM adds to the weights and takes away again what each rank's own gradient says: equal but for rounding.
sums = dist.all_gather_object(float(sum(p.sum() for p in trainer.state.model.parameters())))
assert max(sums) - min(sums) < 1e-3, sums
trainer.close()
"""


def test_two_ranks_are_one(tmp_path: Path) -> None:
    script = tmp_path / 'train.py'
    script.write_text(TWO_RANKS)
    root = Path(__file__).parents[2]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(root)}
    launcher = [sys.executable, '-m', 'composer.cli.launcher']
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        command = [*launcher, '-n', str(ranks), str(script), str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name in SETTINGS:
        one, two = (torch.load(tmp_path / ranks / f'{name}.pt') for ranks in ('1', '2'))
        if 'per-sample' in name:
            continue  # Batches without keys: a sample is known by its rank and place, so that other weights are drawn.
        torch.testing.assert_close(two['flat'], one['flat'], atol=2e-5, rtol=1e-4)
        assert two['label'] == pytest.approx(one['label'], abs=1e-4)
