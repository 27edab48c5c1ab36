"""What was recorded, what looking it up saved, and what recording took: numbers worked out by hand."""

from __future__ import annotations

import json
import shutil

import pytest

from composer_kd.report import report
from tests.report.runs_on_disk import accuracies, record, recorded_lineage, rows, values, write_run

WAY = [0.1, 0.2, 0.3, 0.4]


def train(folder, name, values, *, seed=0, teachers=(), looked_up=0, saved=0.0, computed=0.0, seconds=10.0, **config):
    """One run of 100 G multiply-adds an epoch; what it looked up and what its teachers computed are of an epoch too."""
    records = accuracies(values)
    for epoch, row in enumerate(records, start=1):
        row['seconds_train_total'] = seconds * epoch
        row['multiply_adds_student_total'] = 100e9 * epoch
        row['multiply_adds_teacher_total'] = computed * epoch
        if looked_up:
            row['images_recorded_total'] = looked_up * epoch
            row['multiply_adds_teacher_saved_total'] = saved * epoch
    algorithms = {'Distillation': {'teachers': list(teachers)}} if teachers else {}
    return write_run(folder / f'{name}-s{seed}', records, arm=name, seed=seed, **{'algorithms': algorithms, **config})


def table(made, beginning):
    return rows(made, 'archive', beginning)


def served(folder, *, students=('kd',), values=WAY[1:], teacher='recorded', **options):
    """A scratch run, three views of which were recorded for 4 s and 10 G each, and students that looked them up."""
    scratch = train(folder, 'scratch', WAY)
    record(scratch, views=3, seconds=4.0)
    for name in students:
        train(
            folder, name, values, teachers=[{teacher: str(scratch)}], looked_up=1000, saved=30e9, **options
        )  # fmt: skip
    return scratch


def test_nothing_is_said_where_nothing_was_recorded(tmp_path):
    train(tmp_path, 'scratch', WAY)
    train(tmp_path, 'kd', WAY, teachers=[str(tmp_path / 'scratch-s0')], computed=30e9)
    made = report(tmp_path)
    assert not rows(made, 'archive')
    assert not any('look' in line for line in made.caveats)
    assert '<h2>The archive</h2>' not in made.html()
    assert values(made, 'archive')['kd']['looked_up'] is None


def test_what_was_recorded(tmp_path):
    for seed, views in ((0, 4), (1, 2)):
        run = train(tmp_path, 'scratch', WAY, seed=seed)
        record(run, losses=4, views=views, seconds=3.0, multiply_adds=10e9)
        record(run, views=1, source='training', top_k=10, megabytes=0.4, seconds=0, multiply_adds=0)
    made = report(tmp_path)
    losses, recorded, free, samples = table(made, 'The archive: what was recorded')
    assert (losses['recorded'], losses['tables'], losses['together, MB']) == ('losses', '4', '2.00 ±0.00')
    assert losses['took, s'] == '–', 'a by-product'
    assert recorded['recorded'] == 'logits, recorded afterwards'
    assert recorded['tables'] == '3 ±1'  # 4 and 2, deviation sqrt(2)
    assert (recorded['a table, MB'], recorded['together, MB']) == ('2.00 ±0.00', '6.00 ±2.83')
    assert (recorded['took, s'], recorded['multiply-adds, G']) == ('9.0 ±4.2', '30.00 ±14.14')
    assert (free['recorded'], free['tables'], free['a table, MB']) == (
        'top-10 logits, from training',
        '1',
        '0.40 ±0.00',
    )
    assert free['took, s'] == '0.0 ±0.0'
    assert (samples['recorded'], samples['together, MB']) == ('list of samples', '0.25 ±0.00')


def test_what_was_saved(tmp_path):
    """Per epoch 100 G of student, 30 G looked up, 15 G of a second teacher that computes."""
    served(tmp_path, computed=15e9)
    (row,) = table(report(tmp_path), "The archive: teachers' outputs")
    assert row['looked up, thousand'] == '3.0'
    assert row['multiply-adds saved, G'] == '90.00'
    assert row['not computed, %'] == '66.67'  # 30 of 45
    assert row['less than live, %'] == '20.69'  # 30 of 145


def test_what_a_run_computed_to_fill_is_no_saving(tmp_path):
    scratch = train(tmp_path, 'scratch', WAY)
    record(scratch, views=4, source='fill', multiply_adds=15e9)
    teachers = [{'recorded': str(scratch), 'fill': True}]
    train(tmp_path, 'first', WAY, teachers=teachers, looked_up=1000, saved=30e9, computed=15e9)
    train(tmp_path, 'second', WAY, teachers=teachers, looked_up=1000, saved=30e9)
    made = report(tmp_path)
    first, second = table(made, "The archive: teachers' outputs")
    assert (first['multiply-adds saved, G'], second['multiply-adds saved, G']) == ('60.00', '120.00')
    assert (first['not computed, %'], second['not computed, %']) == ('50.00', '100.00')
    (filled,) = [row for row in table(made, 'The archive: what was') if 'filled' in row['recorded']]
    assert filled['recorded'] == 'logits, filled by students'
    assert filled['multiply-adds, G'] == '60.00'
    (line,) = [line for line in made.caveats if 'fill an archive' in line]
    assert line.startswith('second looked up outputs that other runs computed to fill an archive, for 60\u00a0G')
    assert not [one for one in made.tables if one.title.startswith('Recording counted')], 'there was none'


def test_the_recording_is_counted_whole_and_shared(tmp_path):
    """Three views for 12 s and 30 G; two runs took 3 epochs of 10 s and 100 G."""
    served(tmp_path, students=('kd', 'other'))
    made = report(tmp_path)
    by_arm = {row['arm']: row for row in table(made, 'Recording counted')}
    assert by_arm['kd'] == {
        'arm': 'kd',
        'n': '1',
        'recording, G': '30.00',
        'multiply-adds with it, G': '330.00',
        'with its share, G': '315.00',
        'recording, s': '12.0',
        'training with it, s': '42.0',
        'with its share, s': '36.0',
        'runs that share it': '2',
    }
    assert by_arm['scratch']['multiply-adds with it, G'] == '400.00'
    assert by_arm['scratch']['runs that share it'] == '–'
    found = values(made, 'archive')['kd']
    assert found['recording']['multiply_adds']['share'] == {'mean': 15e9, 'sd': None, 'n': 1}
    assert (found['shared_by_runs'], found['recording_known']) == ([2, 2], True)
    lines = [line for line in made.caveats if 'recorded before' in line]
    assert lines[0].startswith(
        'kd looked up outputs that were recorded before, which took 30\u00a0G multiply-adds and 12\u00a0s'
    )
    assert len(lines) == 2


def test_only_views_that_a_run_could_see_are_its_recording(tmp_path):
    scratch = served(tmp_path, students=('kd',), data={'source': 'synthetic100', 'views': 1})
    train(tmp_path, 'fresh', WAY[:2], teachers=[str(scratch)], looked_up=1000, saved=30e9)
    by_arm = {row['arm']: row for row in table(report(tmp_path), 'Recording counted')}
    assert by_arm['kd']['recording, G'] == '10.00'
    assert by_arm['fresh']['recording, G'] == '20.00', 'two epochs, two views'
    assert by_arm['kd']['with its share, G'] == '305.00'
    assert by_arm['fresh']['with its share, G'] == '215.00', 'view 0 for two, view 1 alone'


def test_a_live_teacher_brings_no_recording(tmp_path):
    scratch = train(tmp_path, 'scratch', WAY)
    record(scratch, views=4)
    train(tmp_path, 'kd', WAY, teachers=[{'live': str(scratch)}], computed=30e9)
    assert not [one for one in report(tmp_path).tables if one.title.startswith('Recording counted')]
    other = train(tmp_path, 'other', WAY)
    record(other, views=1, multiply_adds=5e9)
    both = [{'live': str(scratch)}, {'recorded': str(other)}]
    train(tmp_path, 'both', WAY, teachers=both, computed=30e9, looked_up=1000, saved=30e9)
    by_arm = {row['arm']: row for row in table(report(tmp_path), 'Recording counted')}
    assert (by_arm['both']['recording, G'], by_arm['kd']['recording, G']) == ('5.00', '0.00')


@pytest.mark.parametrize(
    ('seconds', 'claim'),
    [
        (8.0, '40\u00a0% less training time (10\u00a0% less with'),  # 24 s, 36 s with the recording, against 40 s
        (10.0, '25\u00a0% less training time (5\u00a0% more with'),  # 30 s, 42 s
    ],
)
def test_the_headline_claims_no_saving_without_the_recording(tmp_path, seconds, claim):
    served(tmp_path, seconds=seconds)
    made = report(tmp_path, thresholds=[0.4])
    assert made.headline.short == f"Retraining took {claim} the recording of the teachers' outputs)"
    took = f'{3 * seconds + 12:.0f}\u00a0s'
    assert made.headline.detail.endswith(f" With the recording of its teachers' outputs it took {took}.")


def test_the_headline_ranks_arms_with_their_recording_and_tells_of_sharing(tmp_path):
    scratch = served(tmp_path, students=('kd', 'kd2'), seconds=8.0)  # 24 s, 36 with the whole recording, 30 with half
    train(tmp_path, 'live', WAY[1:], teachers=[str(scratch)], computed=30e9, seconds=11.0)  # 33 s
    assert 'live (the cheapest of 3 arms)' in report(tmp_path, thresholds=[0.4]).headline.detail
    train(tmp_path, 'kd3', WAY[2:], teachers=[str(scratch)], looked_up=1000, saved=30e9)  # 20 s, views 0 and 1: 28
    made = report(tmp_path, thresholds=[0.4])
    assert 'kd3 (the cheapest of 4 arms)' in made.headline.detail
    shared = 'it took 28\u00a0s, and 22.7\u00a0s if the runs that used it share it.'
    assert made.headline.detail.endswith(f"With the recording of its teachers' outputs {shared}")


def test_archives_of_runs_that_are_not_here_are_said_to_be_unknown(tmp_path):
    scratch = served(tmp_path)
    scratch.rename(tmp_path / 'elsewhere')
    train(tmp_path, 'plain', WAY)
    made = report([tmp_path / 'plain-s0', tmp_path / 'kd-s0'], thresholds=[0.4])
    counted = "(the recording of the teachers' outputs not counted)"
    assert made.headline.short == f'Retraining took 25\u00a0% less training time {counted}'
    (line,) = [line for line in made.caveats if 'not in this report' in line]
    assert line.startswith('kd looked up outputs in archives of runs')
    assert values(made, 'archive')['kd']['recording_known'] is False
    assert not [one for one in made.tables if one.title.startswith('Recording counted')]


def test_a_teacher_on_a_remote_is_not_the_run_of_its_name_here(tmp_path):
    served(tmp_path)
    train(tmp_path, 'far', WAY, teachers=['s3://bucket/scratch-s0'], looked_up=1000, saved=30e9)
    made = report(tmp_path)
    assert [values(made, 'archive')[name]['recording_known'] for name in ('kd', 'far')] == [True, False]


def test_teachers_are_found_where_a_study_was_moved_to(tmp_path):
    served(tmp_path / 'here')
    (tmp_path / 'here').rename(tmp_path / 'there')
    assert table(report(tmp_path / 'there'), 'Recording counted')[1]['recording, G'] == '30.00'
    # Another run of the same name that is still where the student says is not taken for the one beside it.
    train(tmp_path / 'here', 'scratch', WAY)
    assert values(report(tmp_path / 'there'), 'archive')['kd']['recording_known'] is False


def test_seeds_have_their_own_teachers_and_that_is_no_difference(tmp_path):
    for seed, seconds in ((0, 3.0), (1, 5.0)):
        scratch = train(tmp_path, 'scratch', WAY, seed=seed)
        record(scratch, views=4, seconds=seconds)
        teachers = [{'recorded': str(scratch), 'fill': False}]
        curriculum = {'from': str(scratch), 'start': 0.3}
        train(
            tmp_path, 'kd', WAY, seed=seed, looked_up=1000, saved=30e9,
            algorithms={'Distillation': {'teachers': teachers}, 'LossCurriculum': curriculum},
        )  # fmt: skip
    made = report(tmp_path)
    assert not any('differ' in line for line in made.caveats)
    kd = table(made, 'Recording counted')[1]
    assert kd['recording, s'] == '16.0 ±5.7'
    assert 'runs that share it' not in kd, 'each has its own'
    for seed, start, options in ((2, 0.3, {'fill': True}), (3, 0.5, {'fill': False})):
        teachers = [{'recorded': str(scratch), **options}]
        curriculum = {'from': str(scratch), 'start': start}
        algorithms = {'Distillation': {'teachers': teachers}, 'LossCurriculum': curriculum}
        run = train(tmp_path, 'kd', WAY, seed=seed, looked_up=1, algorithms=algorithms)
        assert 'The runs of kd differ in more than their seed: algorithms.' in report(tmp_path).caveats
        shutil.rmtree(run)


def test_recording_is_no_difference_between_arms_and_a_curriculum_is_what_an_arm_is_about(tmp_path):
    train(tmp_path, 'a', WAY, archive={'losses': True, 'logits': {'views': 4}})
    train(tmp_path, 'b', WAY, archive={'losses': False})
    train(tmp_path, 'c', WAY, algorithms={'LossCurriculum': {'from': str(tmp_path / 'a-s0')}})
    assert not any('differs' in line for line in report(tmp_path).caveats)


def test_an_arm_with_a_curriculum_is_no_baseline_by_itself(tmp_path):
    train(tmp_path, 'a_curriculum', WAY, algorithms={'loss_curriculum': {'from': 'gen0'}})
    train(tmp_path, 'scratch', WAY)
    assert report(tmp_path).summary.baseline.name == 'scratch'
    assert any('trained with a curriculum' in line for line in report(tmp_path, baseline='a_curriculum').caveats)


def test_an_arm_that_starts_warm_is_no_baseline_and_its_seeds_may_start_from_different_runs(tmp_path):
    def config(source: str, shrink: float = 0.4) -> dict:
        return {'algorithms': {'WarmStart': {'from': source, 'shrink': shrink}}}

    for seed in range(2):
        train(tmp_path, 'a_warm', WAY, seed=seed, **config(f'gen0-s{seed}'))
    train(tmp_path, 'scratch', WAY)
    made = report(tmp_path)
    assert made.summary.baseline.name == 'scratch'
    assert not any('differ in' in line or 'differs from' in line for line in made.caveats)
    warned = report(tmp_path, baseline='a_warm').caveats
    assert any('trained with the weights of an earlier run to start from' in line for line in warned)
    train(tmp_path, 'a_warm', WAY, seed=2, **config('gen0-s2', shrink=0.5))
    assert 'The runs of a_warm differ in more than their seed: algorithms.' in report(tmp_path).caveats


def test_epochs_of_different_lengths_are_pointed_out(tmp_path):
    train(tmp_path, 'scratch', WAY)
    short = train(tmp_path, 'curriculum', WAY, algorithms={'LossCurriculum': {'from': 'gen0'}})
    for run, counts in ((tmp_path / 'scratch-s0', [1000] * 4), (short, [300, 500, 800, 1000])):
        rows = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
        lines = [json.dumps({**row, 'samples': samples}) for row, samples in zip(rows, counts, strict=True)]
        (run / 'metrics.jsonl').write_text('\n'.join(lines) + '\n')
    (line,) = [line for line in report(tmp_path).caveats if 'samples' in line]
    assert line == (
        'An epoch of curriculum has 650 samples on average, one of scratch 1,000: '
        'compare time and multiply-adds, not epochs.'
    )


@pytest.mark.parametrize(
    'archive',
    [
        None, 7, [], 'x', {'loss': 3, 'logits': [1]}, {'logits': {'x': {}, '0': None, '1': {}, '2': {'file': 3}}},
        {'samples': {}, 'loss': {'0': {'file': 'a'}}, 'logits': {'0': {'seconds': 'long', 'top_k': True}}},
        {'logits': {'0': {'source': 'model', 'seconds': -1, 'multiply_adds': 10**400}}},
    ],
)  # fmt: skip
def test_strange_manifests_and_teachers_fail_nothing(tmp_path, archive):
    run = train(tmp_path, 'scratch', WAY)
    file = run / 'archive' / 'manifest.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), 'archive': archive, 'files': {'a': {'bytes': '1'}}}))
    strange = [str(run), 'x\0y', 'y' * 5000, '', None, 3, {}, {'recorded': 5}, {'recorded': 's3://bucket/scratch-s0'}]
    train(tmp_path, 'kd', WAY, teachers=strange, looked_up=1000, saved=30e9)
    train(tmp_path, 'odd', WAY, algorithms={'Distillation': {'teachers': 'gen0'}, 'x': None}, looked_up=5)
    made = report(tmp_path)
    assert made.text()
    assert made.html()
    assert json.loads(made.json())


def test_what_a_recording_took_is_not_guessed(tmp_path):
    scratch = served(tmp_path)
    file = scratch / 'archive' / 'manifest.json'
    manifest = json.loads(file.read_text())
    del manifest['archive']['logits']['0']['seconds']
    file.write_text(json.dumps(manifest))
    made = report(tmp_path, thresholds=[0.4])
    kd = next(row for row in table(made, 'Recording counted') if row['arm'] == 'kd')
    assert (kd['recording, s'], kd['training with it, s'], kd['recording, G']) == ('–', '–', '30.00')
    assert made.headline.short.endswith("(the recording of the teachers' outputs not counted)")


def test_a_manifest_that_recorders_began_is_read(tmp_path):
    run = train(tmp_path, 'scratch', WAY, planned=8)
    record(run, losses=4)
    file = run / 'archive' / 'manifest.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), 'weights': None, 'finished_epoch': None}))
    made = report(tmp_path)
    assert table(made, 'The archive')[0]['tables'] == '4'


def test_every_format_has_the_archive(tmp_path):
    made = report(recorded_lineage(tmp_path, epochs=4, seeds=1))
    assert len(made.shown['archive']) == 3
    page = made.html()
    assert page.index('<h2>The numbers</h2>') < page.index('<h2>The archive</h2>') < page.index('<h2>The runs</h2>')
    assert page.count('<th scope="row" class="label"><span class="swatch"') > 8
    for words in ('recorded afterwards', 'Recording counted'):
        assert words in made.markdown()
        assert words in made.brief()
