"""What a distillation keeps in a checkpoint, and what it says of one that it was not part of."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from composer_kd import Distillation, Teacher, TeacherMixupKD, UserError
from composer_kd.models import weights_hash
from tests.algorithms.common import logged, make_trainer, net, trained_net
from tests.algorithms.settings import SETTINGS
from tests.teachers.test_checks import Lines


def messages(act) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        act()
    return [str(warning.message) for warning in caught]


def resumed(algorithms, load: Path, **options):
    trainer, log = make_trainer(algorithms, student=net(5), epochs='2ep', load=load, **options)
    trainer.fit()
    trainer.close()
    return log


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('checkpoints')
    for name, algorithms in (('plain', []), ('taught', [TeacherMixupKD([trained_net(11)])])):
        trainer, _ = make_trainer(algorithms, epochs='2ep', folder=folder / name)
        trainer.fit()
        trainer.close()
    return folder


def test_a_checkpoint_without_distillation_is_taken_and_said_so(folder: Path) -> None:
    lines = messages(lambda: resumed([TeacherMixupKD([trained_net(11)])], folder / 'plain' / 'ep1-ba6-rank0.pt'))
    ours = [line for line in lines if 'comes from a training without TeacherMixupKD' in line]
    assert ours == [
        'TeacherMixupKD: this checkpoint comes from a training without TeacherMixupKD; '
        'the distillation begins here, in epoch 1'
    ]


def test_a_checkpoint_of_its_own_and_a_new_training_are_taken_without_a_word(folder: Path) -> None:
    lines = messages(lambda: resumed([TeacherMixupKD([trained_net(11)])], folder / 'taught' / 'ep1-ba6-rank0.pt'))
    lines += messages(lambda: make_trainer([TeacherMixupKD([trained_net(11)])])[0].close())
    assert not [line for line in lines if 'comes from a training without' in line]


def test_weights_alone_begin_a_new_training(folder: Path) -> None:
    load = folder / 'plain' / 'ep1-ba6-rank0.pt'
    lines = messages(lambda: resumed([TeacherMixupKD([trained_net(11)])], load, load_weights_only=True))
    assert not [line for line in lines if 'comes from a training without' in line]


def test_the_count_of_the_teachers_accuracy_goes_on(folder: Path) -> None:
    algorithm = TeacherMixupKD([trained_net(11)])
    log = resumed([algorithm], folder / 'taught' / 'ep1-ba6-rank0.pt')
    assert algorithm.checks.counted == [2 * 192]
    assert len(logged(log, 'distill/teacher_accuracy/Sequential')) == 6


def test_other_teachers_are_counted_anew(folder: Path) -> None:
    algorithm = TeacherMixupKD([trained_net(11), trained_net(12)])
    resumed([algorithm], folder / 'taught' / 'ep1-ba6-rank0.pt')
    assert algorithm.checks.counted == [192, 192]


@pytest.mark.parametrize('second', [TeacherMixupKD, Distillation])
def test_two_instances_are_refused(second) -> None:
    with pytest.raises(UserError, match='has TeacherMixupKD already; give one of them all teachers') as refused:
        make_trainer([second([trained_net(11)]), TeacherMixupKD([trained_net(12)])])
    assert '\n' not in str(refused.value)


OF_TEACHERS = {
    name: SETTINGS[name]
    for name in (
        'Distillation-kl',
        'OracleKD',
        'BornAgain-dkpp',
        'Distillation-learned-temperature',
        'LossCurriculum-rho',
    )
}


@pytest.mark.parametrize('epoch', [0, 1], ids=['first epoch', 'very last epoch'])
@pytest.mark.parametrize('setting', OF_TEACHERS.values(), ids=OF_TEACHERS.keys())
def test_resumes_between_the_last_batch_of_an_epoch_and_its_end(setting, epoch: int, tmp_path: Path) -> None:
    """A checkpoint of every so many batches may fall there: no batch of that epoch is left."""

    def trainer_of(**options):
        return make_trainer(
            [setting.make()], train_dataloader=setting.train_data(), epochs='2ep', evaluate=True, **options
        )[0]

    whole = trainer_of(folder=tmp_path, save_interval='1ba')
    whole.fit()
    whole.close()
    saved = sorted(tmp_path.glob(f'ep{epoch}-ba*-rank0.pt'), key=lambda path: path.stat().st_mtime)[-1]
    clock = torch.load(saved, weights_only=False)['state']['timestamp']['Timestamp']
    assert (clock['epoch'], clock['batch_in_epoch'] > 0) == (epoch, True)
    resumed = trainer_of(student=net(5), load=saved)
    resumed.fit()
    resumed.close()
    ends = [(int(one.state.timestamp.epoch), int(one.state.timestamp.batch)) for one in (resumed, whole)]
    assert ends[0] == ends[1]
    assert ends[0][0] == 2
    assert weights_hash(resumed.state.model) == weights_hash(whole.state.model)


def test_a_guessing_teacher_of_a_training_that_resumes_after_its_last_batch_is_said_so(tmp_path: Path) -> None:
    options = {'epochs': '1ep', 'save_interval': '3ba'}
    trainer, _ = make_trainer([Distillation([Teacher.live(net(77), name='gen0')])], folder=tmp_path, **options)
    trainer.fit()
    trainer.close()
    with Lines() as lines:
        again, _ = make_trainer(
            [Distillation([Teacher.live(net(77), name='gen0')])], load=tmp_path / 'ep0-ba6-rank0.pt', **options
        )
        again.fit()
        again.close()
    assert ["teacher 'gen0' is at chance level" in line and '10 classes' in line for line in lines] == [True]
