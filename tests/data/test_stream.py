"""mode: stream gives what mode: cache gives. In processes of their own: streaming keeps shared memory until the end."""

import os
import subprocess
import sys
import textwrap

import pytest

from composer_kd.data.convert import convert

SAME = """
    import sys, torch
    from composer_kd.data import open_data
    from composer_kd.data.section import DataSection

    def batches(source, cache, rank=0, **options):
        data = open_data(DataSection(source=source, cache_dir=cache, **options), 8, 3)
        data.train.dataloader.sampler.set_epoch(2)
        specs = (data.train, data.train_clean, data.val, data.test)
        return data, [spec.microbatch_transforms(batch) for spec in specs for batch in spec.dataloader]

    if __name__ == '__main__':
        torch.set_num_threads(1)
        source, cache, options = sys.argv[1], sys.argv[2], eval(sys.argv[3])
        cached, expected = batches(source, cache + '/1', **options)
        streamed, got = batches(source, cache + '/2', mode='stream', workers=2, **options)
        assert cached.info == streamed.info
        assert (cached.train_set.content_hashes == streamed.train_set.content_hashes).all()
        assert len(got) == len(expected) > 5
        for there, here in zip(expected, got):
            assert all(torch.equal(a, b) for a, b in zip(there, here))
        _, on_device = batches(source, cache + '/1', mode='device', **options)
        for there, here in zip(expected, on_device, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(there, here))
        again, _ = batches(source, cache + '/2', mode='stream', **options)  # a second run in one process
        print('the same')
"""


def run(tmp_path, program, *arguments):
    path = tmp_path / 'program.py'
    path.write_text(textwrap.dedent(program))
    return subprocess.run(
        [sys.executable, str(path), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, 'PYTHONPATH': os.getcwd(), 'OMP_NUM_THREADS': '1'},
    )


@pytest.mark.parametrize(
    ('prefix', 'compression', 'options'),
    [('', None, {'augment': {'name': 'resized_crop', 'colour_jitter': True}}), ('file://', 'zstd', {'image_size': 6})],
)
def test_the_same_keys_order_and_pixels(gray_npz, tmp_path, prefix, compression, options):
    convert(str(gray_npz()), tmp_path / 'out', compression=compression)
    done = run(tmp_path, SAME, f'{prefix}{tmp_path / "out"}', tmp_path, options)
    assert done.stdout.strip() == 'the same', done.stderr


REFUSED = """
    import sys
    from composer_kd.data import open_data
    from composer_kd.data.section import DataSection
    from composer_kd.core.errors import UserError

    if __name__ == '__main__':
        try:
            data = open_data(DataSection(source=sys.argv[1], cache_dir=sys.argv[2], mode='stream', workers=1), 8, 0)
            list(data.train.dataloader)
        except UserError as error:
            print(error)
"""


@pytest.mark.parametrize('prefix', ['', 'file://'])
def test_a_flipped_shard_is_refused(gray_npz, tmp_path, flip_byte, prefix):
    convert(str(gray_npz()), tmp_path / 'out')
    flip_byte(tmp_path / 'out/train/shard.00000.mds')
    done = run(tmp_path, REFUSED, f'{prefix}{tmp_path / "out"}', tmp_path / 'cache')
    [line] = done.stdout.strip().splitlines()
    assert 'out/train/shard.00000.mds: ' in line
    assert 'damaged' in line
