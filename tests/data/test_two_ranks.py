"""Composer's own Trainer on two ranks: the ranks share out every batch, and evaluation counts each sample once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from composer_kd.data.convert import convert

PROGRAM = """
import json, sys
from pathlib import Path
import torch
from composer import Trainer
from composer.models import ComposerModel
from composer.utils import dist
from torchmetrics import MeanMetric
from composer_kd.data import open_data
from composer_kd.data.section import DataSection


class Recorder(ComposerModel):
    '''Keeps the keys that it is shown; its metric is the mean label.'''

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.metric = MeanMetric()
        self.trained, self.evaluated = [], []

    def forward(self, batch):
        (self.trained if self.training else self.evaluated).append(batch[2].tolist())
        return batch[0].flatten(1).mean(1) * self.weight

    def loss(self, outputs, batch):
        return outputs.mean()

    def get_metrics(self, is_train):
        return {'mean_label': self.metric}

    def update_metric(self, batch, outputs, metric):
        metric.update(batch[1].float())


source, mode, out = sys.argv[1:]
section = DataSection(source=source, cache_dir=out + '/cache', mode=mode, eval_batch_size=4, val_fraction=0.0)
dist.initialize_dist('cpu')
data = open_data(section, 8, 0)
model = Recorder()
trainer = Trainer(model=model, train_dataloader=data.train, eval_dataloader=data.test, max_duration='2ep', device='cpu',
                  eval_interval='2ep', progress_bar=False, algorithms=[], device_train_microbatch_size=2)
trainer.fit()
record = {'trained': model.trained, 'evaluated': model.evaluated,
          'mean_label': float(trainer.state.eval_metrics['eval']['mean_label'].compute())}
Path(out, f'{mode}{dist.get_world_size()}-{dist.get_global_rank()}.json').write_text(json.dumps(record))
trainer.close()
"""


def launch(ranks, tmp_path, mode):
    (tmp_path / 'program.py').write_text(PROGRAM)
    command = [sys.executable, '-m', 'composer.cli.launcher', '-n', str(ranks), 'program.py']
    done = subprocess.run(
        [*command, str(tmp_path / 'out'), mode, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, 'PYTHONPATH': str(Path.cwd()), 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return [json.loads((tmp_path / f'{mode}{ranks}-{rank}.json').read_text()) for rank in range(ranks)]


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['cache', 'stream'])
def test_two_ranks_see_what_one_sees(gray_npz, tmp_path, mode):
    convert(str(gray_npz(train=30, test=11)), tmp_path / 'out')
    [alone], pair = launch(1, tmp_path, mode), launch(2, tmp_path, mode)
    steps = [np.array(record['trained']).reshape(6, -1, 2) for record in (alone, *pair)]
    for step in range(6):  # three batches of eight in each of two epochs
        together = np.concatenate([steps[1][step], steps[2][step]])
        assert sorted(map(tuple, together)) == sorted(map(tuple, steps[0][step]))
        assert set(together[:, 1]) == {step // 3}
    labels = np.arange(30, 41) % 3
    for record in (alone, *pair):
        assert record['mean_label'] == pytest.approx(labels.mean(), abs=1e-6)
        assert {view for batch in record['evaluated'] for _, view in batch} == {-1}
