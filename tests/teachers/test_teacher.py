"""Where teachers come from, what they are asked, and what is refused before they teach."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from composer.models import ComposerClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from composer_kd import Distillation, Teacher, TeacherMixupKD, UserError
from composer_kd.models import classifier, save_weights, weights_hash
from composer_kd.teachers.base import BaseTeacher
from composer_kd.teachers.live import LiveTeacher
from tests.algorithms.common import CLASSES, Spy, images_and_labels, loader, logged, make_trainer, net, trained_net
from tests.teachers.run_directories import MEAN, STD, finished_run

IMAGES, LABELS = images_and_labels()


def target_of(teacher: Teacher, images=IMAGES[:32], **options) -> torch.Tensor:
    """What a teacher says in a real training's first step, as the distillation hears it."""
    heard = []

    def listen(student, target):
        heard.append(target.clone())
        return (student - target).pow(2).mean()

    dataset = options.pop('dataset', TensorDataset(images, LABELS[: len(images)]))
    algorithm = Distillation(teachers=[teacher], loss=listen)
    trainer, _ = make_trainer([algorithm], epochs='1ba', train_dataloader=DataLoader(dataset, 32), **options)
    trainer.fit()
    trainer.close()
    return heard[0]


# -- where they come from ---------------------------------------------------------------------------------------------


def test_a_module_a_classifier_and_a_composer_model_teach_alike() -> None:
    module = trained_net(11)
    with torch.no_grad():
        expected = module(IMAGES[:32])
    for teacher in (
        Teacher.of(copy.deepcopy(module)),
        Teacher.live(copy.deepcopy(module), name='gen0'),
        Teacher.of(classifier(copy.deepcopy(module))),
        Teacher.of(ComposerClassifier(copy.deepcopy(module), num_classes=CLASSES)),
    ):
        assert torch.equal(target_of(teacher), expected)


@pytest.mark.parametrize('kind', ['plain', 'composer', 'safetensors'])
def test_a_checkpoint_teaches_what_its_module_would(kind: str, tmp_path: Path) -> None:
    trainer, _ = make_trainer([], epochs='1ep', folder=tmp_path)
    trainer.fit()
    trainer.close()
    module = trainer.state.model.module
    path = tmp_path / f'{kind}.pt'
    if kind == 'composer':
        path = tmp_path / 'ep1-ba6-rank0.pt'
    elif kind == 'plain':
        torch.save(module.state_dict(), path)
    else:
        path = tmp_path / 'weights.safetensors'
        save_weights(module, path)
    teacher = Teacher.from_checkpoint(path, model=lambda: net(3), trust_pickle=path.suffix == '.pt')
    assert isinstance(teacher, LiveTeacher)
    assert teacher.name == path.stem
    assert weights_hash(teacher.module) == weights_hash(module)
    with torch.no_grad():
        assert torch.equal(target_of(teacher), module.eval()(IMAGES[:32]))


class Normalised(TensorDataset):
    """Data that says, as ours does, which normalisation its batches come with."""

    def __init__(self, *tensors, normalization):
        super().__init__(*tensors)
        self.normalization = normalization


def test_a_run_directory_teaches_with_the_normalisation_that_it_was_trained_with(tmp_path: Path) -> None:
    module = finished_run(tmp_path / 'gen0')
    raw = torch.rand(32, 3, 8, 8)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        expected = module((raw - mean) / std)
    # The student's data is normalised otherwise: (x - 0.1) / 0.7.
    images = (raw - 0.1) / 0.7
    dataset = Normalised(images, LABELS[:32], normalization=([0.1] * 3, [0.7] * 3))
    teacher = Teacher.of(tmp_path / 'gen0')
    assert teacher.name == 'gen0'
    torch.testing.assert_close(target_of(teacher, dataset=dataset), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(module(images), expected, atol=0.1), 'the trap would not show'
    # And bit for bit where both agree: nothing is converted there and back.
    images = (raw - mean) / std
    same = Normalised(images, LABELS[:32], normalization=(MEAN, STD))
    assert torch.equal(target_of(Teacher.of(str(tmp_path / 'gen0')), dataset=same), expected)


def test_a_run_directory_beside_data_of_a_users_own_wants_to_be_told_its_normalisation(tmp_path: Path) -> None:
    module = finished_run(tmp_path / 'gen0')
    with pytest.raises(UserError, match=r'the training data does not say which one.*data_normalization'):
        target_of(Teacher.of(tmp_path / 'gen0'))
    # The remedy that the line names must be there to take.
    images = (torch.rand(32, 3, 8, 8) - 0.1) / 0.7
    teacher = Teacher.from_run(tmp_path / 'gen0', data_normalization=([0.1] * 3, [0.7] * 3))
    raw = images * 0.7 + 0.1
    with torch.no_grad():
        expected = module((raw - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))
    torch.testing.assert_close(target_of(teacher, images=images), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    'wrap', [lambda m: m, lambda m: ComposerClassifier(m, num_classes=CLASSES)], ids=['plain', 'composer']
)
def test_a_modules_own_normalisation(wrap) -> None:
    module = trained_net(11)
    raw = torch.rand(32, 3, 8, 8)
    with torch.no_grad():
        expected = module((raw - 0.5) / 0.25)
    teacher = Teacher.live(
        wrap(copy.deepcopy(module)),
        normalization=([0.5] * 3, [0.25] * 3),
        data_normalization=([0.2, 0.3, 0.4], [1.0, 2.0, 3.0]),
    )
    images = (raw - torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)) / torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    torch.testing.assert_close(target_of(teacher, images=images), expected, atol=1e-5, rtol=1e-5)


def test_a_normalisation_without_spread_is_refused() -> None:
    teacher = Teacher.live(trained_net(11), normalization=([0.5], [0.0]), data_normalization=([0.5], [1.0]))
    with pytest.raises(UserError, match='std above 0'):
        target_of(teacher)


# -- how they are asked -----------------------------------------------------------------------------------------------


def test_bf16_on_the_cpu_follows_the_student() -> None:
    module = trained_net(11)
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
        expected = module(IMAGES[:32]).float()
    student = net(1)
    options = {'student': student, 'model': classifier(student, cpu_autocast=True)}
    heard = target_of(Teacher.of(copy.deepcopy(module)), **options)
    assert heard.dtype == torch.float32
    assert torch.equal(heard, expected)
    with torch.no_grad():
        assert not torch.equal(heard, module(IMAGES[:32]))


def test_channels_last_follows_the_student() -> None:
    module = trained_net(11)
    layouts = []
    module[0].register_forward_pre_hook(
        lambda _, inputs: layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    student = net(1)
    target_of(Teacher.of(module), student=student, model=classifier(student, channels_last=True))
    assert layouts
    assert all(layouts)


@pytest.mark.parametrize('loss', ['soft_ce', 'kl', 'mse', 'hard'])
def test_every_loss_goes_backward_through_what_a_teacher_says(loss: str) -> None:
    # Under inference_mode, soft cross-entropy could not save the target for its backward pass.
    student = net(1)
    before = weights_hash(student)
    trainer, log = make_trainer([Distillation([trained_net(11)], loss=loss)], student=student, epochs='2ba')
    trainer.fit()
    trainer.close()
    assert logged(log, 'loss/train/distill')[0] > 0
    assert weights_hash(student) != before


def test_a_teacher_answers_without_gradients_but_not_in_inference_mode() -> None:
    # What inference mode makes cannot be saved for a backward pass; a mix that hands it on as it is would fail there.
    modes = []
    teacher = trained_net(11)
    teacher.register_forward_hook(lambda *_: modes.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled())))
    target_of(Teacher.of(teacher))
    assert modes == [(False, False)]


def test_teachers_stay_in_eval_mode_and_unchanged_while_the_student_trains() -> None:
    spy = Spy(trained_net(11)).train()  # Handed over in train mode: a common mistake.
    before = weights_hash(spy)
    trainer, _ = make_trainer([TeacherMixupKD([spy])], epochs='2ep', evaluate=True)
    trainer.fit()
    trainer.close()
    assert spy.calls == 12
    assert not any(spy.modes)
    assert weights_hash(spy) == before, 'BatchNorm has counted along'
    assert all(p.grad is None and not p.requires_grad for p in spy.parameters())
    assert spy.inputs[0].requires_grad is False


@pytest.mark.parametrize('part', [lambda spy: spy, lambda spy: spy.module[1]], ids=['whole', 'BatchNorm alone'])
def test_a_teacher_put_in_train_mode_on_the_way_is_refused(part) -> None:
    spy = Spy(trained_net(11))
    trainer, _ = make_trainer([TeacherMixupKD([Teacher.live(spy, name='gen0')])], epochs='1ep')
    part(spy).train()
    with pytest.raises(UserError, match="teacher 'gen0' was put in train mode while it taught"):
        trainer.fit()
    trainer.close()


SCRIPTED = {
    'script': torch.jit.script,
    'trace': lambda module: torch.jit.trace(module, IMAGES[:4]),
    'frozen': lambda module: torch.jit.freeze(torch.jit.script(module)),
    'a part': lambda module: nn.Sequential(torch.jit.script(module)),
}


@pytest.mark.parametrize('channels_last', [False, True], ids=['', 'channels_last'])
@pytest.mark.parametrize('script', SCRIPTED.values(), ids=SCRIPTED.keys())
def test_a_torchscript_module_teaches_what_its_source_would(script, channels_last: bool) -> None:
    module, student = trained_net(11), net(1)
    with torch.no_grad():
        expected = module(IMAGES[:32])
    teacher = Teacher.live(script(copy.deepcopy(module)), name='gen0')
    assert isinstance(teacher, LiveTeacher)
    before = weights_hash(teacher.module)
    heard = target_of(teacher, student=student, model=classifier(student, channels_last=channels_last))
    torch.testing.assert_close(heard, expected, rtol=1e-5, atol=1e-5)
    assert weights_hash(teacher.module) == before
    assert not any(p.requires_grad for p in teacher.module.parameters())
    assert teacher.multiply_adds((3, 8, 8)) > 10_000


def test_a_torchscript_module_in_train_mode_and_one_that_does_not_fit_are_refused() -> None:
    module = torch.jit.script(trained_net(11))
    trainer, _ = make_trainer([TeacherMixupKD([Teacher.live(module, name='gen0')])], epochs='1ep')
    list(module.children())[1].train()
    with pytest.raises(UserError, match="teacher 'gen0' was put in train mode while it taught"):
        trainer.fit()
    trainer.close()
    misfit = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(5, CLASSES)))
    one_line(lambda: target_of(Teacher.of(misfit)), 'cannot be run on this batch', 'shapes cannot be multiplied')


class Fails(nn.Module):
    def __init__(self, message: str):
        super().__init__()
        self.message = message

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(self.message)


@pytest.mark.parametrize(
    'message', ['cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if', 'CUDA out of memory. Tried']
)
def test_what_composer_mends_by_smaller_microbatches_passes_through(message: str) -> None:
    with pytest.raises(RuntimeError) as raised:
        target_of(Teacher.of(Fails(message)))
    assert str(raised.value) == message
    assert not isinstance(raised.value, UserError)
    one_line(
        lambda: target_of(Teacher.of(Fails('no such thing\nat all'))), 'cannot be run on this batch: no such thing;'
    )


# -- what is refused at once ------------------------------------------------------------------------------------------


def test_a_teacher_that_is_the_student_is_refused() -> None:
    student = net(1)
    with pytest.raises(UserError, match=r"teacher 'Sequential' shares weights with the student.*deep-copy"):
        make_trainer([TeacherMixupKD([student])], student=student)
    assert all(p.requires_grad for p in student.parameters())


def test_a_teacher_that_shares_a_layer_with_the_student_is_refused() -> None:
    student = net(1)
    teacher = nn.Sequential(*net(2)[:-1], student[-1])
    with pytest.raises(UserError, match='shares weights with the student'):
        make_trainer([TeacherMixupKD([teacher])], student=student)


def test_teacher_parameters_in_the_optimizer_are_refused() -> None:
    student, teacher = net(1), trained_net(11)
    optimizer = torch.optim.SGD([*student.parameters(), *teacher.parameters()], lr=0.1)
    trainer, _ = make_trainer([TeacherMixupKD([teacher])], student=student, optimizers=optimizer)
    with pytest.raises(UserError, match="the optimizer holds parameters of teacher 'Sequential'"):
        trainer.fit()
    trainer.close()


@pytest.mark.parametrize('teacher', [None, 3, ['runs/gen0'], lambda x: x], ids=('None', 'number', 'list', 'function'))
def test_what_is_no_teacher_is_refused(teacher) -> None:
    with pytest.raises(UserError, match='is not a teacher; give a module, the path of a run directory'):
        TeacherMixupKD([teacher])


def test_no_teachers_are_refused() -> None:
    with pytest.raises(UserError, match='teachers is empty; give at least one'):
        TeacherMixupKD([])


def one_line(act, *parts: str) -> None:
    with pytest.raises(UserError) as refused:
        act()
    line = str(refused.value)
    assert '\n' not in line
    for part in parts:
        assert part in line, line


def test_wrong_paths_are_refused_in_one_line_each(tmp_path: Path) -> None:
    file = tmp_path / 'weights.pt'
    torch.save(net(1).state_dict(), file)
    one_line(lambda: Teacher.of(file), f'{str(file)!r} is a file', 'Teacher.from_checkpoint(')
    one_line(lambda: Teacher.of(str(tmp_path / 'gen7')), str(tmp_path / 'gen7'), 'no such run directory')
    (tmp_path / 'empty').mkdir()
    one_line(lambda: Teacher.of(tmp_path / 'empty'), str(tmp_path / 'empty'), 'not a run directory')
    one_line(lambda: Teacher.from_checkpoint(tmp_path / 'no.pt', model=lambda: net(1)), 'no.pt', 'no such file')
    one_line(lambda: Teacher.from_checkpoint(file, model=net(1)), 'model is a function that makes the module')
    one_line(
        lambda: Teacher.from_checkpoint(file, model=lambda: net(1)), str(file), 'may be a pickle', 'trust_pickle: true'
    )
    for model, line in (
        (lambda: net(1, classes=7), 'has 10 classes, the model 7'),
        (lambda: nn.Linear(3, 4), 'not weights of this model'),
    ):
        one_line(lambda make=model: Teacher.from_checkpoint(file, model=make, trust_pickle=True), str(file), line)


def test_damaged_run_directories_are_refused_in_one_line_each(tmp_path: Path) -> None:
    run = tmp_path / 'gen0'
    finished_run(run)
    weights = (run / 'weights.safetensors').read_bytes()
    (run / 'weights.safetensors').unlink()
    one_line(lambda: Teacher.of(run), str(run), 'weights.safetensors')
    flipped = bytearray(weights)
    flipped[-5] ^= 1
    (run / 'weights.safetensors').write_bytes(flipped)
    one_line(lambda: Teacher.of(run), 'weights.safetensors', 'damaged')
    (run / 'weights.safetensors').write_bytes(weights[:-100])
    one_line(lambda: Teacher.of(run), 'weights.safetensors')
    (run / 'weights.safetensors').write_bytes(weights)
    Teacher.of(run)
    manifest = run / 'archive' / 'manifest.json'
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), 'weights': None, 'xxh3': None}))
    one_line(lambda: Teacher.of(run), str(run), 'has not finished')
    manifest.unlink()
    one_line(lambda: Teacher.of(run), 'has not finished')


def test_a_run_on_a_remote_teaches_like_one_that_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('COMPOSER_KD_CACHE', str(tmp_path / 'cache'))
    run = tmp_path / 'bucket' / 'gen0'
    module = finished_run(run)
    teacher = Teacher.from_run(f'file://{run}')
    assert teacher.name == 'gen0'
    assert isinstance(teacher, LiveTeacher)
    assert all(torch.equal(a, b) for a, b in zip(teacher.module.parameters(), module.parameters(), strict=True))
    assert isinstance(Teacher.of(f'file://{run}'), BaseTeacher)


def test_several_of_one_name_are_told_apart() -> None:
    algorithm = TeacherMixupKD([trained_net(11), trained_net(12), Teacher.live(trained_net(13), name='gen0')])
    assert [teacher.name for teacher in algorithm.teachers] == ['Sequential-0', 'Sequential-1', 'gen0']
    trainer, log = make_trainer([algorithm], epochs='1ba')
    trainer.fit()
    trainer.close()
    assert {name for name in log.data if name.startswith('distill/teacher_accuracy/')} == {
        f'distill/teacher_accuracy/{teacher.name}' for teacher in algorithm.teachers
    }


def test_loader_is_plain() -> None:
    # The tests above are about a user's own (x, y) loader: nothing of ours in it.
    assert [part.shape[1:] for part in next(iter(loader()))] == [(3, 8, 8), ()]
