"""CIFAR-100's classes and superclasses (Krizhevsky, 2009), for sources that carry the fine names alone, or none."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ['CIFAR10_CLASSES', 'CIFAR100_CLASSES', 'CIFAR100_COARSE', 'CIFAR100_SUPERCLASSES', 'superclasses_of']

_TREE = {
    'aquatic_mammals': 'beaver dolphin otter seal whale',
    'fish': 'aquarium_fish flatfish ray shark trout',
    'flowers': 'orchid poppy rose sunflower tulip',
    'food_containers': 'bottle bowl can cup plate',
    'fruit_and_vegetables': 'apple mushroom orange pear sweet_pepper',
    'household_electrical_devices': 'clock keyboard lamp telephone television',
    'household_furniture': 'bed chair couch table wardrobe',
    'insects': 'bee beetle butterfly caterpillar cockroach',
    'large_carnivores': 'bear leopard lion tiger wolf',
    'large_man-made_outdoor_things': 'bridge castle house road skyscraper',
    'large_natural_outdoor_scenes': 'cloud forest mountain plain sea',
    'large_omnivores_and_herbivores': 'camel cattle chimpanzee elephant kangaroo',
    'medium_mammals': 'fox porcupine possum raccoon skunk',
    'non-insect_invertebrates': 'crab lobster snail spider worm',
    'people': 'baby boy girl man woman',
    'reptiles': 'crocodile dinosaur lizard snake turtle',
    'small_mammals': 'hamster mouse rabbit shrew squirrel',
    'trees': 'maple_tree oak_tree palm_tree pine_tree willow_tree',
    'vehicles_1': 'bicycle bus motorcycle pickup_truck train',
    'vehicles_2': 'lawn_mower rocket streetcar tank tractor',
}

CIFAR100_SUPERCLASSES = tuple(_TREE)
_PARENT = {fine: number for number, names in enumerate(_TREE.values()) for fine in names.split()}
CIFAR100_CLASSES = tuple(sorted(_PARENT))
CIFAR100_COARSE = tuple(_PARENT[fine] for fine in CIFAR100_CLASSES)
CIFAR10_CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')


def superclasses_of(classes: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]] | tuple[None, None]:
    """The superclasses, and the superclass of each class, when these are CIFAR-100's class names in any order."""
    if set(classes) != set(CIFAR100_CLASSES):
        return None, None
    return CIFAR100_SUPERCLASSES, tuple(_PARENT[name] for name in classes)
