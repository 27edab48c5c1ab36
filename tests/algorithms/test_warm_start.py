"""WarmStart: where a training begins, that it begins there once, and what does not fit."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from composer.algorithms import EMA, BlurPool
from composer.models import ComposerClassifier
from torch import Tensor, nn

from composer_kd import Distillation, WarmStart
from composer_kd.core.errors import UserError
from composer_kd.models import build_model, classifier, weights_hash
from tests.algorithms.common import CLASSES, logged, make_trainer, net, trained_net
from tests.teachers.run_directories import MODEL, SHAPE, finished_run


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def started(algorithm: WarmStart, student: nn.Module, **options) -> nn.Module:
    """The student as it is before its first step."""
    trainer, _ = make_trainer([algorithm], student=student, **options)
    trainer.close()
    return student


# -- where it begins ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('wrapping', [{}, {'channels_last': True, 'cpu_autocast': True}], ids=['plain', 'bf16'])
def test_every_parameter_is_the_formula_and_every_buffer_the_sources(wrapping: dict) -> None:
    source, student = trained_net(11, steps=3), net(1)
    earlier, fresh = values(source), values(student)
    started(WarmStart(source, 0.4, 0.1), student, model=classifier(student, CLASSES, **wrapping))
    for name, value in student.state_dict().items():
        if 'running' in name or 'num_batches' in name:
            assert torch.equal(value, earlier[name])
            assert not torch.equal(value, fresh[name])
        else:  # BatchNorm's scale (1.weight) and shift too
            torch.testing.assert_close(value, 0.4 * earlier[name] + 0.1 * fresh[name])
    assert student.get_parameter('0.weight').is_contiguous(memory_format=torch.channels_last) == bool(wrapping)
    assert all(torch.equal(value, earlier[name]) for name, value in source.state_dict().items())


@pytest.mark.parametrize('kind', ['run directory', 'path', 'safetensors', 'state_dict', 'module', 'classifier'])
def test_every_kind_of_source_is_the_same_start(kind: str, tmp_path: Path) -> None:
    module = finished_run(tmp_path / 'gen0')
    torch.save({'state_dict': {f'module.{name}': value for name, value in values(module).items()}}, tmp_path / 'a.pt')
    source = {
        'run directory': str(tmp_path / 'gen0'),
        'path': tmp_path / 'gen0',
        'safetensors': str(tmp_path / 'gen0' / 'weights.safetensors'),
        'state_dict': tmp_path / 'a.pt',
        'module': module,
        'classifier': classifier(copy.deepcopy(module), CLASSES),
    }[kind]
    student = build_model(MODEL, CLASSES, SHAPE)
    assert weights_hash(student) != weights_hash(module)
    algorithm = WarmStart(source, trust_pickle=kind == 'state_dict')
    assert weights_hash(started(algorithm, student)) == weights_hash(module)


def test_a_composer_model_of_ones_own_starts_from_a_plain_net() -> None:
    source, student = trained_net(11, steps=1), net(1)
    started(WarmStart(source), student, model=ComposerClassifier(student, num_classes=CLASSES))
    assert weights_hash(student) == weights_hash(source)


class Tied(nn.Module):
    """Two names, one tensor."""

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.one, self.two = nn.Linear(192, 192, bias=False), nn.Linear(192, 192, bias=False)
        self.two.weight = self.one.weight
        self.last = nn.Linear(192, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.two(self.one(x.flatten(1))))


def test_tied_weights_are_perturbed_once() -> None:
    source, student = Tied(1), Tied(2)
    expected = 0.5 * source.one.weight + 0.25 * student.one.weight
    started(WarmStart(source, 0.5, 0.25), student)
    torch.testing.assert_close(student.one.weight, expected)
    assert student.two.weight is student.one.weight


def test_training_goes_on_from_there() -> None:
    """The optimizer, which existed before, moves the started weights: the same first steps as of the source itself."""
    hashes = []
    for started_at, student in ((net(3), net(1)), (None, net(3))):
        trainer, _ = make_trainer([WarmStart(started_at)] if started_at else [], student=student, epochs='3ba')
        trainer.fit()
        trainer.close()
        hashes.append(weights_hash(student))
    assert hashes[0] == hashes[1]


# -- once -----------------------------------------------------------------------------------------------------------


def test_a_resumed_training_needs_no_source_and_ends_in_the_same_bits(tmp_path: Path) -> None:
    finished_run(tmp_path / 'gen0')

    def trained(**options) -> str:
        algorithm, student = WarmStart(tmp_path / 'gen0', 0.4, 0.1), build_model(MODEL, CLASSES, SHAPE)
        trainer, _ = make_trainer([algorithm], student=student, **options)
        trainer.fit()
        trainer.close()
        return weights_hash(student)

    whole = trained(folder=tmp_path / 'ck', save_interval='1ba')
    shutil.rmtree(tmp_path / 'gen0')
    assert trained(load=tmp_path / 'ck' / 'ep0-ba2-rank0.pt') == whole


def test_a_checkpoint_from_before_the_first_step_is_not_shrunk_again(tmp_path: Path) -> None:
    source, student = trained_net(11, steps=1), net(1)
    trainer, _ = make_trainer([WarmStart(source, 0.4, 0.1)], student=student)
    trainer.save_checkpoint(str(tmp_path / 'begin.pt'))
    trainer.close()
    again = started(WarmStart(source, 0.4, 0.1), net(5), load=tmp_path / 'begin.pt')
    assert weights_hash(again) == weights_hash(student)
    # Its weights alone begin another training: they are what this one holds as fresh.
    expected = 0.4 * source.get_parameter('5.weight') + 0.1 * student.get_parameter('5.weight')
    anew = started(WarmStart(source, 0.4, 0.1), net(5), load=tmp_path / 'begin.pt', load_weights_only=True)
    torch.testing.assert_close(anew.get_parameter('5.weight'), expected)


def test_a_checkpoint_of_another_training_keeps_its_weights_and_that_is_said(tmp_path: Path) -> None:
    plain, _ = make_trainer([], epochs='1ba', folder=tmp_path, save_interval='1ba')
    plain.fit()
    plain.close()
    with pytest.warns(UserWarning, match='comes from a training without WarmStart; it goes on with its own weights'):
        student = started(WarmStart(trained_net(11)), net(5), epochs='2ba', load=tmp_path / 'ep0-ba1-rank0.pt')
    assert weights_hash(student) == weights_hash(plain.state.model)


def test_an_instance_starts_every_trainer_that_it_is_given_to() -> None:
    algorithm = WarmStart(trained_net(11, steps=1))
    assert weights_hash(started(algorithm, net(1))) == weights_hash(started(algorithm, net(2)))


@pytest.mark.parametrize(
    ('perturb', 'line'),
    [(0.0, 'from_ takes their place whole: leave one of the two out'), (0.1, 'but for the part that perturb keeps')],
)
def test_weights_that_load_path_brought_and_the_source_replaces_are_warned_of(
    perturb: float, line: str, tmp_path: Path
) -> None:
    plain, _ = make_trainer([], student=net(3))
    plain.save_checkpoint(str(tmp_path / 'other.pt'), weights_only=True)
    plain.close()
    with pytest.warns(
        UserWarning, match=rf'WarmStart: load_path brought weights \(load_weights_only\).*{line}'
    ) as seen:
        started(WarmStart(net(11), 0.4, perturb), net(1), load=tmp_path / 'other.pt', load_weights_only=True)
    assert all('\n' not in str(one.message) for one in seen if 'WarmStart' in str(one.message))
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='WarmStart')
        started(WarmStart(net(11), 0.4, perturb), net(1))


# -- in company -----------------------------------------------------------------------------------------------------


def test_its_source_may_teach_it() -> None:
    """Without BatchNorm the student says at first just what its teacher says; the teacher is never trained."""
    source = net(11, batch_norm=False)
    before, student = weights_hash(source), net(1, batch_norm=False)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # An untrained teacher is at chance level.
        trainer, log = make_trainer(
            [Distillation([source], loss='mse'), WarmStart(source)], student=student, epochs='3ba'
        )
        trainer.fit()
        trainer.close()
    distill = logged(log, 'loss/train/distill')
    assert distill[0] == pytest.approx(0.0, abs=1e-12)
    assert distill[-1] > 1e-6
    assert logged(log, 'distill/agreement')[0] == 1.0
    assert weights_hash(source) == before != weights_hash(student)


def test_ema_averages_from_the_started_weights() -> None:
    """EMA copies the model at INIT, before the start; what it averages must not begin there."""
    source = trained_net(11)
    for algorithms in ([EMA(half_life='1000000ba'), WarmStart(source)], [WarmStart(source), EMA('1000000ba')]):
        trainer, _ = make_trainer(algorithms, student=net(1), epochs='2ba')
        trainer.fit()
        trainer.close()
        (ema,) = (one for one in trainer.state.algorithms if isinstance(one, EMA))
        assert ema.ema_model is not None
        average = ema.ema_model.named_parameters_dict['module.5.weight']
        near, far = (
            (average - source.get_parameter('5.weight')).norm(),
            (average - net(1).get_parameter('5.weight')).norm(),
        )
        assert near < 0.2 * far


TWO_RANKS = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from composer.utils import dist, get_device
dist.initialize_dist(get_device('cpu'))
from composer_kd import UserError, WarmStart
from composer_kd.models import build_model, weights_hash
from tests.algorithms.common import CLASSES, make_trainer
from tests.teachers.run_directories import MODEL, SHAPE

rank, runs = dist.get_global_rank(), Path(sys.argv[1])
torch.manual_seed(100 + rank)  # each rank draws fresh weights of its own
student = build_model(MODEL, CLASSES, SHAPE)
fresh = {name: value.clone() for name, value in student.state_dict().items()}
# Only rank 0 has the source at hand.
source = runs / ('gen0' if rank == 0 else 'nowhere')
trainer, _ = make_trainer([WarmStart(source, 0.4, 0.1)], student=student, epochs='2ba')
begun = {name: value.clone() for name, value in student.state_dict().items()}
hashes = dist.all_gather_object(weights_hash(student))
trainer.fit()
trained = dist.all_gather_object(weights_hash(student))
trainer.close()
try:
    make_trainer([WarmStart(runs / 'nowhere')], student=build_model(MODEL, CLASSES, SHAPE))
    line = 'started'
except UserError as error:
    line = str(error)
noted = {'hashes': hashes, 'trained': trained, 'fresh': fresh, 'begun': begun, 'lines': dist.all_gather_object(line)}
if rank == 0:
    torch.save(noted, runs / 'noted.pt')
"""


@pytest.mark.slow
def test_two_ranks_begin_at_the_weights_of_rank_0(tmp_path: Path) -> None:
    source = finished_run(tmp_path / 'gen0')
    script = tmp_path / 'train.py'
    script.write_text(TWO_RANKS)
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(Path(__file__).parents[2])}
    command = [sys.executable, '-m', 'composer.cli.launcher', '-n', '2', str(script), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    noted = torch.load(tmp_path / 'noted.pt')
    assert len(set(noted['hashes'])) == len(set(noted['trained'])) == 1
    for name, earlier in source.state_dict().items():
        torch.testing.assert_close(noted['begun'][name], 0.4 * earlier + 0.1 * noted['fresh'][name])
    assert len(set(noted['lines'])) == 1
    assert 'no such run directory' in noted['lines'][0]


# -- what does not fit ----------------------------------------------------------------------------------------------


def refused(source, student: nn.Module, line: str, **options) -> None:
    before = weights_hash(student)
    with pytest.raises(UserError, match=line) as error:
        make_trainer([WarmStart(source, **options)], student=student)
    assert '\n' not in str(error.value)
    assert weights_hash(student) == before


def test_another_architecture_is_refused_and_both_sides_are_named(tmp_path: Path) -> None:
    finished_run(tmp_path / 'gen0')
    refused(
        tmp_path / 'gen0',
        net(1),
        r'WarmStart: from .*gen0 for the student Sequential: not weights of this model: lacks 0\.weight .*start from '
        r'a model of the same architecture',
    )
    wide = build_model({'name': 'mlp', 'hidden': [24]}, CLASSES, SHAPE)
    refused(tmp_path / 'gen0', wide, r'for the student MLP: .* has the shape \[16, 192\], the model \[24, 192\]')
    refused(net(1, batch_norm=False), net(2), r'from Sequential for the student Sequential: .*lacks 1\.weight')


def test_surgery_that_changed_the_student_is_named() -> None:
    student = net(1)
    with pytest.raises(
        UserError, match=r'same architecture; BlurPool has changed layers of the student: leave it'
    ) as e:
        make_trainer([BlurPool(replace_convs=True, min_channels=1), WarmStart(net(11))], student=blurred(student))
    assert '\n' not in str(e.value)
    # Both fit where the source had it too.
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        had_it, _ = make_trainer([BlurPool(replace_convs=True, min_channels=1)], student=blurred(net(11)))
        make_trainer(
            [BlurPool(replace_convs=True, min_channels=1), WarmStart(had_it.state.model.module)],
            student=blurred(net(1)),
        )  # fmt: skip


def blurred(student: nn.Module) -> nn.Module:
    """A student with a convolution that BlurPool replaces: one with a stride."""
    convolution = student[0]
    convolution.stride = (2, 2)
    return student


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    finished_run(tmp_path / 'gen0', classes=7)
    refused(tmp_path / 'gen0', build_model(MODEL, CLASSES, SHAPE), r'gen0 .*has 7 classes, the model 10')


def test_a_source_that_is_missing_unfinished_or_damaged_is_refused(tmp_path: Path) -> None:
    student = build_model(MODEL, CLASSES, SHAPE)
    refused(tmp_path / 'gen0', student, r'WarmStart: from: .*gen0: no such run directory; train that run first')
    refused(tmp_path / 'gen0.pt', student, r'WarmStart: from: .*gen0\.pt: no such file', trust_pickle=True)
    finished_run(tmp_path / 'gen0')
    weights = tmp_path / 'gen0' / 'weights.safetensors'
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(tmp_path / 'gen0', student, r'weights\.safetensors: damaged: these are not the weights that the run ended')
    weights.unlink()
    refused(tmp_path / 'gen0', student, r'gen0 has no weights\.safetensors: the run has not finished')


def test_the_student_itself_is_no_source() -> None:
    student = net(1)
    refused(student, student, 'the module shares weights with the student; deep-copy it')


@pytest.mark.parametrize(
    ('arguments', 'line'),
    [
        ({'shrink': 1.2}, 'shrink: expected a number from 0 to 1, got 1.2'),
        ({'shrink': -0.1}, 'shrink: expected a number from 0 to 1, got -0.1'),
        ({'shrink': float('nan')}, 'shrink: expected'),
        ({'shrink': True}, 'shrink: expected'),
        ({'perturb': -0.1}, 'perturb: expected a number from 0 to 1000, got -0.1'),
        ({'perturb': float('inf')}, 'perturb: expected'),
        ({'shrink': 0.0}, 'shrink and perturb are both 0'),
        ({'from_': None}, 'from: expected a run directory, a file of weights or a module, got None'),
    ],
)
def test_arguments_are_checked(arguments: dict, line: str) -> None:
    with pytest.raises(UserError, match=line):
        WarmStart(**{'from_': 'runs/gen0', **arguments})


def test_its_repr_is_a_call_without_the_layers_of_a_module() -> None:
    assert repr(WarmStart('runs/gen0', perturb=0.1)) == "WarmStart(from_='runs/gen0', perturb=0.1)"
    assert repr(WarmStart(net(1))) == 'WarmStart(from_=Sequential)'
