"""All ranks evaluate rank 0's BatchNorm statistics, which are those that are saved."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from composer_kd.callbacks.same_buffers import SameBuffers
from tests.algorithms.common import make_trainer

TWO_RANKS = """
import sys, torch
torch.set_num_threads(1)
from composer.core import Callback
from composer.utils import dist, get_device
dist.initialize_dist(get_device('cpu'))
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from composer_kd.callbacks.same_buffers import SameBuffers
from composer_kd.models import plain
from tests.algorithms.common import images_and_labels, make_trainer, net


class Note(Callback):
    '''What each rank has as buffers before the evaluation, and in it.'''

    def __init__(self):
        self.before, self.inside = [], []

    def flat(self, state):
        return torch.cat([b.double().reshape(-1) for b in plain(state.model).buffers()])

    def epoch_end(self, state, logger):
        self.before.append(self.flat(state))

    def eval_batch_start(self, state, logger):
        self.inside.append(self.flat(state))


def train(callbacks, folder):
    data = TensorDataset(*images_and_labels())
    held_out = TensorDataset(*images_and_labels(seed=1))
    note = Note()
    trainer, log = make_trainer(
        [], student=net(1), folder=folder, callbacks=[*callbacks, note], epochs='2ep',
        train_dataloader=DataLoader(data, 16, sampler=DistributedSampler(data, seed=3), drop_last=True),
        eval_dataloader=DataLoader(held_out, 16, sampler=DistributedSampler(held_out, shuffle=False)),
    )
    trainer.fit()
    weights = [p.detach().clone() for p in trainer.state.model.parameters()]
    trainer.close()
    return note, weights, log.data.get('metrics/eval/MulticlassAccuracy')


same, weights, accuracy = train([SameBuffers()], sys.argv[1])
own, plain_weights, _ = train([], sys.argv[1] + '-plain')
for mine in (same, own):
    mine.all_before, mine.all_inside = dist.all_gather_object(mine.before), dist.all_gather_object(mine.inside)
# The trap is real: without the callback, ranks evaluate statistics of their own.
assert not torch.equal(own.all_before[0][0], own.all_before[1][0])
assert not torch.equal(own.all_inside[0][0], own.all_inside[1][0])
# With it, in every batch of every evaluation, all evaluate rank 0's.
assert len(same.inside) == 12
for evaluation in range(2):
    for batch in range(6):
        for rank in range(2):
            assert torch.equal(same.all_inside[rank][6 * evaluation + batch], same.all_before[0][evaluation])
# And the training is what it was.
assert all(torch.equal(a, b) for a, b in zip(weights, plain_weights))
if dist.get_global_rank() == 0:
    torch.save({'inside': same.inside[-1], 'accuracy': float(accuracy[-1][1])}, sys.argv[1] + '/noted.pt')
"""


def test_two_ranks_evaluate_what_is_saved(tmp_path: Path) -> None:
    from tests.algorithms.common import images_and_labels, net

    script = tmp_path / 'train.py'
    script.write_text(TWO_RANKS)
    folder = tmp_path / 'same'
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(Path(__file__).parents[2])}
    command = [sys.executable, '-m', 'composer.cli.launcher', '-n', '2', str(script), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    noted = torch.load(folder / 'noted.pt')
    saved = torch.load(folder / 'latest-rank0.pt', weights_only=False)['state']['model']
    module = net(5)
    module.load_state_dict(
        {name.removeprefix('module.').removeprefix('module.'): value for name, value in saved.items()}
    )
    assert torch.equal(torch.cat([b.double().reshape(-1) for b in module.buffers()]), noted['inside'])
    # The accuracy that was logged is that of the checkpoint.
    images, labels = images_and_labels(seed=1)
    with torch.no_grad():
        accuracy = (module.eval()(images).argmax(1) == labels).float().mean().item()
    assert abs(accuracy - noted['accuracy']) < 1e-6


def test_one_rank_keeps_its_buffers() -> None:
    trainer, _ = make_trainer([], evaluate=True, callbacks=[SameBuffers()])
    plain, _ = make_trainer([], evaluate=True)
    for each in (trainer, plain):
        each.fit()
        each.close()
    for own, other in zip(trainer.state.model.buffers(), plain.state.model.buffers(), strict=True):
        assert torch.equal(own, other)
