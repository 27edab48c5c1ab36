"""Logits recorded while training: the views of the last epochs, against what the net was seen to answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from composer.algorithms import SAM, ColOut, CutMix, CutOut, MixUp, ProgressiveResizing
from composer.core import Algorithm, Callback, Event
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from composer_kd import Archive, RecordLogits, RecordLosses, UserError
from composer_kd.archive import Samples, verify
from composer_kd.callbacks import record_logits
from composer_kd.functional.top_k import keep_top
from tests.callbacks.keyed import keyed_data, same_weights, small_net, tables, train

torch.set_num_threads(1)


class Answers(Callback):
    """What the net answered in each step's first pass: (epoch, id) to (view, logits)."""

    def __init__(self) -> None:
        self.given: dict[tuple[int, int], tuple[int, torch.Tensor]] = {}

    def before_train_batch(self, state, logger) -> None:
        self.epoch = int(state.timestamp.epoch)

    def after_forward(self, state, logger) -> None:
        assert state.model.training
        for (sample, view), logits in zip(state.batch[2].tolist(), state.outputs, strict=True):
            self.given.setdefault((self.epoch, sample), (view, logits.detach().clone()))


@pytest.fixture(scope='module')
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answers, nn.Module]:
    folder, answers = tmp_path_factory.mktemp('recorded') / 'run', Answers()
    net = train([RecordLogits(folder, views=2), RecordLosses(folder), answers], epochs='4ep')
    return folder, answers, net


def test_the_last_epochs_answers_are_kept_in_views_from_0_on(recorded: tuple[Path, Answers, nn.Module]) -> None:
    folder, answers, _ = recorded
    archive = Archive(folder)
    assert archive.views == [0, 1]
    ids = archive.samples().ids.tolist()
    for view in archive.views:
        epoch = 2 + view
        given = {sample: logits for (e, sample), (_, logits) in answers.given.items() if e == epoch}
        assert {v for (e, _), (v, _) in answers.given.items() if e == epoch} == {view}
        table = archive.table('logits', view)
        assert table['logits'].dtype == torch.float16
        for row, seen in enumerate(table['seen'].tolist()):
            assert seen == (ids[row] in given)
            if seen:
                assert torch.equal(table['logits'][row], given[ids[row]].half())
    assert [{v for (e, _), (v, _) in answers.given.items() if e == epoch} for epoch in (0, 1)] == [{0}, {1}]


def test_the_manifest_says_how_they_came_about(recorded: tuple[Path, Answers, nn.Module]) -> None:
    manifest = verify(recorded[0])
    archive = Archive(recorded[0])
    for view in (0, 1):
        assert archive.metadata('logits', view) == {
            'augmentation': keyed_data().augmentation.as_mapping(),
            'classes': 100,
            'top_k': None,
            'precision': 'fp32',
            'weights': None,
            'source': 'training',
            'epoch': 2 + view,
            'seen': 256,
            'clipped': 0,
            'images': 0,
            'seconds': 0.0,
            'multiply_adds': 0,
        }
    assert not manifest.finished
    assert not list((recorded[0] / 'archive' / 'parts').iterdir())


def test_nothing_but_the_views_changes_in_the_training(recorded: tuple[Path, Answers, nn.Module]) -> None:
    data = keyed_data()
    data.train.dataloader.sampler.final_views = (2, 2)  # type: ignore[union-attr]
    assert same_weights(recorded[2], train([], data, epochs='4ep'))
    assert not same_weights(recorded[2], train([], epochs='4ep')), 'the views are those of epochs 0 and 1 again'


class KilledError(Exception):
    pass


class Astray(Algorithm):
    """Makes a training go elsewhere."""

    def match(self, event, state) -> bool:
        return event == Event.AFTER_LOSS

    def apply(self, event, state, logger) -> None:
        state.loss = state.loss * 3


# Before the recorded epochs, inside one (many parts, two, or one), between two, and inside the last.
INTERRUPTED = [
    ('ep1-ba6', 100),
    ('ep2-ba9', 1),
    ('ep2-ba9', 100),
    ('ep2-ba9', 9999),
    ('ep2-ba12', 100),
    ('ep3-ba15', 100),
]


@pytest.mark.parametrize(('at', 'chunk'), INTERRUPTED)
def test_resumed_it_ends_with_the_same_tables(
    at: str, chunk: int, recorded: tuple[Path, Answers, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_logits, '_CHUNK', chunk)
    run, checkpoints = tmp_path / 'run', tmp_path / 'checkpoints'

    class Kill(Callback):
        def batch_end(self, state, logger) -> None:
            if int(state.timestamp.batch) == min(int(at.rpartition('ba')[2]) + 2, 16):
                raise KilledError

    # The checkpoints of a whole training, its tables full; then some steps on a wrong way, their rows in parts.
    train([RecordLogits(run, views=2)], epochs='4ep', folder=checkpoints, save_interval='3ba')
    load = checkpoints / f'{at}-rank0.pt'
    recorders = [RecordLogits(run, views=2), Kill()]
    with pytest.raises(KilledError):
        train(recorders, epochs='4ep', load=load, net=small_net(seed=8), algorithms=[Astray()])
    net = train([RecordLogits(run, views=2)], epochs='4ep', load=load, net=small_net(seed=9))
    assert same_weights(net, recorded[2])
    wanted, got = tables(recorded[0], 'logits'), tables(run, 'logits')
    assert wanted.keys() == got.keys()
    for view in wanted:
        assert torch.equal(wanted[view]['seen'], got[view]['seen'])
        assert torch.equal(wanted[view]['logits'], got[view]['logits'])
    assert [Archive(run).metadata('logits', view)['seen'] for view in (0, 1)] == [256, 256]


def test_top_k(tmp_path: Path) -> None:
    answers = Answers()
    train([RecordLogits(tmp_path, views=1, top_k=7), answers], epochs='1ep')
    archive = Archive(tmp_path)
    table = archive.table('logits', 0)
    given = torch.stack([answers.given[0, sample][1] for sample in archive.samples().ids.tolist()])
    values, indices, rest = keep_top(given.half(), 7)
    assert torch.equal(table['values'], values)
    assert torch.equal(table['indices'], indices)
    assert torch.equal(table['rest'], rest)
    assert archive.metadata('logits', 0)['top_k'] == 7


def test_large_logits_are_clipped_and_counted_and_infinite_ones_refused(tmp_path: Path) -> None:
    class Large(nn.Module):
        num_classes = 100

        def __init__(self, value: float) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))
            self.value = value

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 100), self.value) * (1 + 0 * self.weight)

    train([RecordLogits(tmp_path / 'large', views=1)], net=Large(-1e6), epochs='1ep')
    archive = Archive(tmp_path / 'large')
    assert archive.metadata('logits', 0)['clipped'] == 256 * 100
    assert archive.table('logits', 0)['logits'].unique().tolist() == [-65504.0]
    with pytest.raises(UserError, match='logits of view 0 are NaN or infinite'):
        train([RecordLogits(tmp_path / 'nan', views=1)], net=Large(float('nan')), epochs='1ep')


def test_sams_first_pass_is_recorded(tmp_path: Path) -> None:
    answers = Answers()
    train([RecordLogits(tmp_path, views=1), answers], epochs='1ep', algorithms=[SAM(rho=0.5)])
    archive = Archive(tmp_path)
    for sample, logits in zip(archive.samples().ids.tolist(), archive.table('logits', 0)['logits'], strict=True):
        assert torch.equal(logits, answers.given[0, sample][1].half())


@pytest.mark.parametrize(
    'algorithm',
    [MixUp(), CutMix(), ColOut(), CutOut(), ProgressiveResizing()],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_changed_images_are_refused_before_the_first_step(algorithm, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f'RecordLogits: {type(algorithm).__name__} is in the same Trainer; logits'):
        train([RecordLogits(tmp_path / 'run', views=1)], algorithms=[algorithm])
    assert not (tmp_path / 'run').exists()


WRONG = {
    'more views than epochs': ({'views': 4}, {}, {}, 'views is 4, and the training has 3 epochs; lower it'),
    'duration in batches': ({'views': 1}, {}, {'epochs': '9ba'}, "max_duration must be in epochs, as '12ep'"),
    'views that repeat': ({'views': 2}, {'views': 2}, {}, 'data.views is 2; recording while training needs fresh'),
    'too many of the top': ({'views': 1, 'top_k': 101}, {}, {}, 'top_k is 101, and there are 100 classes'),
}


@pytest.mark.parametrize(('own', 'data', 'options', 'line'), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_recorded_is_refused_before_the_first_step(own, data, options, line, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        train([RecordLogits(tmp_path / 'run', **own)], keyed_data(**data), **options)


def test_wrong_numbers_and_loaders_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='views is a whole number from 1 on, got 0'):
        RecordLogits(tmp_path, views=0)
    with pytest.raises(UserError, match='top_k is a whole number from 1 on, got -1'):
        RecordLogits(tmp_path, views=1, top_k=-1)
    data = keyed_data()
    plain = DataLoader(TensorDataset(torch.zeros(8, 3, 32, 32), torch.zeros(8, dtype=torch.int64)), 4)
    object.__setattr__(data, 'train', plain)
    with pytest.raises(UserError, match='the order and the views of the training data are not ours to choose'):
        train([RecordLogits(tmp_path / 'run', views=1)], data)


def test_one_view_of_data_without_augmentation_is_recorded(tmp_path: Path) -> None:
    data = keyed_data(augment=False)
    train([RecordLogits(tmp_path, views=1)], data, epochs='2ep')
    archive = Archive(tmp_path)
    assert archive.views == [0]
    assert archive.metadata('logits', 0)['augmentation']['name'] == 'none'
    assert len(archive.samples().rows_by_key(Samples.of(data.train_set))) == 300


def test_another_order_than_the_recorders_is_refused(tmp_path: Path) -> None:
    class Reorder(Callback):
        def epoch_start(self, state, logger) -> None:
            state.train_dataloader.sampler.final_views = None

    with pytest.raises(UserError, match='epoch 1 shows other views than 0; leave out whatever else decides the order'):
        train([RecordLogits(tmp_path, views=1), Reorder()], epochs='2ep')


def test_a_second_training_of_the_loader_has_its_own_views(tmp_path: Path) -> None:
    data = keyed_data()
    train([RecordLogits(tmp_path, views=1)], data, epochs='1ep')
    assert data.train.dataloader.sampler.final_views is None  # type: ignore[union-attr]
