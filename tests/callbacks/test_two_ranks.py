"""Callbacks under two ranks, in one launch: rank 0's buffers, a bad loss that stops all, recordings as one rank's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import xxhash
from composer.core import Evaluator

from composer_kd import (
    AdversarialRecycling,
    Archive,
    EvaluateDrifts,
    RecordAdversarial,
    RecordLogits,
    RecordLosses,
    RecordPredictions,
)
from composer_kd.archive.predictions import Predictions, read_predictions
from composer_kd.callbacks.sync_buffers import SyncBuffers
from composer_kd.core.options import parse_section
from composer_kd.data import open_data
from composer_kd.data.section import DataSection
from composer_kd.models import weights_hash
from tests.algorithms.common import images_and_labels, make_trainer, net, pixel_loader
from tests.callbacks.keyed import keyed_data, small_net, tables, train
from tests.callbacks.test_evaluate_drifts import FOG, SECTION, accuracies_of

TWO_RANKS = """
import sys, warnings, torch
torch.set_num_threads(1)
from composer.core import Callback
from composer.utils import dist, get_device
dist.initialize_dist(get_device('cpu'))
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from composer_kd import UserError
from composer_kd.callbacks.nan_guard import NanGuard
from composer_kd.callbacks.sync_buffers import SyncBuffers
from composer_kd.models import plain, weights_hash
from tests.algorithms.common import images_and_labels, make_trainer, net
from tests.callbacks.test_nan_guard import BadLoss

train = TensorDataset(*images_and_labels())
held_out = TensorDataset(*images_and_labels(seed=1))


def loaders():
    return {
        'train_dataloader': DataLoader(train, 16, sampler=DistributedSampler(train, seed=3), drop_last=True),
        'eval_dataloader': DataLoader(held_out, 16, sampler=DistributedSampler(held_out, shuffle=False)),
    }


class Note(Callback):
    '''What this rank has as buffers before an evaluation, and in each of its batches.'''

    def __init__(self):
        self.before, self.inside = [], []

    def flat(self, state):
        return torch.cat([b.double().reshape(-1) for b in plain(state.model).buffers()])

    def epoch_end(self, state, logger):
        self.before.append(self.flat(state))

    def eval_batch_start(self, state, logger):
        self.inside.append(self.flat(state))


noted = {}
for name, callbacks in (('same', [SyncBuffers()]), ('own', [])):
    note = Note()
    folder = f'{sys.argv[1]}/{name}'
    trainer, log = make_trainer([], student=net(1), folder=folder, callbacks=[*callbacks, note], **loaders())
    trainer.fit()
    weights = torch.cat([p.detach().reshape(-1) for p in trainer.state.model.parameters()])
    trainer.close()
    noted[name] = {
        'weights': weights,
        'before': dist.all_gather_object(note.before),
        'inside': dist.all_gather_object(note.inside),
        'accuracy': float(log.data['metrics/eval/MulticlassAccuracy'][-1][1]) if log.data else None,
    }

# Only rank 1 meets a bad loss.
student = BadLoss(4 if dist.get_global_rank() == 1 else -1, float('nan'))
trainer, _ = make_trainer([], student=student, callbacks=[NanGuard()], **loaders())
try:
    trainer.fit()
    line = 'trained on'
except UserError as error:
    line = str(error)
noted['lines'] = dist.all_gather_object(line)

# Recorders, interrupted inside an epoch and continued.
from pathlib import Path
from composer_kd import RecordLogits, RecordLosses, RecordPredictions
from tests.callbacks import keyed

folder = Path(sys.argv[1])
recorders = lambda: [RecordLosses(folder / 'recorded'), RecordLogits(folder / 'recorded', views=2)]
options = dict(epochs='2ep', save_interval='3ba')
keyed.train(recorders(), net=keyed.small_net(False), folder=folder, **options)
keyed.train(recorders(), net=keyed.small_net(False, seed=4), load=folder / 'ep0-ba3-rank0.pt', **options)

# Adversarial examples, interrupted inside the second epoch and continued: samples change their rank between epochs.
def with_examples(examples, batch_norm=False, **options):
    from composer_kd import AdversarialRecycling, RecordAdversarial
    from tests.algorithms.common import pixel_loader
    trainer, _ = make_trainer(
        [AdversarialRecycling(epsilon=8)], student=net(1, batch_norm=batch_norm), train_dataloader=pixel_loader(),
        callbacks=[RecordAdversarial(folder / examples)], save_interval='4ba', **options
    )
    trainer.fit()
    trainer.close()
    return weights_hash(trainer.state.model)


with_examples('examples', folder=folder)
with_examples('examples', load=folder / 'ep1-ba8-rank0.pt')

# With BatchNorm: one that runs through, and one that is continued, whose ranks all begin at the statistics of rank 0.
through = with_examples('through', batch_norm=True, folder=folder / 'checkpoints')
continued = with_examples('continued', batch_norm=True, load=folder / 'checkpoints' / 'ep1-ba8-rank0.pt')
noted['weights'] = [through, continued]

# Predictions: of an odd number of samples, one of which a rank evaluates twice; and of batches without keys.
from tests.callbacks import test_two_ranks
test_two_ranks.predict(folder / 'predicted')
trainer, _ = make_trainer([], callbacks=[RecordPredictions(folder / 'without_keys')], **loaders())
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter('always')
    trainer.fit()
noted['warned'] = [str(one.message) for one in said if 'bring no keys' in str(one.message)]

# Each rank paints for itself: into a folder of its own, and what it streams.
own = test_two_ranks.painted(folder / f'painted{dist.get_global_rank()}', 'cache')
noted['pixels'] = dist.all_gather_object([own, test_two_ranks.painted(folder / 'streamed', 'stream')])

# Under drift, with BatchNorm, whose statistics are each rank's own when the training ends.
measured = test_two_ranks.measure_drift(folder / 'drifted')
if dist.get_global_rank() == 0:
    torch.save(measured.state_dict(), folder / 'drifted' / 'weights.pt')
    torch.save(noted, sys.argv[1] + '/noted.pt')
"""


def predict(run: Path) -> None:
    """Train, and keep what the last evaluation says of 101 samples."""
    data = keyed_data(clean_subset=101, eval_batch_size=20)
    evaluator = Evaluator(label='train_clean', dataloader=data.train_clean)
    train([RecordPredictions(run)], data, net=small_net(False), epochs='1ep', eval_dataloader=evaluator)


def measure_drift(folder: Path) -> torch.nn.Module:
    return train([EvaluateDrifts(folder, SECTION, {'foggy': FOG}, batch_size=16)], epochs='1ep')


def painted(cache: Path, mode: str) -> str:
    """A hash of the pixels, labels and content hashes of the training samples under a scenario."""
    way = {'name': 'path', 'steps': 3, 'step': 2, 'from': FOG, 'to': {'name': 'corruption', 'kind': 'snow', 'seed': 3}}
    values = {'synthetic': {'train_size': 200, 'test_size': 100}, 'cache_dir': str(cache), 'mode': mode}
    values['drift'] = [way, {'name': 'label_noise', 'rate': 0.3}]
    data = open_data(parse_section(DataSection, values, 'data'), 10, 0)
    dataset = data.train.dataloader.dataset
    shown = dataset.images(torch.arange(len(dataset))).numpy(), dataset.labels, dataset.content_hashes
    return xxhash.xxh3_64_hexdigest(b''.join(one.tobytes() for one in shown))


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('two_ranks')
    script = folder / 'train.py'
    script.write_text(TWO_RANKS)
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(Path(__file__).parents[2])}
    command = [sys.executable, '-m', 'composer.cli.launcher', '-n', '2', str(script), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.fixture
def noted(folder: Path) -> dict:
    return torch.load(folder / 'noted.pt')


def test_without_the_callback_ranks_evaluate_statistics_of_their_own(noted: dict) -> None:
    # The trap is real: what the next test shows is the callback's doing.
    for rank_0, rank_1 in (noted['own']['before'], noted['own']['inside']):
        assert not torch.equal(rank_0[0], rank_1[0])


def test_all_ranks_evaluate_the_buffers_of_rank_0(noted: dict) -> None:
    rank_0 = noted['same']['before'][0]
    for inside in noted['same']['inside']:
        assert len(inside) == 12  # two evaluations of six batches
        for batch, buffers in enumerate(inside):
            assert torch.equal(buffers, rank_0[batch // 6])


def test_what_was_evaluated_is_what_was_saved(folder: Path, noted: dict) -> None:
    saved = torch.load(folder / 'same' / 'latest-rank0.pt', weights_only=False)['state']['model']
    module = net(5)
    module.load_state_dict({name.removeprefix('module.'): value for name, value in saved.items()})
    buffers = torch.cat([b.double().reshape(-1) for b in module.buffers()])
    assert all(torch.equal(buffers, inside[-1]) for inside in noted['same']['inside'])
    images, labels = images_and_labels(seed=1)
    with torch.no_grad():
        accuracy = (module.eval()(images).argmax(1) == labels).float().mean().item()
    assert accuracy == pytest.approx(noted['same']['accuracy'], abs=1e-6)


def test_training_is_not_changed_by_the_callback(noted: dict) -> None:
    assert torch.equal(noted['same']['weights'], noted['own']['weights'])


def test_a_bad_loss_on_one_rank_stops_all_in_the_same_step(noted: dict) -> None:
    lines = noted['lines']
    assert len(lines) == 2
    assert len(set(lines)) == 1
    assert 'epoch 0, batch 4 (step 4)' in lines[0]


def test_one_rank_keeps_its_buffers() -> None:
    trainer, _ = make_trainer([], evaluate=True, callbacks=[SyncBuffers()])
    plain, _ = make_trainer([], evaluate=True)
    for each in (trainer, plain):
        each.fit()
        each.close()
    for own, other in zip(trainer.state.model.buffers(), plain.state.model.buffers(), strict=True):
        assert torch.equal(own, other)


def test_two_ranks_record_what_one_records(folder: Path, tmp_path: Path) -> None:
    train([RecordLosses(tmp_path), RecordLogits(tmp_path, views=2)], net=small_net(False), epochs='2ep')
    for kind, column in (('loss', 'loss'), ('logits', 'logits')):
        one, two = tables(tmp_path, kind), tables(folder / 'recorded', kind)
        assert list(one) == list(two) == [0, 1]
        for number in one:
            assert torch.equal(one[number]['seen'], two[number]['seen'])
            torch.testing.assert_close(one[number][column], two[number][column], rtol=1e-2, atol=1e-2)
            assert int(one[number]['seen'].sum()) == 256


def test_two_ranks_keep_the_examples_that_one_keeps(folder: Path, tmp_path: Path) -> None:
    algorithm = AdversarialRecycling(epsilon=8)
    trainer, _ = make_trainer(
        [algorithm], student=net(1, batch_norm=False), train_dataloader=pixel_loader(),
        callbacks=[RecordAdversarial(tmp_path)],
    )  # fmt: skip
    trainer.fit()
    trainer.close()
    one, two = (Archive(run).table('adversarial', 0) for run in (tmp_path, folder / 'examples'))
    assert Archive(folder / 'examples').metadata('adversarial', 0)['batch'] == 12
    assert bool(two['seen'].all())
    rows = Archive(folder / 'examples').samples().rows_by_key(Archive(tmp_path).samples())
    same = one['delta'] == two['delta'][torch.from_numpy(rows)]
    # The sign of a gradient near 0 may differ by rounding.
    assert same.float().mean() > 0.99


def test_two_ranks_with_batchnorm_go_on_as_if_they_had_run_through(folder: Path, noted: dict) -> None:
    # Between the batches a rank has statistics of its own; an attack that saw them would be another after a resume.
    through, continued = (Archive(folder / name).table('adversarial', 0) for name in ('through', 'continued'))
    assert noted['weights'][0] == noted['weights'][1]
    assert torch.equal(through['delta'], continued['delta'])
    assert bool((through['delta'] != 0).any())


def test_two_ranks_predict_what_one_predicts(folder: Path, tmp_path: Path) -> None:
    predict(tmp_path)

    def kept(run: Path) -> Predictions:
        return read_predictions(run / 'predictions' / 'train_clean.safetensors')

    one, two = kept(tmp_path), kept(folder / 'predicted')
    assert len(two.ids) == 101
    assert one.same_samples(two)
    assert one.metadata == two.metadata
    torch.testing.assert_close(one.logits, two.logits, rtol=1e-2, atol=1e-2)


def test_without_keys_ranks_keep_nothing_and_say_so(folder: Path, noted: dict) -> None:
    assert not (folder / 'without_keys' / 'predictions').exists()
    (line,) = noted['warned']
    assert line.startswith("RecordPredictions: no predictions of 'eval' are kept")


def test_two_ranks_measure_the_model_of_rank_0_under_drift(folder: Path) -> None:
    net = small_net()
    net.load_state_dict(torch.load(folder / 'drifted' / 'weights.pt'))
    found = json.loads((folder / 'drifted' / 'drifts.json').read_text())
    assert [found['clean']['samples'], found['drifts']['foggy']['samples']] == [100, 100]
    stated = (found['clean']['accuracy'], found['drifts']['foggy']['accuracy'])
    assert stated == pytest.approx(accuracies_of(net))
    assert found['weights'] == weights_hash(net)


def test_each_rank_paints_what_another_process_paints(noted: dict, tmp_path: Path) -> None:
    alone = painted(tmp_path, 'cache')
    assert noted['pixels'] == [[alone, alone], [alone, alone]], 'decoded and streamed, on both ranks'
