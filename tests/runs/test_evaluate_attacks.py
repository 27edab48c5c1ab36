"""AdversarialRecycling and ``evaluate.attacks`` in a YAML, and the command that attacks saved weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from composer_kd import Archive
from composer_kd.archive import RunDir, verify
from composer_kd.callbacks.evaluate_attacks import make_attack
from composer_kd.cli import main as command
from composer_kd.core.errors import UserError
from composer_kd.data.convert import convert
from composer_kd.run import main
from composer_kd.runs.evaluate_attacks import attack_run
from composer_kd.runs.plan import make_plan
from composer_kd.storage.jsonl import read_lines, rewrite_lines
from tests.runs.common import TINY, write_yaml

torch.set_num_threads(1)

MADE = {'algorithms': {'AdversarialRecycling': {'epsilon': 6}}, 'archive': {'adversarial': True}}
LINEAGE = {
    'replayed': {'algorithms': {'AdversarialRecycling': {'mode': 'replay', 'from': 'made', 'share': 0.5}}},
    'made': {**MADE, 'evaluate': {'attacks': {'pgd': [{'steps': 3}, {'norm': 'l2', 'epsilon': 60}], 'subset': 40}}},
    'tested': {'evaluate': {'attacks': {'pgd': [{'steps': 1}], 'splits': ['test'], 'subset': None}}},
}


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('trained')
    assert main([str(write_yaml(folder, lineage=LINEAGE, max_duration='2ep')), '--no-report']) == 0
    return folder / 'runs'


def refused(lineage: dict, line: str) -> None:
    with pytest.raises(UserError) as error:
        make_plan({**TINY, 'lineage': lineage})
    assert line in str(error.value)


def test_examples_of_one_run_are_replayed_by_the_next(trained: Path) -> None:
    archive = Archive(trained / 'made')
    archive.check()
    metadata = archive.metadata('adversarial', 0)
    assert metadata['epsilon'] == 6
    assert metadata['weights'] == archive.manifest().weights.hash  # type: ignore[union-attr]
    assert metadata['seen'] >= 448, 'of 500 samples those that two epochs of whole batches met'
    made, replayed = (RunDir(trained / name).metrics()[-1] for name in ('made', 'replayed'))
    assert made['images_attacked_total'] == 2 * 448
    assert made['multiply_adds_attack_total'] * 3 == made['multiply_adds_student_total'] * 2
    assert replayed['images_attacked_total'] == replayed['multiply_adds_attack_total'] == 0
    assert 0 < replayed['images_replayed_total'] < 2 * 448
    assert replayed['adversarial_loss'] > 0
    algorithms = RunDir(trained / 'replayed').read_config()['algorithms']
    assert algorithms['AdversarialRecycling']['from'] == str(trained / 'made')


def test_robustness_is_a_file_of_the_run(trained: Path) -> None:
    manifest = verify(trained / 'made')
    assert 'attacks.jsonl' in manifest.files
    lines = read_lines(trained / 'made' / 'attacks.jsonl')
    assert [(line['split'], line['steps'], line['norm']) for line in lines] == [
        ('val', 3, 'linf'), ('val', 20, 'l2'), ('test', 3, 'linf'), ('test', 20, 'l2'),
    ]  # fmt: skip
    assert {line['samples'] for line in lines} == {40}
    assert 'attacks.jsonl' not in verify(trained / 'replayed').files
    (line,) = read_lines(trained / 'tested' / 'attacks.jsonl')
    assert (line['split'], line['subset'], line['samples']) == ('test', None, 200)


def test_what_a_finished_run_lacks_is_measured_by_its_saved_weights(tmp_path: Path) -> None:
    attacks = [{'steps': 3}, {'norm': 'l2', 'steps': 2}]

    def measured(wanted: dict | None) -> list[dict]:
        one = {} if wanted is None else {'evaluate': {'attacks': wanted}}
        options = {'lineage': {'one': one}, 'max_duration': '1ep'}
        assert main([str(write_yaml(tmp_path, **options)), '--no-report']) == 0
        verify(tmp_path / 'runs' / 'one')
        lines = read_lines(tmp_path / 'runs' / 'one' / 'attacks.jsonl')
        return [{key: value for key, value in line.items() if key != 'seconds'} for line in lines]

    at_its_end = measured({'pgd': attacks, 'subset': 40})
    assert [line['epsilon'] for line in at_its_end] == [8.0, 128.0] * 2
    assert measured({'pgd': attacks, 'subset': 40}) == at_its_end, 'nothing is measured twice'
    # As a kill leaves it that comes in the middle of measuring: the lines that were not written are made up for.
    run = RunDir(tmp_path / 'runs' / 'one')
    rewrite_lines(run.path / 'attacks.jsonl', read_lines(run.path / 'attacks.jsonl')[:1])
    Archive(run).update(lambda m: m.model_copy(update={'files': without(m.files, 'attacks.jsonl')}))
    assert measured({'pgd': attacks, 'subset': 40}) == at_its_end
    # And as one leaves them that comes before the manifest could name the file.
    Archive(run).update(lambda m: m.model_copy(update={'files': without(m.files, 'attacks.jsonl')}))
    assert measured({'pgd': attacks, 'subset': 40}) == at_its_end
    assert 'attacks.jsonl' in verify(run.path).files
    more = measured({'pgd': [*attacks, {'steps': 1}], 'subset': 40})
    assert more[:4] == at_its_end
    assert [(line['split'], line['steps']) for line in more[4:]] == [('val', 1), ('test', 1)]
    assert [line['samples'] for line in measured({'pgd': attacks[:1], 'subset': 20})[6:]] == [20, 20]
    # The test split alone, and what the way of a training would have been measured on.
    way = {'interval': '1ep', 'interval_subset': 30, 'interval_attacks': 1}
    lines = measured({'pgd': attacks, 'splits': ['test'], 'subset': 40, **way})[8:]
    assert [(line['split'], line['steps'], line['samples']) for line in lines] == [('test', 3, 30)]


def without(files: dict, name: str) -> dict:
    return {key: value for key, value in files.items() if key != name}


@pytest.mark.parametrize('library', ['own', 'foolbox'])
def test_the_command_attacks_saved_weights(library: str, trained: Path, tmp_path: Path, capsys) -> None:
    if library == 'foolbox':
        pytest.importorskip('foolbox', reason='foolbox is not installed (extra: adversarial)')
    out = tmp_path / 'attack.json'
    words = ['evaluate', str(trained / 'made'), str(trained / 'replayed'), '--steps', '5', '--subset', '60']
    assert command([*words, '--attacks', library, '--json', str(out), '--device', 'cpu']) == 0
    document = json.loads(out.read_text())
    assert (document['format'], document['version']) == ('composer_kd.attack', 1)
    one, other = document['runs']
    assert one['weights'] == verify(trained / 'made').weights.hash  # type: ignore[union-attr]
    assert (one['samples'], one['epsilon'], one['steps'], one['step_size']) == (60, 8.0, 5, 2.0)
    assert 0 <= one['robust_accuracy'] <= one['accuracy'] <= 1
    assert one['library'].startswith(library)
    assert other['run'] == str(trained / 'replayed')
    assert 'robust, %' in capsys.readouterr().out


@pytest.fixture(scope='module')
def robust_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes in noise, far enough apart for a model that withstands an attack more often than not."""
    folder = tmp_path_factory.mktemp('robust')
    drawn = np.random.default_rng(1)
    prototypes, labels = drawn.choice([-12, 12], (3, 8, 8, 3)), drawn.integers(0, 3, 1000)
    images = (127 + prototypes[labels] + drawn.normal(0, 60, (1000, 8, 8, 3))).clip(0, 255).round().astype(np.uint8)
    np.savez(folder / 'three.npz', images=images, labels=labels, split=(np.arange(1000) >= 600).astype(np.uint8))
    convert(str(folder / 'three.npz'), folder / 'shards')
    options = {
        'data': {'source': str(folder / 'shards'), 'augment': False},
        'lineage': {'robust': {'algorithms': {'AdversarialRecycling': {'mode': 'fresh', 'steps': 3}}}},
        'max_duration': '4ep',
    }
    assert main([str(write_yaml(folder, **options)), '--no-report']) == 0
    return folder / 'runs' / 'robust'


@pytest.mark.parametrize('options', [{'steps': 10}, {'steps': 10, 'norm': 'l2', 'epsilon': 100}], ids=['linf', 'l2'])
def test_own_and_foolboxs_attacks_find_the_same(options: dict, robust_run: Path) -> None:
    pytest.importorskip('foolbox', reason='foolbox is not installed (extra: adversarial)')
    attack = make_attack(options)
    own, theirs = (attack_run(robust_run, attack, library) for library in ('own', 'foolbox'))
    assert own['samples'] == theirs['samples'] == 400
    assert own['accuracy'] == theirs['accuracy'] > 0.8
    # A number that a wrong attack would miss: many samples fall, and many do not.
    assert 0.25 < theirs['robust_accuracy'] < own['accuracy'] - 0.25
    # Other random starts.
    assert own['robust_accuracy'] == pytest.approx(theirs['robust_accuracy'], abs=0.01)
    weaker = attack_run(robust_run, make_attack({**options, 'steps': 1, 'step_size': attack.step_size}))
    assert weaker['robust_accuracy'] > own['robust_accuracy'] + 0.05, 'an attack that does less is told apart'


def test_autoattack_is_asked_for_no_more_classes_than_there_are(
    trained: Path, robust_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in with that library's parts, which are not on PyPI: what it is given, and what comes back."""
    given: dict[str, Any] = {}

    class AutoAttack:
        def __init__(self, forward, **options):
            given.update(options, forward=forward)
            self.apgd_targeted, self.fab = SimpleNamespace(n_target_classes=9), SimpleNamespace(n_target_classes=9)
            given['targeted'] = (self.apgd_targeted, self.fab)

        def run_standard_evaluation(self, images, labels, bs):
            assert 0 <= float(images.min()) <= float(images.max()) <= 1
            given['right'] = (given['forward'](images).argmax(dim=1) == labels).float().mean().item()
            return images

    monkeypatch.setitem(sys.modules, 'autoattack', SimpleNamespace(AutoAttack=AutoAttack))
    monkeypatch.setattr('composer_kd.runs.evaluate_attacks.metadata.version', lambda name: '0.1')
    found = attack_run(trained / 'made', make_attack({'epsilon': 8}), 'autoattack')
    assert found['library'] == 'autoattack 0.1'
    classes = RunDir(trained / 'made').manifest().data.num_classes
    assert [one.n_target_classes for one in given['targeted']] == [min(9, classes - 1)] * 2
    assert (given['eps'], given['norm'], given['version']) == (8 / 255, 'Linf', 'standard')
    assert found['robust_accuracy'] == found['accuracy'] == pytest.approx(given['right'])
    with pytest.raises(UserError, match='autoattack compares the first four classes, and the data has 3'):
        attack_run(robust_run, make_attack({'epsilon': 8}), 'autoattack')


@pytest.mark.parametrize(
    ('words', 'line'),
    [
        ([], 'evaluate: under what? give --drifts, --attacks or both'),
        (['--drifts', '--epsilon', '8'], '--epsilon: this is of attacks; give --attacks too'),
        (['--attacks', '--severities', '1'], '--severities: these are of drifts; give --drifts too'),
        (['--attacks', '--epsilon', '0.03'], 'epsilon: pixels go from 0 to 255'),
        (['--attacks', '--steps', '0'], 'steps: expected a whole number from 1 on'),
        (['--attacks', '--subset', '0'], 'subset: a whole number from 1 on, got 0'),
        (['--attacks', 'autoattack'], 'autoattack is not installed'),
        (['--attacks', 'autoattack', '--steps', '20'], '--steps: autoattack chooses its own; leave it out'),
        (['--attacks', 'autoattack', '--step-size', '2'], '--step-size: autoattack chooses its own; leave it out'),
    ],
)
def test_a_wrong_command_is_one_line(words: list[str], line: str, trained: Path, capsys) -> None:
    assert command(['evaluate', str(trained / 'made'), *words]) == 1
    said = capsys.readouterr().err
    assert line in said
    assert said.count('\n') == 1


def test_what_a_plan_refuses() -> None:
    refused(
        {
            'made': None,
            'next': {'algorithms': {'AdversarialRecycling': {'mode': 'replay', 'from': 'made'}}},
        },
        "lineage.next.algorithms.AdversarialRecycling.from: 'made' makes no adversarial examples; give that run",
    )
    refused(
        {'made': MADE, 'next': {'algorithms': {'AdversarialRecycling': {'mode': 'replay', 'from': 'mode'}}}},
        "lineage.next.algorithms.AdversarialRecycling.from: 'mode' is neither a run of this file nor a run directory",
    )
    refused(
        {'one': {'algorithms': {'AdversarialRecycling': {'mode': 'replay'}}}},
        "lineage.one.algorithms.AdversarialRecycling: from: mode 'replay' needs",
    )
    refused(
        {'one': {'algorithms': {'AdversarialRecycling': {'source': 'made'}}}},
        'lineage.one.algorithms.AdversarialRecycling',
    )
    refused(
        {'one': {'algorithms': {'AdversarialRecycling': {'epsilon': 300}}}},
        'lineage.one.algorithms.AdversarialRecycling: epsilon: 300',
    )
    refused({'one': {'archive': {'adversarial': True}}}, 'archive.adversarial: this run makes no adversarial examples')
    refused({'one': {'evaluate': {'attacks': {'pgd': [{'steps': 0}]}}}}, 'lineage.one.evaluate.attacks.pgd.0')
    refused({'one': {'evaluate': {'attacks': {'interval': '5'}}}}, 'lineage.one.evaluate.attacks.interval')
    refused(
        {'one': {'evaluate': {'attacks': {'interval_subset': 5}}}}, 'interval_subset is of what is measured on the way'
    )
    unvalidated = {'data': {'val_fraction': 0}, 'evaluate': {'attacks': {'splits': ['val']}}}
    refused(
        {'one': unvalidated}, "lineage.one.evaluate: attacks.splits: data.val_fraction is 0, so that there is no 'val'"
    )
    assert make_plan({**TINY, 'lineage': {'one': {'evaluate': {'attacks': {'splits': ['val']}}}}})
    crops = {'data': {**TINY['data'], 'augment': 'resized_crop'}}
    refused(
        {'one': {'algorithms': {'AdversarialRecycling': {}}, **crops}},
        'lineage.one.algorithms.AdversarialRecycling: the views of resized_crop do not show',
    )
    mixed = {'algorithms': {'AdversarialRecycling': {}, 'MixUp': {}}}
    refused({'one': mixed}, 'lineage.one.algorithms.AdversarialRecycling: MixUp is in the same Trainer')
    recorded = {'archive': {'logits': {'views': 1}}, 'data': {**TINY['data'], 'views': 1}}
    taught = {
        'algorithms': {'Distillation': {'teachers': [{'recorded': 'one'}]}, 'AdversarialRecycling': {}},
        'data': recorded['data'],
    }
    refused(
        {'one': recorded, 'two': taught},
        "lineage.two.algorithms.Distillation.teachers: 'one' is looked up, which answers to the image that a key names",
    )
    clean = {**taught, 'algorithms': {**taught['algorithms'], 'AdversarialRecycling': {'teachers_see': 'clean'}}}
    assert make_plan({**TINY, 'lineage': {'one': recorded, 'two': clean}})
    refused(
        {'one': {'algorithms': {'AdversarialRecycling': {'teachers_see': 'clear'}}}},
        "lineage.one.algorithms.AdversarialRecycling.teachers_see: should be 'shown' or 'clean', got 'clear'",
    )
    larger = {'algorithms': {'AdversarialRecycling': {'from': 'made'}}, 'data': {**TINY['data'], 'image_size': 16}}
    refused({'made': MADE, 'next': larger}, "the examples of 'made' are of images with data.image_size: None")
