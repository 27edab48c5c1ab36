"""Samples and losses out of plain numbers."""

import numpy as np
import torch

from composer_kd.archive import Samples


def samples(*rows):
    """Samples out of (id, content, label)."""
    ids, content, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return Samples(np.array(ids, np.int64), np.array(content, np.uint64), np.array(labels, np.int64))


def losses(*values):
    return {'loss': torch.tensor(values), 'correct': torch.ones(len(values), dtype=torch.uint8)}


def values(archive, kind, number, column):
    """(id, content) to value, of the samples that a table has seen."""
    samples, table = archive.samples(), archive.table(kind, number)
    keys = zip(samples.ids.tolist(), samples.content.tolist(), strict=True)
    rows = zip(keys, table['seen'].tolist(), table[column].tolist(), strict=False)
    return {key: round(value, 6) for key, seen, value in rows if seen}
