"""AdversarialRecycling: adversarial examples are kept, and begin the next attack. See the folder's README."""

from composer_kd.algorithms.adversarial_recycling.adversarial_recycling import AdversarialRecycling

__all__ = ['AdversarialRecycling']
