"""compile: what reaches torch.compile, what is refused, and that a compiled training is measured, saved and resumed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from composer_kd import Teacher, TeacherMixupKD
from composer_kd.algorithms import Distillation
from composer_kd.archive import RunDir
from composer_kd.callbacks import Measures
from composer_kd.core.errors import UserError
from composer_kd.core.options import parse_section
from composer_kd.models import multiply_adds, plain
from composer_kd.runs.build import build_trainer
from composer_kd.runs.config import RunConfig, compile_options
from composer_kd.runs.execute import execute
from composer_kd.runs.plan import make_plan
from composer_kd.runs.progress import RunProgress
from composer_kd.teachers.live import LiveTeacher
from tests.algorithms.common import images_and_labels, make_trainer, net, trained_net
from tests.runs.common import TINY

RUN = {key: value for key, value in TINY.items() if key not in ('name', 'lineage')}


def config(**changes: Any) -> RunConfig:
    return parse_section(RunConfig, {**RUN, **changes}, '')


@pytest.mark.parametrize(
    ('written', 'options'),
    [
        (None, None),
        (False, None),
        (True, {}),
        ({'mode': 'reduce-overhead'}, {'mode': 'reduce-overhead'}),
        ({'backend': 'aot_eager', 'dynamic': False}, {'backend': 'aot_eager', 'dynamic': False}),
        ({'options': {'triton.cudagraphs': True}}, {'options': {'triton.cudagraphs': True}}),
    ],
)
def test_what_torch_compile_gets(written: Any, options: dict[str, Any] | None) -> None:
    said: list[str] = []
    section = config(compile=written).compile
    assert compile_options(section, True, said.append) == options
    assert not said
    assert compile_options(section, False, said.append) is None
    assert said == ([] if options is None else ['compile: there is no GPU here, so the model runs as it is'])


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'compile': True, 'device': 'cpu'}, r'^compile: .*device is cpu; leave it out'),
        ({'compile': {'mod': 'default'}}, r"^compile\.mod: unknown key; did you mean 'mode'"),
        ({'compile': {'mode': 'fast'}}, r'^compile\.mode: '),
        ({'compile': {'mode': 'default', 'options': {}}}, r'^compile\.options: .*mode or options'),
        ({'compile': 'yes'}, r'^compile: '),
    ],
)
def test_refusals_are_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        config(**values)
    assert '\n' not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_the_model_is_left_as_it_is_and_that_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    built = build_trainer(config(compile=True), RunDir(tmp_path / 'run'), say=said.append)
    built.trainer.close()
    assert said == ['compile: there is no GPU here, so the model runs as it is']
    assert 'forward' not in vars(built.model)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')
@pytest.mark.parametrize('mode', ['default', 'reduce-overhead'])
def test_on_a_gpu_student_and_teacher_are_compiled(mode: str, tmp_path: Path) -> None:
    data = {**RUN['data'], 'mode': 'device'}
    execute(
        make_plan({**TINY, 'save_folder': str(tmp_path), 'compile': {'mode': mode}, 'data': data}), RunProgress(False)
    )
    lines = RunDir(tmp_path / 'gen1').metrics()
    assert [line['epoch'] for line in lines] == [1, 2, 3]
    assert 0 < lines[-1]['seconds_teacher'] < lines[-1]['seconds_train']


# -- compiled trainings, through a Trainer: aot_eager works without a GPU and rounds as eager does -------------------


class Lines(Measures):
    def __init__(self) -> None:
        self.lines: list[dict] = []
        super().__init__(self.lines.append)


def fit(compiled: bool, **options: Any) -> tuple[torch.nn.Module, list[dict]]:
    torch._dynamo.reset()
    teacher, lines = Teacher.live(trained_net(11)), Lines()
    assert isinstance(teacher, LiveTeacher)
    if compiled:
        teacher.compile(backend='aot_eager')
        options['compile_config'] = {'backend': 'aot_eager'}
    trainer, _ = make_trainer([TeacherMixupKD([teacher])], callbacks=[lines], epochs='2ep', evaluate=True, **options)
    assert ('forward' in vars(trainer.state.model)) == compiled
    trainer.fit()
    trainer.close()
    assert isinstance(trainer.state.algorithms[-1], Distillation)
    return trainer.state.model, lines.lines


def test_a_compiled_training_is_measured_saved_and_resumed_as_any_other(tmp_path: Path) -> None:
    eager, expected = fit(False)
    model, lines = fit(True, folder=tmp_path, save_interval='4ba')
    assert list(model.state_dict()) == list(eager.state_dict()), 'names of weights are those of a model left as it is'
    assert type(plain(model)) is type(plain(eager))
    for one, other in zip(model.parameters(), eager.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    for line, like in zip(lines, expected, strict=True):
        assert line['samples'] == like['samples']
        assert line['loss_total'] == pytest.approx(like['loss_total'], rel=1e-5)
        for key in ('multiply_adds_student_total', 'multiply_adds_teacher_total'):
            assert line[key] == like[key] > 0
    assert lines[-1]['multiply_adds_teacher_total'] == multiply_adds(net(1), (3, 8, 8)) * 2 * 192
    resumed, _ = fit(True, load=tmp_path / 'ep1-ba8-rank0.pt')
    for one, other in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_compiled_teacher_says_what_it_said_and_its_module_stays() -> None:
    torch._dynamo.reset()
    module = trained_net(11)
    teacher = LiveTeacher(module)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    teacher.compile(backend=backend)
    assert teacher.module is module
    batch = images_and_labels()
    module.eval()
    with torch.no_grad():
        assert torch.equal(teacher._forward(batch), module(batch[0]))
    assert len(graphs) == 1
    assert math.isfinite(float(module(batch[0]).sum()))
    assert len(graphs) == 1, 'the module itself is not compiled'
