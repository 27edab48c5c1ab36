"""What a last evaluation said, against the trained model asked again: when it is written, in what order, and where."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from composer.core import Callback, Evaluator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from composer_kd import RecordPredictions, UserError
from composer_kd.archive.predictions import Predictions, read_predictions
from composer_kd.callbacks.record_predictions import _Answers, _Rows
from composer_kd.data import Data
from tests.algorithms.common import images_and_labels, make_trainer, net
from tests.callbacks.keyed import keyed_data, small_net, train

BATCHES = 4  # of an epoch


@pytest.fixture(scope='module')
def data() -> Data:
    return keyed_data(eval_batch_size=30)


def evaluators(data: Data, interval: str = '1ep') -> list[Evaluator]:
    specs = {'val': data.val, 'test': data.test, 'train_clean': data.train_clean}
    return [Evaluator(label=label, dataloader=spec, eval_interval=interval) for label, spec in specs.items()]


def trained(place: Path, data: Data, *callbacks: Callback, interval: str = '1ep', **options) -> nn.Module:
    recorder = RecordPredictions(place / 'run', ['val', 'test'])
    return train([recorder, *callbacks], data, eval_dataloader=evaluators(data, interval), **options)


def of(place: Path, split: str) -> Predictions:
    return read_predictions(place / 'run' / 'predictions' / f'{split}.safetensors')


def answers(module: nn.Module, spec) -> Tensor:
    module.eval()
    with torch.no_grad():
        return torch.cat([module(spec.microbatch_transforms(batch)[0]) for batch in spec.dataloader])


@pytest.mark.parametrize(
    ('duration', 'interval'),
    [
        pytest.param('2ep', '1ep', id='after the last epoch'),
        pytest.param('2ep', f'{BATCHES}ba', id='after its last batch, before Composer counts it'),
        pytest.param('3ep', '2ep', id='once more after the end'),
        pytest.param('6ba', '1ep', id='inside an epoch'),
        pytest.param('6ba', '3ba', id='after the last of the batches'),
    ],
)
def test_it_is_what_the_trained_model_says(tmp_path: Path, data: Data, duration: str, interval: str) -> None:
    module = trained(tmp_path, data, epochs=duration, interval=interval)
    assert sorted(path.name for path in (tmp_path / 'run' / 'predictions').iterdir()) == [
        'test.safetensors',
        'val.safetensors',
    ]
    for split, spec in (('val', data.val), ('test', data.test)):
        kept, dataset = of(tmp_path, split), spec.dataloader.dataset
        assert kept.ids.tolist() == sorted(dataset.ids.tolist())
        assert kept.labels.tolist() == dataset.labels.tolist(), 'the data set is in the order of its ids'
        assert torch.equal(kept.logits, answers(module, spec).half())
        batches = int(duration[0]) * (BATCHES if duration.endswith('ep') else 1)
        assert kept.metadata == {
            'split': split,
            'epoch': batches // BATCHES,
            'batch': batches,
            'fingerprint': dataset.fingerprint,
        }


class Note(Callback):
    """Whether predictions are there when checkpoints are written."""

    def __init__(self, folder: Path):
        self.file = folder / 'run' / 'predictions' / 'test.safetensors'
        self.there: list[bool] = []

    def fit_start(self, state, logger) -> None:
        self.there.append(self.file.exists())

    def epoch_checkpoint(self, state, logger) -> None:
        self.there.append(self.file.exists())


def test_only_the_last_evaluation_is_written_and_before_the_last_checkpoint(tmp_path: Path, data: Data) -> None:
    note = Note(tmp_path)
    trained(tmp_path, data, note, epochs='3ep')
    assert note.there == [False, False, False, True]


def test_a_new_training_forgets_those_of_the_one_before(tmp_path: Path, data: Data) -> None:
    trained(tmp_path, data, epochs='1ep')
    (tmp_path / 'run' / 'predictions' / '.test.safetensors.1-00.tmp').touch()
    (tmp_path / 'run' / 'predictions' / 'mine.txt').touch()

    class Stop(Callback):
        def batch_end(self, state, logger) -> None:
            raise RuntimeError('pulled the plug')

    with pytest.raises(RuntimeError, match='plug'):
        trained(tmp_path, data, Stop(), epochs='1ep')
    assert [path.name for path in (tmp_path / 'run' / 'predictions').iterdir()] == ['mine.txt']


def test_an_early_stop_ends_the_training(tmp_path: Path, data: Data) -> None:
    class Stop(Callback):
        def eval_end(self, state, logger) -> None:
            if state.dataloader_label == 'test' and state.timestamp.epoch == 2:
                state.stop_training()

    module = trained(tmp_path, data, Stop(), epochs='5ep')
    kept = of(tmp_path, 'test')
    assert (kept.metadata['epoch'], kept.metadata['batch']) == (2, 2 * BATCHES)
    assert torch.equal(kept.logits, answers(module, data.test).half())


def test_a_resumed_training_ends_with_the_same_bytes(tmp_path: Path, data: Data) -> None:
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    trained(whole, data, folder=whole / 'checkpoints', save_interval='3ba', epochs='2ep')
    middle = whole / 'checkpoints' / 'ep1-ba6-rank0.pt'
    trained(resumed, data, load=middle, net=small_net(seed=5), epochs='2ep')
    for split in ('val', 'test'):
        name = f'run/predictions/{split}.safetensors'
        assert (whole / name).read_bytes() == (resumed / name).read_bytes()


# -- a Trainer of one's own -----------------------------------------------------------------------------------------


def test_batches_without_keys_are_in_the_order_of_the_evaluator(tmp_path: Path) -> None:
    images, labels = images_and_labels(seed=1)
    student = net(1)
    trainer, _ = make_trainer(
        [],
        student=student,
        callbacks=[RecordPredictions(tmp_path)],
        eval_dataloader=DataLoader(TensorDataset(images, labels.int()), 50),
    )
    trainer.fit()
    file = tmp_path / 'predictions' / 'eval.safetensors'
    kept = read_predictions(file)
    assert kept.ids.tolist() == list(range(len(labels)))
    assert torch.equal(kept.labels, labels)
    with torch.no_grad():
        torch.testing.assert_close(kept.logits.float(), student.eval()(images), rtol=2e-3, atol=1e-3)
    assert kept.metadata['fingerprint'] is None
    written = file.stat().st_mtime_ns
    trainer.eval()
    assert file.stat().st_mtime_ns == written, 'an evaluation of its own is none of a training'
    trainer.close()


def test_logits_beyond_half_precision_are_clipped(tmp_path: Path) -> None:
    class Loud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net(1)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) if self.training else self.inner(x) * 1e9

    trainer, _ = make_trainer([], student=Loud(), callbacks=[RecordPredictions(tmp_path)], evaluate=True)
    trainer.fit()
    trainer.close()
    kept = read_predictions(tmp_path / 'predictions' / 'eval.safetensors')
    assert kept.logits.abs().max() == torch.finfo(torch.float16).max


def test_a_batch_that_passes_again_counts_once() -> None:
    # As after running out of memory: two samples, then all five in smaller parts.
    def rows(*values: float) -> _Rows:
        return _Rows(torch.tensor([[value] for value in values]), torch.tensor(values).long(), None)

    answers = _Answers(None)
    for batch in ((0.0, 1.0, 2.0, 3.0, 4.0), (5.0, 6.0)):
        answers.begin_batch(torch.tensor(batch))
        answers.batch += [rows(*batch[:2]), rows(*batch[:2]), rows(*batch[2:])] if len(batch) > 2 else [rows(*batch)]
        answers.end_batch()
    assert [int(label) for rows in answers.rows for label in rows.labels] == [0, 1, 2, 3, 4, 5, 6]


def test_an_unknown_split_is_refused_before_the_training(tmp_path: Path, data: Data) -> None:
    with pytest.raises(UserError, match=r"RecordPredictions: 'tset' is no evaluator of this Trainer.*'test'"):
        train([RecordPredictions(tmp_path, ['tset'])], data, eval_dataloader=evaluators(data))
    slashed = [Evaluator(label='../val', dataloader=data.val)]
    with pytest.raises(UserError, match='a label without slashes'):
        train([RecordPredictions(tmp_path)], data, eval_dataloader=slashed)


def test_what_is_no_file_of_predictions_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / 'test.safetensors'
    save_file({'logits': torch.zeros(3, 2), 'labels': torch.zeros(3).long(), 'ids': torch.zeros(3).long()}, path)
    with pytest.raises(UserError, match='not predictions'):
        read_predictions(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match='damaged'):
        read_predictions(path)
