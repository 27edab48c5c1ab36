"""What torch.save wrote is read without running it: equal to torch.load where it is honest, refused where it is not."""

import datetime
import io
import pickle
import random
import zipfile

import numpy as np
import pytest
import torch
from torch.torch_version import TorchVersion

from composer_kd.core.errors import UserError
from composer_kd.storage.torch_file import foreign_names, read_checkpoint, read_tensors

torch.set_num_threads(1)


def state():
    """The kinds of values in a checkpoint of Composer."""
    base = torch.randn(4, 6)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    return {
        'state': {
            'model': net.state_dict(),
            'parameter': net[0].weight,
            'views': [base, base.t(), base[1:, ::2], base[2, 3], torch.empty(0, 3), torch.tensor(2.5)],
            'types': [
                torch.zeros(3, dtype=dtype)
                for dtype in (torch.bool, torch.int8, torch.uint8, torch.int64, torch.float16, torch.bfloat16)
            ],
            'timestamp': {'epoch': 3, 'wct': datetime.timedelta(seconds=4.5)},
            'shape': torch.Size([3, 4]),
            'version': TorchVersion('2.7.0'),
            'best': np.float32(0.25),
            'nothing': None,
        },
        'rng': [
            {'python': random.getstate(), 'numpy': np.random.get_state(), 'torch': torch.get_rng_state()},
            np.asfortranarray(np.arange(6).reshape(2, 3)),
        ],
    }


def assert_equal(one, two):
    if isinstance(two, torch.Tensor):
        assert one.dtype == two.dtype
        assert one.stride() == two.stride()
        assert torch.equal(one, two)
    elif isinstance(two, np.ndarray):
        assert one.dtype == two.dtype
        assert np.array_equal(one, two)
    elif isinstance(two, dict):
        assert list(one) == list(two)
        for key in two:
            assert_equal(one[key], two[key])
    elif isinstance(two, (list, tuple)):
        assert type(one) is type(two)
        assert len(one) == len(two)
        for ours, theirs in zip(one, two, strict=True):
            assert_equal(ours, theirs)
    else:
        assert type(one) is type(two)
        assert one == two


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
def test_reads_what_torch_reads(tmp_path, legacy):
    path = tmp_path / 'c.pt'
    torch.save(state(), path, _use_new_zipfile_serialization=not legacy)
    found = read_checkpoint(path)
    assert_equal(found, torch.load(path, weights_only=False))
    np.random.set_state(found['rng'][0]['numpy'])
    # Tensors that shared memory still do.
    views = found['state']['views']
    views[0][0, 0] = 7
    assert views[1][0, 0] == 7


def test_weights_leave_numpy_and_times_out(tmp_path):
    torch.save(state(), tmp_path / 'c.pt')
    found = read_tensors(tmp_path / 'c.pt')
    assert_equal(found['state']['model'], torch.load(tmp_path / 'c.pt', weights_only=False)['state']['model'])
    assert not isinstance(found['rng'][1], np.ndarray)


def test_versions_of_modules_stay_beside_a_state_dict(tmp_path):
    net = torch.nn.BatchNorm1d(3)
    torch.save(net.state_dict(), tmp_path / 'c.pt')
    assert read_tensors(tmp_path / 'c.pt')._metadata == net.state_dict()._metadata


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Builds:
    """Sets attributes on what ``function`` gives."""

    def __init__(self, function, arguments, attributes):
        self.call = function, arguments, attributes

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
@pytest.mark.parametrize(
    'content',
    [
        Calls(print, 'run'),
        Calls(eval, '1'),
        Calls(getattr, 'text', 'upper'),
        Calls(torch.load, 'other.pt'),
        Calls(np.frombuffer, b'1234'),
        Calls(__import__, 'os'),
        np.array([{}, None], dtype=object),
        np.array(['text']),
        np.zeros(2, dtype=[('a', 'f4')]),
        Builds(torch.Size, ((1,),), {'x': 1}),
        Builds(datetime.timedelta, (1,), {'x': 1}),
        torch.nn.Linear(2, 2),
    ],
)
def test_everything_else_is_refused(tmp_path, content, legacy):
    path = tmp_path / 'evil.pt'
    torch.save({'state': content}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r'evil\.pt: (refused: it names|not a complete checkpoint)') as refusal:
        read_checkpoint(path)
    assert '\n' not in str(refusal.value)


def zipped(path, pickled, storages=()):
    """A file in torch's format around a pickle of one's own."""
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', pickled)
        archive.writestr('archive/version', '3\n')
        for key, content in storages:
            archive.writestr(f'archive/data/{key}', content)


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.identity if isinstance(obj, StorageStats) else None


class StorageStats:
    def __init__(self, count, key='0', kind=torch.FloatStorage):
        self.identity = ('storage', kind, key, 'cpu', count)


def crafted(path, size, stride, offset=0, count=4, content=bytes(16)):
    buffer = io.BytesIO()
    tensor = Calls(torch._utils._rebuild_tensor_v2, StorageStats(count), offset, size, stride, False, {})
    Pickler(buffer, 2).dump({'x': tensor})
    zipped(path, buffer.getvalue(), [('0', content)])
    return path


def test_a_crafted_file_that_is_honest_is_read(tmp_path):
    content = np.arange(4, dtype='f4').tobytes()
    path = crafted(tmp_path / 'c.pt', (2, 2), (2, 1), content=content)
    assert read_tensors(path)['x'].tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    'lie',
    [
        {'size': (5,), 'stride': (1,)},
        {'size': (2, 2), 'stride': (3, 1)},
        {'size': (1,), 'stride': (1,), 'offset': 4},
        {'size': (1,), 'stride': (1,), 'offset': -1},
        {'size': (2,), 'stride': (-1,), 'offset': 3},
        {'size': (1 << 40, 1 << 40), 'stride': (0, 1 << 62)},
        {'size': (4,), 'stride': ()},
        {'size': ('4',), 'stride': (1,)},
        {'size': (4,), 'stride': (1,), 'count': 1 << 40},
        {'size': (4,), 'stride': (1,), 'count': 8},
        {'size': (4,), 'stride': (1,), 'count': -4},
    ],
)
def test_a_tensor_beyond_its_bytes_is_refused(tmp_path, lie):
    with pytest.raises(UserError, match='not a complete checkpoint'):
        read_tensors(crafted(tmp_path / 'evil.pt', **lie))


def test_an_array_with_objects_over_bytes_is_refused(tmp_path):
    """The crafted file that torch dereferences when NumPy's names are among its safe globals."""
    # cnumpy.core.multiarray\n_reconstruct ... dtype('O'), then a state with 8 bytes of an address.
    pickled = (
        b'\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85c_codecs\nencode\nX\x01\x00\x00\x00b'
        b'X\x06\x00\x00\x00latin1\x86R\x87R(K\x01K\x01\x85cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R'
        b'(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89c_codecs\nencode\n'
        b'X\x08\x00\x00\x00AAAAAAAAX\x06\x00\x00\x00latin1\x86Rtb.'
    )
    zipped(tmp_path / 'evil.pt', pickled)
    with pytest.raises(UserError, match="refused: it names a NumPy type 'O8'"):
        read_checkpoint(tmp_path / 'evil.pt')
    read_tensors(tmp_path / 'evil.pt')  # For weights it is left out, whatever it says.


def test_a_compressed_member_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / 'bomb.pt', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', pickle.dumps({}, 2))
        archive.writestr('archive/data/0', bytes(1 << 20))
    with pytest.raises(UserError, match='not a complete checkpoint'):
        read_tensors(tmp_path / 'bomb.pt')


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
def test_flipped_and_missing_bytes_are_one_line(tmp_path, legacy):
    path, hurt = tmp_path / 'c.pt', tmp_path / 'hurt.pt'
    torch.save(state(), path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    draw = random.Random(5)
    for _ in range(200):
        content = bytearray(whole[: draw.randrange(len(whole))] if draw.random() < 0.3 else whole)
        for _ in range(draw.randrange(1, 4)):
            if content:
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        hurt.write_bytes(content)
        said = ''
        try:
            read_checkpoint(hurt)
        except UserError as error:
            said = str(error)
        assert not said or (said.startswith(f'{hurt}: ') and '\n' not in said)


def test_names_what_a_checkpoint_should_not_hold(tmp_path):
    torch.save(state(), tmp_path / 'c.pt')
    assert foreign_names(tmp_path / 'c.pt') == []
    torch.save({'a': torch.nn.Linear(1, 1), 'b': Calls(print)}, tmp_path / 'c.pt')
    names = foreign_names(tmp_path / 'c.pt')
    assert 'torch.nn.modules.linear.Linear' in names
    assert any(name.endswith('.print') for name in names)
