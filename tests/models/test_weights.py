import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from composer import Trainer
from composer.algorithms import EMA, LabelSmoothing
from composer.callbacks import LRMonitor, SpeedMonitor
from composer.optim import CosineAnnealingScheduler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from composer_kd.core.errors import UserError
from composer_kd.models import CifarResNet, classifier, load_into, load_weights, save_weights, weights_hash
from composer_kd.models.weights import load_tensors_into
from composer_kd.storage.import_weights import import_weights, read_pickled_weights

torch.set_num_threads(1)


def net(classes=5, width=4):
    return CifarResNet(8, (width, width, width, 8), num_classes=classes)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A real Trainer's checkpoint, and the net as it was trained."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('composer')
    model = classifier(net())
    data = DataLoader(TensorDataset(torch.randn(12, 3, 8, 8), torch.arange(12) % 5), 6)
    trainer = Trainer(
        model=model,
        train_dataloader=data,
        eval_dataloader=data,
        optimizers=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        schedulers=CosineAnnealingScheduler(),
        algorithms=[EMA(half_life='10ba'), LabelSmoothing(0.1)],
        callbacks=[SpeedMonitor(), LRMonitor()],
        max_duration='2ep',
        device='cpu',
        save_folder=str(folder),
        progress_bar=False,
    )
    trainer.fit()
    trainer.close()
    path = folder / 'latest-rank0.pt'
    # The whole thing, unsafely: what the safe reader must find in it.
    return path, torch.load(path, weights_only=False)['state']['model']


def test_safetensors_and_back(tmp_path):
    source, target = net(), net()
    assert weights_hash(source) != weights_hash(target)
    save_weights(classifier(source), tmp_path / 'w.safetensors', {'run': 'gen0'})
    load_into(classifier(target), tmp_path / 'w.safetensors')
    assert weights_hash(source) == weights_hash(target)
    assert set(load_weights(tmp_path / 'w.safetensors')) == set(source.state_dict())
    with safetensors.safe_open(tmp_path / 'w.safetensors', 'pt') as file:
        assert file.metadata() == {'run': 'gen0'}
    assert os.listdir(tmp_path) == ['w.safetensors']


def test_tied_and_strided_weights_are_saved(tmp_path):
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    source = nn.Sequential(first, second, nn.Conv2d(3, 2, 3).to(memory_format=torch.channels_last))
    save_weights(source, tmp_path / 'w.safetensors')
    loaded = load_weights(tmp_path / 'w.safetensors')
    assert all(torch.equal(loaded[name], tensor) for name, tensor in source.state_dict().items())


def test_composer_checkpoint(checkpoint):
    path, expected = checkpoint
    weights = load_weights(path, trust_pickle=True)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    target = net()
    load_into(target, path, trust_pickle=True)
    assert all(torch.equal(tensor, expected[f'module.{name}']) for name, tensor in target.state_dict().items())


def test_a_pickle_is_opened_only_where_the_user_says_so(checkpoint):
    with pytest.raises(UserError, match='`composer-kd import-weights`, or set trust_pickle: true'):
        load_weights(checkpoint[0])
    with pytest.raises(UserError, match='trust_pickle'):
        load_into(net(), checkpoint[0])


def test_a_crash_of_the_process_that_reads_is_one_line(checkpoint, tmp_path, monkeypatch):
    (tmp_path / 'sitecustomize.py').write_text('import os\nos.abort()\n')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    with pytest.raises(UserError, match='the process that read it ended with signal 6: the file may be crafted'):
        load_weights(checkpoint[0], trust_pickle=True)


def test_import_weights(checkpoint, tmp_path):
    path, expected = checkpoint
    import_weights(path, tmp_path / 'w.safetensors')
    weights = load_weights(tmp_path / 'w.safetensors')
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    with pytest.raises(UserError, match=r'w\.pt: the output file must end in \.safetensors'):
        import_weights(path, tmp_path / 'w.pt')
    with pytest.raises(UserError, match='no such file'):
        import_weights(tmp_path / 'none.pt', tmp_path / 'w.safetensors')


@pytest.mark.parametrize(
    'wrap',
    [
        lambda state: state,
        lambda state: {'state_dict': state, 'epoch': 3},
        lambda state: {'model': state, 'accuracy': 0.5, 'optimizer': {'lr': 0.1}},
        lambda state: {'model_state_dict': state},
        lambda state: {f'module.{name}': tensor for name, tensor in state.items()},
        lambda state: {f'_orig_mod.module.{name}': tensor for name, tensor in state.items()},
        lambda state: {'state_dict': {f'model.{name}': tensor for name, tensor in state.items()}},
        lambda state: {'state': {'model': {f'module._orig_mod.{name}': tensor for name, tensor in state.items()}}},
    ],
)
@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
def test_pickled_forms(tmp_path, wrap, legacy):
    source, target = net(), net()
    torch.save(wrap(source.state_dict()), tmp_path / 'w.pt', _use_new_zipfile_serialization=not legacy)
    load_tensors_into(target, read_pickled_weights(tmp_path / 'w.pt'), 'w.pt')
    assert weights_hash(source) == weights_hash(target)


def test_a_net_whose_own_names_begin_like_a_wrappers(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(2, 3)

        def forward(self, x):
            return self.module(x)

    source, target = Own(), Own()
    for model in (source, classifier(source)):
        torch.save(model.state_dict(), tmp_path / 'w.pt')
        nn.init.zeros_(target.module.weight)
        load_tensors_into(target, read_pickled_weights(tmp_path / 'w.pt'), 'w.pt')
        assert weights_hash(source) == weights_hash(target)


def test_a_net_that_keeps_extra_state(tmp_path):
    class WithExtra(nn.Linear):
        def get_extra_state(self):
            return {'seen': 3}

        def set_extra_state(self, state):
            pass

    source = WithExtra(2, 2)
    torch.save(source.state_dict(), tmp_path / 'w.pt')
    assert set(read_pickled_weights(tmp_path / 'w.pt')) == {'weight', 'bias'}
    target = WithExtra(2, 2)
    load_tensors_into(target, read_pickled_weights(tmp_path / 'w.pt'), 'w.pt')
    assert weights_hash(source) == weights_hash(target)


class Malicious:
    def __reduce__(self):
        return os.system, ('touch harmed',)


class Harmless:
    """A user's own class: nothing bad, but we cannot know."""


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
@pytest.mark.parametrize(('content', 'named'), [(Malicious(), 'posix.system'), (Harmless(), 'test_weights.Harmless')])
def test_a_pickle_with_code_is_refused(tmp_path, monkeypatch, content, named, legacy):
    monkeypatch.chdir(tmp_path)
    state = {'state': {'model': net().state_dict(), 'callbacks': content}}
    torch.save(state, 'evil.pt', _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=rf'^evil\.pt: refused: it names {named}') as refusal:
        read_pickled_weights(Path('evil.pt'))
    assert '\n' not in str(refusal.value)
    assert 'weights_only=False' not in str(refusal.value)
    assert not os.path.exists('harmed')


def test_a_bare_pickle_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open('evil.pt', 'wb') as file:
        pickle.dump(Malicious(), file)
    with pytest.raises(UserError, match='refused'):
        read_pickled_weights(Path('evil.pt'))
    assert not os.path.exists('harmed')


def test_cut_off_files(tmp_path, checkpoint):
    save_weights(net(), tmp_path / 'w.safetensors')
    torch.save(net().state_dict(), tmp_path / 'legacy.pt', _use_new_zipfile_serialization=False)
    for path in (tmp_path / 'w.safetensors', tmp_path / 'legacy.pt', checkpoint[0]):
        whole = path.read_bytes()
        for share in (0, 0.001, 0.01, 0.3, 0.9, 0.999):
            cut = tmp_path / f'cut{path.suffix}'
            cut.write_bytes(whole[: int(len(whole) * share)])
            read = load_weights if path.suffix == '.safetensors' else read_pickled_weights
            with pytest.raises(UserError) as refusal:
                read(cut)
            assert str(refusal.value).startswith(f'{cut}: ')
            assert '\n' not in str(refusal.value)


def test_a_flipped_byte_in_a_checkpoint(tmp_path, checkpoint):
    path, expected = checkpoint
    content = bytearray(path.read_bytes())
    content[content.index(expected['module.fc.weight'].numpy().tobytes()) + 5] ^= 1
    (tmp_path / 'w.pt').write_bytes(content)
    with pytest.raises(UserError, match=r'w\.pt: not a complete checkpoint'):
        read_pickled_weights(tmp_path / 'w.pt')


@pytest.mark.parametrize('content', [3, [torch.zeros(2)], {}, {'epoch': 3}, {'model': {'lr': 0.1}}])
def test_files_without_weights(tmp_path, content):
    torch.save(content, tmp_path / 'w.pt')
    with pytest.raises(UserError, match='no weights found'):
        read_pickled_weights(tmp_path / 'w.pt')


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match='no such file'):
        load_weights(tmp_path / 'w.pt')
    with pytest.raises(UserError, match='this is a folder'):
        load_weights(tmp_path)


def refusal_of(target, source, path):
    before = weights_hash(target)
    save_weights(source, path)
    with pytest.raises(UserError) as refusal:
        load_into(target, path, trust_pickle=True)
    assert weights_hash(target) == before, 'half loaded'
    assert str(refusal.value).startswith(f'{path}: ')
    assert '\n' not in str(refusal.value)
    return str(refusal.value)


def test_what_does_not_fit_is_named(tmp_path):
    path = tmp_path / 'w.safetensors'
    assert 'has 10 classes, the model 100' in refusal_of(net(100), net(10), path)
    line = refusal_of(net(width=4), net(width=6), path)
    assert 'conv1.weight has the shape [6, 3, 3, 3], the model [4, 3, 3, 3] (and' in line
    line = refusal_of(CifarResNet(14, (4, 4, 4, 8), 5), net(), path)
    assert 'lacks stages.0.1.conv1.weight (and' in line
    assert 'unexpected' not in line
    line = refusal_of(net(), CifarResNet(14, (4, 4, 4, 8), 5), path)
    assert 'has unexpected stages.0.1.bn1.bias (and' in line
    line = refusal_of(nn.Linear(2, 3), nn.Sequential(nn.Linear(2, 3)), path)
    assert 'lacks weight (and 1 more) and has unexpected 0.bias (and 1 more)' in line


def test_hash_sees_every_change():
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    reference = weights_hash(base)
    assert reference == weights_hash(base) == weights_hash(classifier(base, num_classes=3))

    def changed(change):
        state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
        twin = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        twin.load_state_dict(state)
        with torch.no_grad():
            change(twin)
        return weights_hash(twin)

    def one_bit(twin):
        twin[0].weight.view(torch.int32)[0, 0] ^= 1

    assert changed(lambda twin: None) == reference
    others = [
        changed(one_bit),
        changed(lambda twin: twin[1].running_mean.add_(1)),
        changed(lambda twin: twin[1].num_batches_tracked.add_(1)),
        changed(lambda twin: twin.double()),
        changed(lambda twin: twin.append(nn.Linear(1, 1))),
    ]
    assert len({reference, *others}) == 6


def test_hash_tells_shapes_and_names_apart():
    def holding(**tensors):
        module = nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return weights_hash(module)

    zeros = torch.zeros
    hashes = [holding(a=zeros(2, 3)), holding(a=zeros(3, 2)), holding(b=zeros(2, 3)), holding(a=zeros(2, 3).int())]
    assert len(set(hashes)) == 4
    assert holding(a=zeros(1), b=zeros(2)) == holding(b=zeros(2), a=zeros(1))


def test_hash_does_not_depend_on_memory_format():
    conv = nn.Conv2d(3, 4, 3)
    reference = weights_hash(conv)
    assert weights_hash(conv.to(memory_format=torch.channels_last)) == reference
