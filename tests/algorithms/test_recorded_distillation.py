"""Distillation from recorded outputs: the same training as from the models themselves, for no forward pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from composer_kd import Archive, Distillation, OracleKD, Teacher, TeacherMixupKD, UserError
from composer_kd.archive import Samples
from composer_kd.callbacks import Measures
from composer_kd.models import multiply_adds
from tests.teachers.recorded_runs import BATCH, record, tiny_data, train, trained_run

VIEWS, STEPS = 2, 3


@pytest.fixture(scope='module')
def runs(tmp_path_factory) -> list[Path]:
    """Three runs; the logits of the first two are recorded in two views, those of the third are not."""
    folder = tmp_path_factory.mktemp('runs')
    made = [trained_run(folder, seed) for seed in (3, 4, 6)]
    for run in made[:2]:
        record(run, tiny_data(VIEWS), VIEWS)
    return made


def copied(run: Path, folder: Path, known: int | None = None) -> Path:
    """A copy of a run; of its archive, only the first so many samples where a number is given."""
    import shutil

    target = Path(shutil.copytree(run, folder / run.name))
    if known is not None:
        archive = Archive(target)
        samples = archive.samples()
        some = Samples(samples.ids[:known], samples.content[:known], samples.labels[:known])
        for view in archive.views:
            table, metadata = archive.table('logits', view), archive.metadata('logits', view)
            recorded = {**metadata, 'source': 'model'}
            archive.put('logits', view, some, {'logits': table['logits'][:known]}, recorded, merge=False)
    return target


MIXES = {
    'uniform': {},
    'weights': {'mix': [0.3, 0.7]},
    'dirichlet a batch': {'mix': 'dirichlet'},
    'dirichlet a sample': {'mix': {'name': 'dirichlet', 'per': 'sample'}},
    'random one': {'mix': 'random_one'},
    'confidence': {'mix': 'confidence'},
    'permuted': {'mix': 'permuted'},
    'oracle': {'mix': 'oracle', 'label_weight': 0.1},
    'dkd': {'loss': 'dkd', 'kd_weight': '0 to 1 until 4ba'},
    'kl, every second epoch': {'loss': 'kl', 'schedule': 'every 2ep', 'label_weight': 0.4},
}


@pytest.mark.parametrize('options', MIXES.values(), ids=MIXES.keys())
def test_recorded_teachers_train_the_student_that_live_ones_do(runs, options) -> None:
    live = train(TeacherMixupKD([Teacher.from_run(run) for run in runs[:2]], **options), tiny_data(VIEWS))
    recorded = train(TeacherMixupKD([Teacher.recorded(run) for run in runs[:2]], **options), tiny_data(VIEWS))
    assert recorded.algorithm.pool.images_computed == [0, 0]
    assert sum(recorded.algorithm.pool.images_recorded) > 0
    torch.testing.assert_close(recorded.weights, live.weights, atol=2e-4, rtol=1e-3)
    assert recorded.algorithm.last_step.get('distill/agreement') == live.algorithm.last_step.get('distill/agreement')


def test_of_one_batch_the_loss_is_equal_within_the_rounding_to_float16(runs) -> None:
    losses = {}
    for kind in ('live', 'recorded'):
        teachers = [Teacher.of({kind: str(run)}) for run in runs[:2]]
        algorithm = train(TeacherMixupKD(teachers), tiny_data(VIEWS), epochs='1ba').algorithm
        losses[kind] = algorithm.last_step['loss/train/distill']
    # Half precision keeps 11 bits: a target of size t moves by t / 2048 at most, and the squared distance with it.
    assert losses['recorded'] == pytest.approx(losses['live'], rel=4 / 2048)
    assert losses['recorded'] != losses['live']


def test_recorded_and_live_teachers_share_a_mix(runs) -> None:
    live = train(TeacherMixupKD([Teacher.from_run(run) for run in runs], mix=[0.2, 0.3, 0.5]), tiny_data(VIEWS))
    teachers = [Teacher.recorded(runs[0]), Teacher.recorded(runs[1]), Teacher.from_run(runs[2])]
    mixed = train(TeacherMixupKD(teachers, mix=[0.2, 0.3, 0.5]), tiny_data(VIEWS))
    assert mixed.algorithm.pool.images_computed == [0, 0, 2 * STEPS * BATCH]
    assert mixed.algorithm.pool.images_recorded == [2 * STEPS * BATCH, 2 * STEPS * BATCH, 0]
    torch.testing.assert_close(mixed.weights, live.weights, atol=2e-4, rtol=1e-3)


def test_what_looking_up_saved_is_counted(runs) -> None:
    lines: list[dict] = []
    teachers = [Teacher.recorded(runs[0]), Teacher.recorded(runs[1]), Teacher.from_run(runs[2])]
    data = tiny_data(VIEWS)
    train(TeacherMixupKD(teachers), data, callbacks=[Measures(lines.append)])
    forward = multiply_adds(teachers[2].module, data.shape)  # type: ignore[attr-defined]
    for line in lines:
        images = line['epoch'] * STEPS * BATCH
        assert line['images_recorded_total'] == 2 * images
        assert line['multiply_adds_teacher_saved_total'] == 2 * images * forward
        assert line['multiply_adds_teacher_total'] == images * forward
        assert line['multiply_adds_student_total'] == 3 * images * forward


def test_microbatches_get_their_part_of_what_was_looked_up(runs) -> None:
    whole = train(TeacherMixupKD([Teacher.recorded(runs[0])]), tiny_data(VIEWS))
    parts = train(TeacherMixupKD([Teacher.recorded(runs[0])]), tiny_data(VIEWS), device_train_microbatch_size=24)
    torch.testing.assert_close(parts.weights, whole.weights, atol=1e-6, rtol=1e-5)


def test_a_sweep_pays_for_its_teacher_once(runs, tmp_path) -> None:
    run = copied(runs[2], tmp_path)
    taught, weights = [], []
    for _ in range(3):
        done = train(TeacherMixupKD([Teacher.recorded(run, fill=True)]), tiny_data(VIEWS))
        taught.append(done.algorithm.pool.images_computed)
        weights.append(done.weights)
    # All 200 samples of a view, those too that the last short batch of an epoch leaves out: another order wants them.
    assert taught == [[VIEWS * 200], [0], [0]]
    assert torch.equal(weights[1], weights[2])
    other_order = train(TeacherMixupKD([Teacher.recorded(run, fill=True)]), tiny_data(VIEWS, seed=77))
    assert other_order.algorithm.pool.images_computed == [0]
    assert Archive(run).metadata('logits', 1)['images'] == 200


def test_fresh_views_are_filled_as_they_come(runs, tmp_path) -> None:
    run = copied(runs[2], tmp_path)
    first = train(TeacherMixupKD([Teacher.recorded(run, fill=True)]), tiny_data(None), epochs='3ep')
    again = train(TeacherMixupKD([Teacher.recorded(run, fill=True)]), tiny_data(None), epochs='3ep')
    assert (first.algorithm.pool.images_computed, again.algorithm.pool.images_computed) == ([600], [0])
    assert Archive(run).views == [0, 1, 2]
    assert torch.equal(first.weights, again.weights)


def test_fill_adds_what_is_new_and_keeps_what_is_there(runs, tmp_path) -> None:
    run = copied(runs[0], tmp_path, known=150)
    before = Archive(run).table('logits', 0)['logits'][:150].clone()
    done = train(TeacherMixupKD([Teacher.recorded(run, fill=True)]), tiny_data(VIEWS))
    assert done.algorithm.pool.images_computed == [VIEWS * 50]
    archive = Archive(run)
    assert archive.metadata('logits', 0)['seen'] == 200
    assert archive.metadata('logits', 0)['source'] == 'model'  # As its first rows were.
    assert torch.equal(archive.table('logits', 0)['logits'][:150], before)


def test_two_trainings_fill_one_archive_at_the_same_time(runs, tmp_path) -> None:
    run = copied(runs[2], tmp_path)
    script = tmp_path / 'fill.py'
    script.write_text(
        'import sys, torch\n'
        'torch.set_num_threads(1)\n'
        'from composer_kd import Teacher, TeacherMixupKD\n'
        'from tests.teachers.recorded_runs import tiny_data, train\n'
        "done = train(TeacherMixupKD([Teacher.recorded(sys.argv[1], fill=True)]), tiny_data(6), epochs='6ep')\n"
        'print(done.algorithm.pool.images_computed[0])\n'
    )
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), str(run)]
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    # Whoever comes first computes a view; the other one finds it.
    assert sum(int(out.split()[-1]) for out, _ in outputs) == 6 * 200
    archive = Archive(run)
    archive.run.verify()
    assert [archive.metadata('logits', view)['images'] for view in archive.views] == [200] * 6


def test_unseen_samples_are_taught_by_the_model(runs, tmp_path) -> None:
    run = copied(runs[0], tmp_path, known=120)
    live = train(TeacherMixupKD([Teacher.from_run(runs[0])]), tiny_data(VIEWS))
    with_model = train(TeacherMixupKD([Teacher.recorded(run, unseen='live')]), tiny_data(VIEWS))
    torch.testing.assert_close(with_model.weights, live.weights, atol=2e-4, rtol=1e-3)
    images = with_model.algorithm.pool.images_computed[0] + with_model.algorithm.pool.images_recorded[0]
    assert images == 2 * STEPS * BATCH
    assert with_model.algorithm.pool.images_computed[0] > 0
    assert Archive(run).metadata('logits', 0)['seen'] == 120  # Without fill nothing is kept.


def test_unseen_samples_are_taught_by_their_labels_alone(runs, tmp_path) -> None:
    run = copied(runs[0], tmp_path, known=120)
    data = tiny_data(VIEWS)
    algorithm = Distillation([Teacher.recorded(run, unseen='label')], loss='mse', label_weight=0.3, kd_weight=0.7)
    done = train(algorithm, data, epochs='1ba')
    # The first step by hand: student and teacher on the first batch, the terms sample by sample.
    torch.manual_seed(9)
    from composer_kd.data.transform import Prepare
    from composer_kd.models import build_model
    from tests.teachers.recorded_runs import MODEL

    student = build_model(MODEL, data.num_classes, data.shape)
    teacher = Teacher.from_run(runs[0]).module.eval()  # type: ignore[attr-defined]
    data.train.dataloader.sampler.set_epoch(0)  # type: ignore[union-attr]
    batch = next(iter(data.train.dataloader))  # type: ignore[arg-type]
    images, labels, keys = Prepare(data.augmentation, *data.normalization)(batch)
    known = torch.from_numpy(np.isin(keys[:, 0].numpy(), Archive(run).samples().ids[:120]))
    assert 0 < int(known.sum()) < BATCH
    with torch.no_grad():
        target = teacher(images)
    logits = student(images)
    label_losses = F.cross_entropy(logits, labels, reduction='none')
    distances = ((logits - target) ** 2).mean(1)
    loss = (torch.where(known, 0.3 * label_losses + 0.7 * distances, label_losses)).mean()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    loss.backward()
    optimizer.step()
    expected = torch.cat([parameter.detach().reshape(-1) for parameter in student.parameters()])
    torch.testing.assert_close(done.weights, expected, atol=2e-5, rtol=1e-3)
    assert done.algorithm.last_step['distill/recorded'] == pytest.approx(float(known.float().mean()))


def test_an_oracle_does_not_ask_a_teacher_about_what_it_does_not_know(runs, tmp_path) -> None:
    from composer_kd.data.transform import Prepare

    partly = copied(runs[1], tmp_path, known=120)
    data = tiny_data(VIEWS)
    algorithm = OracleKD([Teacher.recorded(runs[0]), Teacher.recorded(partly, unseen='label')], label_weight=1.0)
    done = train(algorithm, data, epochs='1ba')
    data.train.dataloader.sampler.set_epoch(0)  # type: ignore[union-attr]
    batch = next(iter(data.train.dataloader))  # type: ignore[arg-type]
    images, labels, keys = Prepare(data.augmentation, *data.normalization)(batch)
    known = torch.from_numpy(np.isin(keys[:, 0].numpy(), Archive(partly).samples().ids[:120]))
    with torch.no_grad():
        right = [Teacher.from_run(run).module.eval()(images).argmax(1) == labels for run in runs[:2]]  # type: ignore
    taught = right[0] | (right[1] & known)
    assert bool((right[0] & ~known).any())  # The first is asked about samples that the second does not know.
    assert done.algorithm.last_step['distill/label_only'] == pytest.approx(1 - float(taught.float().mean()))


def test_a_batch_that_no_teacher_knows_is_plain_training(runs, tmp_path) -> None:
    run = copied(runs[0], tmp_path, known=1)
    data = tiny_data(VIEWS)
    data.train.dataloader.sampler.set_epoch(0)  # type: ignore[union-attr]
    first = next(iter(data.train.dataloader))[2][:, 0]  # type: ignore[call-overload, arg-type]
    assert int(Archive(run).samples().ids[0]) not in first.tolist()
    taught = Distillation([Teacher.recorded(run, unseen='label')], label_weight=0.3)
    plain = Distillation([Teacher.from_run(run)], label_weight=1.0, kd_weight=0)
    torch.testing.assert_close(train(taught, data, epochs='1ba').weights, train(plain, data, epochs='1ba').weights)


def test_an_interrupted_training_resumes_bit_for_bit(runs, tmp_path) -> None:
    def mask(folder: str, **options):
        algorithm = TeacherMixupKD([runs[0], Teacher.recorded(runs[1])], mix='dirichlet')
        return train(algorithm, tiny_data(VIEWS), save_folder=str(tmp_path / folder), save_overwrite=True, **options)

    whole = mask('whole', save_interval='2ba')
    checkpoint = tmp_path / 'whole' / 'ep1-ba4-rank0.pt'
    resumed = mask('again', save_interval='10ep', load_path=str(checkpoint))
    assert torch.equal(resumed.weights, whole.weights)


def test_a_continued_training_stays_with_what_it_began_with(runs, tmp_path) -> None:
    run = copied(runs[0], tmp_path)
    options = {'save_folder': str(tmp_path / 'saved'), 'save_interval': '2ba', 'save_overwrite': True}
    train(TeacherMixupKD([run]), tiny_data(VIEWS), **options)
    Archive(run).drop('logits', lambda view: False)
    with pytest.raises(UserError, match='began with its recorded outputs'):
        train(TeacherMixupKD([run]), tiny_data(VIEWS), load_path=str(tmp_path / 'saved' / 'ep1-ba4-rank0.pt'))


def test_until_overtaken_asks_the_model_once_or_takes_the_stored_accuracy(runs) -> None:
    data = tiny_data(VIEWS)
    asked = Distillation([Teacher.recorded(runs[0])], schedule='until overtaken')
    train(asked, data, epochs='2ep', eval_dataloader=data.val)
    assert data.val is not None
    assert asked.pool.images_computed == [len(data.val.dataloader.dataset)]  # type: ignore[union-attr, arg-type]
    stored = Distillation([Teacher.recorded(runs[0], unseen='label')], schedule='until overtaken')
    train(stored, data, epochs='2ep', eval_dataloader=data.val)
    assert stored.pool.images_computed == [0]
    assert stored._overtaking is not None
    last = [line['val_accuracy'] for line in Archive(runs[0]).run.metrics()][-1]
    assert stored._overtaking.teacher_accuracy == last


def test_plain_batches_cannot_be_looked_up(runs) -> None:
    from tests.algorithms.common import make_trainer

    trainer, _ = make_trainer([TeacherMixupKD([Teacher.recorded(runs[0])])])
    with pytest.raises(UserError, match=r'looked up by key.*convert'):
        trainer.fit()
    trainer.close()


TWO_RANKS = """
import sys, torch
torch.set_num_threads(1)
from composer.utils import dist, get_device
dist.initialize_dist(get_device('cpu'))
from tests.algorithms.test_recorded_distillation import half_recorded
done = half_recorded(sys.argv[1], sys.argv[2])
taught = sum(dist.all_gather_object(done.algorithm.pool.images_computed[1]))
if dist.get_global_rank() == 0:
    torch.save({'weights': done.weights, 'taught': taught}, sys.argv[3])
"""


def half_recorded(recorded, to_fill):
    teachers = [Teacher.recorded(recorded), Teacher.recorded(to_fill, fill=True)]
    return train(TeacherMixupKD(teachers, mix={'name': 'dirichlet', 'per': 'sample'}), tiny_data(2))


def test_two_ranks_are_one(runs, tmp_path) -> None:
    alone, shared = (copied(runs[2], tmp_path / name) for name in ('alone', 'shared'))
    one = half_recorded(runs[0], alone)
    script, out = tmp_path / 'train.py', tmp_path / 'two.pt'
    script.write_text(TWO_RANKS)
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(Path(__file__).parents[2])}
    command = [
        sys.executable,
        '-m',
        'composer.cli.launcher',
        '-n',
        '2',
        str(script),
        str(runs[0]),
        str(shared),
        str(out),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    two = torch.load(out)
    # Images are computed once, whatever the number of ranks, and the weights agree but for the order of sums.
    assert one.algorithm.pool.images_computed[1] == two['taught'] == 400
    torch.testing.assert_close(two['weights'], one.weights, atol=1e-5, rtol=1e-4)
    for run in (alone, shared):
        assert [Archive(run).metadata('logits', view)['seen'] for view in (0, 1)] == [200, 200]
