"""Every YAML that comes with the package says something that can be done."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from composer_kd.runs.plan import make_plan
from composer_kd.runs.yaml_file import read_yaml, shipped_yamls

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize('name', shipped_yamls())
def test_makes_a_plan(name: str) -> None:
    plan = make_plan(read_yaml(shipped_yamls()[name]), name)
    assert plan.runs


OF_ONE_COMMAND = sorted(name for name in shipped_yamls() if '/' not in name and not name.startswith('kd'))


@pytest.mark.slow
@pytest.mark.parametrize('name', OF_ONE_COMMAND)
def test_a_methods_file_runs_to_its_report(name: str, tmp_path: Path) -> None:
    small = ['data.synthetic.train_size=300', 'data.synthetic.test_size=100', 'max_duration=2ep', 'batch_size=64']
    command = [sys.executable, '-m', 'composer_kd.run', name, f'save_folder={tmp_path}', *small]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = make_plan(read_yaml(shipped_yamls()[name]), name)
    page = (tmp_path / 'report.html').read_text()
    assert all(run.arm in page for run in plan.runs)
    assert len(list(tmp_path.glob('*/weights.safetensors'))) == len(plan.runs)


STUDIED = {'all': 'always', 'every10': 'every 10ep', 'first20': 'first 20ep'}


@pytest.mark.parametrize(('name', 'schedule'), STUDIED.items())
def test_the_studies_differ_from_their_baseline_in_the_method_alone(name: str, schedule: str) -> None:
    baseline = make_plan(read_yaml(shipped_yamls()['cifar100/baseline.yaml'])).runs
    taught = [run for run in make_plan(read_yaml(shipped_yamls()[f'cifar100/kd_{name}.yaml'])).runs if run.teachers]
    assert [run.config.seed for run in taught] == [run.config.seed for run in baseline]
    for student, alone in zip(taught, baseline, strict=True):
        assert len(student.teachers) == 3
        assert student.config.algorithms['TeacherMixupKD']['schedule'] == schedule
        assert student.config.model_copy(update={'algorithms': {}}) == alone.config


def test_the_study_of_curricula_differs_from_its_baseline_in_the_curriculum_alone() -> None:
    baseline = make_plan(read_yaml(shipped_yamls()['cifar100/baseline.yaml'])).runs
    recorded, *others = make_plan(read_yaml(shipped_yamls()['cifar100/curriculum.yaml'])).runs
    assert recorded.config.archive is not None
    assert recorded.config.archive.losses
    for arm in ('curriculum', 'infobatch', 'rho'):
        runs = [run for run in others if run.arm == arm]
        assert [run.after for run in runs] == [() if arm == 'infobatch' else (recorded.name,)] * 5
        assert [run.config.model_copy(update={'algorithms': {}}) for run in runs] == [run.config for run in baseline]


def test_the_study_of_recorded_teachers_differs_from_live_ones_in_views_and_archives_alone() -> None:
    live = make_plan(read_yaml(shipped_yamls()['cifar100/kd_all.yaml'])).runs
    recorded = make_plan(read_yaml(shipped_yamls()['cifar100/kd_recorded.yaml'])).runs
    for one, other in zip(recorded, live, strict=True):
        views = 4 if one.teachers else None
        assert one.config.data.views == views
        assert (one.config.archive is None) == bool(one.teachers)
        same = {'archive': None, 'algorithms': {}, 'data': one.config.data.model_copy(update={'views': None})}
        assert one.config.model_copy(update=same) == other.config.model_copy(update={'algorithms': {}})


def test_the_fast_one_is_the_baseline_and_five_of_a_fifth_of_its_length() -> None:
    first, *others = make_plan(read_yaml(shipped_yamls()['cifar100/fast.yaml'])).runs
    baseline = make_plan(read_yaml(shipped_yamls()['cifar100/baseline.yaml'])).runs[0].config
    assert first.config.model_copy(update={'seed': baseline.seed}) == baseline
    assert [(run.after, run.config.epochs) for run in others] == [(('gen0',), 40)] * 5
    assert all(run.config.model == baseline.model and run.config.data == baseline.data for run in others)


def options_of(name: str, algorithm: str, option: str, default: str) -> list[str]:
    """What the arms of a file give to an algorithm, in the order of the file."""
    runs = make_plan(read_yaml(shipped_yamls()[name])).runs
    given = [run.config.algorithms[algorithm] for run in runs if algorithm in run.config.algorithms]
    values = [options.get(option, default) for options in given]
    return [value['name'] if isinstance(value, dict) else value for value in values]


def test_files_compare_what_they_and_the_pages_say() -> None:
    losses = options_of('distillation.yaml', 'Distillation', 'loss', 'kl')
    assert losses == ['kl', 'mse', 'dkd', 'dist']
    assert 'by four losses' in shipped_yamls()['distillation.yaml'].read_text().splitlines()[0]
    variants = options_of('born_again_controls.yaml', 'BornAgain', 'method', 'ban')
    assert variants == ['ban', 'ban+l', 'cwtm', 'dkpp']
    assert options_of('born_again.yaml', 'BornAgain', 'method', 'ban') == ['ban', 'ban', 'ban']
    page = (ROOT / 'composer_kd' / 'algorithms' / 'born_again' / 'README.md').read_text()
    assert re.search(r'born_again_controls\.yaml` compares the four variants', page)


def runs_of(name: str) -> dict[str, Any]:
    """The first seed of each arm of a file at the published size."""
    return {
        run.arm: run.config for run in reversed(make_plan(read_yaml(shipped_yamls()[f'cifar100/{name}.yaml'])).runs)
    }


def test_the_recipe_with_adam_is_the_published_one_in_both_readings() -> None:
    runs = runs_of('adam')
    assert set(runs) == {'teacher', 'alone', 'of_samples', 'of_elements'}
    for name in ('of_samples', 'of_elements'):
        options = runs[name].algorithms['Distillation']
        assert options['loss'] == {'name': 'kl', 'average': name.removeprefix('of_')}
        assert (options['temperature'], options['kd_weight'], options.get('label_weight', 1)) == (43.25, 38.21, 1)
    student = runs['alone']
    assert student.optimizer == {'name': 'Adam', 'lr': 1e-3, 'betas': [0.9, 0.999], 'weight_decay': 1e-4}
    assert student.scheduler == {'name': 'multi_step', 'milestones': ['180ep'], 'gamma': 0.1}
    assert (student.max_duration, student.batch_size) == ('200ep', 64)


def test_the_other_studies_at_the_published_size_are_the_published_ones() -> None:
    born_again = runs_of('born_again')
    assert born_again['ban'].model.model_dump(exclude_unset=True) == {'name': 'densenet', 'depth': 112, 'growth': 33}
    methods = {name: run.algorithms['BornAgain']['method'] for name, run in born_again.items() if name[:3] != 'ban'
               and run.algorithms}  # fmt: skip
    assert methods == {'cwtm': 'cwtm', 'dkpp': 'dkpp'}
    assert born_again['ban_with_labels'].algorithms['BornAgain']['method'] == 'ban+l'
    chain = {name: born_again[name].algorithms['BornAgain']['teachers'] for name in ('ban', 'ban1', 'ban2', 'ban3')}
    ends = {name: [Path(teacher).name for teacher in of] for name, of in chain.items()}
    assert ends == {'ban': ['teacher'], 'ban1': ['teacher'], 'ban2': ['ban1'], 'ban3': ['ban2']}

    oracle = runs_of('oracle')
    asked = {
        name: len(next(iter(run.algorithms.values()))['teachers']) for name, run in oracle.items() if run.algorithms
    }
    assert asked == {**{f'average_of_{k}': k for k in (2, 3, 4, 5)}, 'oracle_of_5': 5,
                     'larger_average_of_5': 5, 'larger_oracle_of_5': 5}  # fmt: skip
    assert {oracle['member'].model.name, oracle['oracle_of_5'].model.name} == {'resnet32'}
    assert oracle['larger_oracle_of_5'].model.name == 'resnet110'

    refinery = runs_of('label_refinery')
    assert {run.data.augment.scale[0] for run in refinery.values()} == {0.08}
    assert [name for name, run in refinery.items() if 'LabelRefinery' in run.algorithms] == [
        'mobilenet_refined', 'refined2', 'refined1',
    ]  # fmt: skip

    sizes = {name: run.model.name for name, run in runs_of('takd').items()}
    assert sizes == {'teacher': 'resnet110', 'assistant': 'resnet68', 'alone': 'resnet62', 'kd': 'resnet62',
                     'takd': 'resnet62'}  # fmt: skip


def test_label_refinery_is_shown_with_the_crops_that_it_is_for() -> None:
    page = (ROOT / 'composer_kd' / 'algorithms' / 'label_refinery' / 'README.md').read_text()
    (example,) = re.findall(r'```yaml\n(.*?)```', page, flags=re.DOTALL)
    for runs in (
        make_plan(yaml.safe_load(example)).runs,
        make_plan(read_yaml(shipped_yamls()['label_refinery.yaml'])).runs,
    ):
        assert {run.config.data.augment.name for run in runs} == {'resized_crop'}
