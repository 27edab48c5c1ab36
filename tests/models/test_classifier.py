import copy
import pickle

import pytest
import torch
from composer import Trainer
from composer.algorithms import CutMix, LabelSmoothing, MixUp
from composer.loss import soft_cross_entropy
from torch import nn
from torch.utils.data import DataLoader, Dataset

from composer_kd.core.errors import UserError
from composer_kd.models import Classifier, build_model, classifier, plain

torch.set_num_threads(1)


def net(classes=7):
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, classes))


def batch(size=6, classes=7, with_key=True):
    images, labels = torch.randn(size, 3, 4, 4), torch.randint(0, classes, (size,))
    return (images, labels, torch.zeros(size, 2, dtype=torch.int64)) if with_key else (images, labels)


class Samples(Dataset):
    """Labels that the image's mean tells, with or without keys."""

    def __init__(self, size=20, classes=7, keyed=True):
        torch.manual_seed(1)
        self.labels = torch.arange(size) % classes
        self.images = torch.randn(size, 3, 4, 4) * 0.1 + self.labels.view(-1, 1, 1, 1)
        self.keyed = keyed

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        sample = (self.images[index], self.labels[index])
        return (*sample, torch.tensor([index, 0])) if self.keyed else sample


def softmax_loss(logits, labels):
    """-log of the softmax at the label, written out."""
    return torch.stack([row.exp().sum().log() - row[label] for row, label in zip(logits, labels, strict=True)])


@pytest.mark.parametrize('with_key', [True, False])
def test_loss_is_the_formula(with_key):
    model = classifier(net())
    data = batch(with_key=with_key)
    logits = model(data)
    torch.testing.assert_close(logits, model.module(data[0]))
    by_hand = softmax_loss(logits, data[1])
    torch.testing.assert_close(model.per_sample_loss(logits, data), by_hand)
    torch.testing.assert_close(model.loss(logits, data), by_hand.mean())


def test_soft_labels_as_composer_counts_them():
    model = classifier(net())
    images, _, key = batch()
    logits, soft = model((images,)), torch.rand(6, 7).softmax(dim=1)
    data = (images, soft, key)
    torch.testing.assert_close(model.loss(logits, data), soft_cross_entropy(logits, soft))
    by_hand = -(soft * (logits - logits.exp().sum(1, keepdim=True).log())).sum(1)
    torch.testing.assert_close(model.per_sample_loss(logits, data), by_hand)


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int32, torch.int64])
def test_integer_labels_of_any_width(dtype):
    model = classifier(net())
    images, labels = batch(with_key=False)
    logits = model((images, labels))
    assert model.loss(logits, (images, labels.to(dtype))) == model.loss(logits, (images, labels))


def test_metrics_over_unequal_batches():
    torch.manual_seed(0)
    model = classifier(net())
    metrics = model.get_metrics(is_train=False)
    assert list(metrics) == ['MulticlassAccuracy', 'MulticlassTop5Accuracy', 'CrossEntropy']
    logits, labels = torch.randn(11, 7) * 3, torch.randint(0, 7, (11,))
    for part in (slice(0, 8), slice(8, 11)):
        for metric in metrics.values():
            model.update_metric((None, labels[part], None), logits[part], metric)
    ranks = [sorted(row.tolist(), reverse=True).index(row[label]) for row, label in zip(logits, labels, strict=True)]
    assert metrics['MulticlassAccuracy'].compute() == pytest.approx(sum(r < 1 for r in ranks) / 11)
    assert metrics['MulticlassTop5Accuracy'].compute() == pytest.approx(sum(r < 5 for r in ranks) / 11)
    assert metrics['CrossEntropy'].compute().item() == pytest.approx(
        softmax_loss(logits, labels).mean().item(), rel=1e-5
    )


def test_metrics_with_few_classes_and_soft_labels():
    model = classifier(net(classes=3))
    metrics = model.get_metrics()
    logits, labels = torch.randn(9, 3), torch.randint(0, 3, (9,))
    soft = nn.functional.one_hot(labels, 3).float() * 0.7 + 0.1
    for metric in metrics.values():
        model.update_metric((None, soft), logits, metric)
    assert metrics['MulticlassTop5Accuracy'].compute() == 1
    assert metrics['MulticlassAccuracy'].compute() == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert metrics['CrossEntropy'].compute().item() == pytest.approx(soft_cross_entropy(logits, soft).item(), rel=1e-5)


@pytest.mark.parametrize('keyed', [True, False])
@pytest.mark.parametrize(
    'algorithms',
    [
        [],
        [MixUp(alpha=0.2)],
        [MixUp(alpha=0.2, interpolate_loss=True)],
        [CutMix(alpha=1.0)],
        [LabelSmoothing(0.1)],
        [CutMix(alpha=1.0), LabelSmoothing(0.1)],
    ],
    ids=['plain', 'mixup', 'mixup-loss', 'cutmix', 'smoothing', 'cutmix-smoothing'],
)
def test_trains_in_composer(keyed, algorithms):
    torch.manual_seed(0)
    model = classifier(net())
    data = Samples(keyed=keyed)
    trainer = Trainer(
        model=model,
        train_dataloader=DataLoader(data, 5),
        eval_dataloader=DataLoader(data, 8),
        optimizers=torch.optim.Adam(model.parameters(), lr=0.01),
        algorithms=algorithms,
        max_duration='2ep',
        device_train_microbatch_size=3,
        device='cpu',
        progress_bar=False,
    )
    trainer.fit()
    measured = {name: metric.compute().item() for name, metric in trainer.state.eval_metrics['eval'].items()}
    trainer.close()
    logits = model.eval()((data.images,))
    assert measured['MulticlassAccuracy'] == pytest.approx((logits.argmax(1) == data.labels).float().mean().item())
    # Batches of 8, 8 and 4: an average over batches would not be this.
    assert measured['CrossEntropy'] == pytest.approx(softmax_loss(logits, data.labels).mean().item(), rel=1e-4)
    assert trainer.state.train_metrics == {}


def test_cpu_autocast_computes_in_bfloat16_and_returns_float32():
    model = classifier(net(), cpu_autocast=True)
    data = batch()
    seen = []
    model.module[0].register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    logits = model(data)
    assert seen == [torch.bfloat16]
    assert logits.dtype == torch.float32
    with torch.autocast('cpu', dtype=torch.bfloat16):
        expected = model.module(data[0])
    assert torch.equal(logits, expected.float())
    model.loss(logits, data).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    model.cpu_autocast = False
    model(data)
    assert seen[-1] == torch.float32


def test_half_precision_weights_give_float32_logits():
    model = classifier(net().bfloat16())
    assert model((batch()[0].bfloat16(),)).dtype == torch.float32


def test_channels_last():
    torch.manual_seed(0)
    module = net()
    data = batch()
    expected = module(data[0])
    model = classifier(module, channels_last=True)
    seen = []
    model.module[0].register_forward_hook(
        lambda _m, inputs, _o: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    torch.testing.assert_close(model(data), expected)
    assert seen == [True]
    assert model.module[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_number_of_classes():
    assert classifier(net(9)).num_classes == 9
    assert classifier(build_model({'name': 'resnet20'}, 12, (3, 8, 8))).num_classes == 12
    assert classifier(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()), num_classes=64).num_classes == 64
    with pytest.raises(UserError, match=r'number of classes cannot be told from Sequential.*pass num_classes'):
        classifier(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()))
    with pytest.raises(UserError, match='num_classes is 10, but CifarResNet was built for 12'):
        classifier(build_model({'name': 'resnet20'}, 12, (3, 8, 8)), num_classes=10)
    with pytest.raises(UserError, match='at least 2'):
        classifier(nn.Linear(3, 1))
    with pytest.raises(UserError, match='ComposerModel already'):
        classifier(classifier(net()))


def test_wrong_shapes_are_named():
    model = classifier(net(7), num_classes=7)
    images, labels = batch(with_key=False)
    with pytest.raises(UserError, match=r'outputs have the shape \[6, 5\], but \[batch, 7\]'):
        model.loss(torch.zeros(6, 5), (images, labels))
    with pytest.raises(UserError, match=r'labels have the shape \[6, 1\]'):
        model.loss(torch.zeros(6, 7), (images, labels[:, None]))


def test_copies_and_pickles():
    model = classifier(net(), cpu_autocast=True, channels_last=True)
    data = batch()
    expected = model(data)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(twin, Classifier)
        assert (twin.cpu_autocast, twin.channels_last, twin.num_classes) == (True, True, 7)
        assert torch.equal(twin(data), expected)
        with torch.no_grad():
            twin.module[0].weight.zero_()
    assert torch.equal(model(data), expected)


def test_state_is_the_nets_alone():
    module = net()
    assert set(classifier(module).state_dict()) == {f'module.{name}' for name in module.state_dict()}


def test_plain_takes_every_wrapper_off():
    module = net()
    assert plain(module) is module
    assert plain(torch.compile(classifier(torch.compile(module), num_classes=7))) is module
