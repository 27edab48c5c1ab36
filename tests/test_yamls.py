"""Every YAML that comes with the package says something that can be done."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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
        assert [run.config.model_copy(update={'curriculum': None}) for run in runs] == [run.config for run in baseline]


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


def test_label_refinery_is_shown_with_the_crops_that_it_is_for() -> None:
    page = (ROOT / 'composer_kd' / 'algorithms' / 'label_refinery' / 'README.md').read_text()
    (example,) = re.findall(r'```yaml\n(.*?)```', page, flags=re.DOTALL)
    for runs in (
        make_plan(yaml.safe_load(example)).runs,
        make_plan(read_yaml(shipped_yamls()['label_refinery.yaml'])).runs,
    ):
        assert {run.config.data.augment.name for run in runs} == {'resized_crop'}
