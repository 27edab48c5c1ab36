"""mode: device gives what mode: cache gives; images are gathered where they lie, labels and keys stay on the host."""

import pytest
import torch
from composer import Trainer

from composer_kd import RecordLosses
from composer_kd.archive import Archive
from composer_kd.core.errors import UserError
from composer_kd.core.options import parse_section
from composer_kd.data import open_data
from composer_kd.data.section import DataSection
from composer_kd.models import classifier

DEVICES = [
    'cpu',
    pytest.param('gpu', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')),
]


def torch_device(name):
    return torch.device({'gpu': 'cuda:0'}.get(name, name))


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize(
    'options',
    [{}, {'image_size': 16, 'views': 2, 'subset': 150}, {'augment': {'name': 'resized_crop', 'rand_augment': True}}],
)
def test_the_same_keys_order_and_pixels_in_all_parts(tiny, options, device):
    place = torch_device(device)

    def batches(mode):
        data = open_data(tiny(mode=mode, **options), 32, 3, device=place)
        for epoch in (0, 1, 5):
            data.train.dataloader.sampler.set_epoch(epoch)
            for spec in (data.train, data.train_clean, data.val, data.test):
                for batch in spec.dataloader:
                    yield spec.microbatch_transforms([part.to(place) for part in batch])

    expected, got = list(batches('cache')), list(batches('device'))
    assert len(got) == len(expected) > 9
    for here, there in zip(expected, got, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))


def test_images_are_gathered_where_they_lie(tiny):
    data = open_data(tiny(mode='device'), 32, 0, device=torch.device('meta'))
    for spec in (data.train, data.val, data.test):
        image, label, key = next(iter(spec.dataloader))
        assert (image.device.type, image.dtype, image.shape[1:]) == ('meta', torch.uint8, (3, 32, 32))
        assert (label.device.type, key.device.type) == ('cpu', 'cpu')
        assert len(image) == len(label) == len(key)


def trained(section, device, folder, epochs, load=None, microbatch=16):
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(192, 100))
    data = open_data(section, 32, 3, device=torch_device(device))
    trainer = Trainer(
        model=classifier(net, 100), train_dataloader=data.train, eval_dataloader=data.val, max_duration=epochs,
        optimizers=torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), progress_bar=False, device=device,
        device_train_microbatch_size=microbatch, callbacks=[RecordLosses(folder / 'run')],
        save_folder=str(folder / 'checkpoints'), save_interval='4ba', save_overwrite=True, load_path=load, seed=7,
    )  # fmt: skip
    trainer.fit()
    accuracy = trainer.state.eval_metrics['eval']['MulticlassAccuracy'].compute()
    trainer.close()
    return [part.detach().cpu() for part in net.state_dict().values()] + [accuracy.cpu()]


@pytest.mark.parametrize('device', DEVICES)
def test_a_training_ends_in_the_same_weights_resumed_inside_an_epoch_too(tiny, tmp_path, device):
    cached = trained(tiny(), device, tmp_path / 'cache', '2ep')
    whole = trained(tiny(mode='device'), device, tmp_path / 'device', '2ep')
    load = str(tmp_path / 'device/checkpoints/ep1-ba8-rank0.pt')
    resumed = trained(tiny(mode='device'), device, tmp_path / 'device', '2ep', load)
    for one, other, third in zip(cached, whole, resumed, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)
    tables = [Archive(tmp_path / mode / 'run').table('loss', 1).columns for mode in ('cache', 'device')]
    assert all(torch.equal(tables[0][name], tables[1][name]) for name in tables[0])


@pytest.mark.parametrize('values', [{'workers': 2}, {'augment_on': 'host'}])
def test_what_goes_by_the_host_is_refused(values):
    (key,) = values
    with pytest.raises(UserError, match=rf'^data\.{key}: with mode: device no image comes by the host; .*mode: cache'):
        parse_section(DataSection, {'mode': 'device', **values}, 'data')


def test_no_room_on_the_device_is_one_line(tiny, monkeypatch):
    def full(self, *_):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate ...')

    monkeypatch.setattr(torch.Tensor, 'to', full)
    with pytest.raises(UserError, match=r'^data\.mode: the device has no room for 0\.0 GiB of images; use mode: cache'):
        open_data(tiny(mode='device'), 32, 0)
