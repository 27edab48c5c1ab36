"""What a report says, subject by subject: a file a subject, which no other file of the report knows by name.

A section reads what it needs of the runs and shows it as tables, pictures, values for ``report.json`` and sentences. A
new one is a module in this folder with a class in :data:`SECTIONS`; another package adds one with an entry point in
the group ``composer_kd.report_sections``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, ClassVar

from composer_kd.core.registry import Registry
from composer_kd.report.render.figures import Figure
from composer_kd.report.render.text import Table
from composer_kd.report.summary import Summary

__all__ = ['SECTIONS', 'ReportSection', 'make_sections']


class ReportSection:
    """A part of a report about one subject; a subclass overrides what it has to say.

    Attributes:
        order: Where it stands among the sections, the lowest first.
        heading: Opens a part of the page; empty: the section stands below the heading before it.
        lead: A sentence below that heading.
        method: How its numbers came about, where it has a table.
        values: What :meth:`read` has found.

    Args:
        summary: What all sections are made from.
    """

    order: ClassVar[float] = math.inf
    heading: ClassVar[str] = ''
    lead: ClassVar[str] = ''
    method: ClassVar[str] = ''

    def __init__(self, summary: Summary):
        self.summary = summary
        self.values: Any = self.read()

    def read(self) -> Any:
        """Read what ``report.json`` holds of it: dataclasses, mappings, sequences and plain values."""
        return None

    def tables(self) -> Iterable[Table]:
        """Tables, none where there is nothing to say; those without a row are left out."""
        return ()

    def figures(self) -> Iterable[Figure]:
        """Pictures; they are drawn when the report is first asked for them."""
        return ()

    def caveats(self) -> Iterable[str]:
        """Sentences on what spoils a comparison of its numbers."""
        return ()


SECTIONS: Registry[type[ReportSection]] = Registry('report sections')


def make_sections(summary: Summary) -> dict[str, ReportSection]:
    """Make every section, by name and in their order."""
    for module in iter_modules(__path__, f'{__name__}.'):
        import_module(module.name)
    classes = {name: SECTIONS.get(name) for name in SECTIONS.names()}
    return {name: one(summary) for name, one in sorted(classes.items(), key=lambda item: item[1].order)}
