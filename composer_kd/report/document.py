"""The report as one object that can be asked for every format."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from composer_kd.core.errors import UserError
from composer_kd.report.as_json import as_json
from composer_kd.report.caveats import caveats
from composer_kd.report.collect import collect
from composer_kd.report.figures import figures
from composer_kd.report.headline import Headline, headline
from composer_kd.report.heat_maps import heat_maps
from composer_kd.report.page import method, page
from composer_kd.report.picture import Figure
from composer_kd.report.summary import Summary, summarize
from composer_kd.report.tables import Table, tables
from composer_kd.report.text import markdown_escape, markdown_table, text_table, wrapped

__all__ = ['Report', 'report']


@dataclass(frozen=True)
class Report:
    """What the runs say, ready to be shown. Figures are drawn when they are first asked for."""

    summary: Summary

    @cached_property
    def headline(self) -> Headline:
        return headline(self.summary)

    @cached_property
    def caveats(self) -> list[str]:
        return caveats(self.summary)

    @cached_property
    def tables(self) -> list[Table]:
        return tables(self.summary)

    @cached_property
    def figures(self) -> list[Figure]:
        return figures(self.summary) + heat_maps(self.summary)

    def text(self) -> str:
        """For a terminal of 100 columns."""
        parts = [
            wrapped(self.headline.sentence),
            '\n'.join(wrapped(f'- {line}', indent='  ') for line in self.caveats),
            *map(text_table, self.tables),
        ]
        return '\n\n'.join(part for part in parts if part) + '\n'

    def brief(self) -> str:
        """The answer and the tables behind it, for the end of a training; all of it is in :meth:`text`."""
        others = ('ensembles', 'size', 'fidelity', 'robustness', 'attack', 'takeover', 'cost', 'archive')
        about = [table for table in self.tables if table.section in (self.summary.primary.name, *others)]
        parts = [wrapped(self.headline.sentence), *map(text_table, about)]
        return '\n\n'.join(parts) + '\n'

    def markdown(self, pictures: str | None = None) -> str:
        """Tables in GitHub's dialect.

        Args:
            pictures: The folder of the PNGs, relative to the file, for links to them. Default: no pictures.
        """
        parts = [
            f'# {markdown_escape(self.headline.short)}',
            markdown_escape(self.headline.detail[:1].upper() + self.headline.detail[1:]),
            '\n'.join(f'- {markdown_escape(line)}' for line in self.caveats),
        ]
        if pictures is not None:
            parts += [f'![{markdown_escape(figure.alt)}]({pictures}/{figure.name}.png)' for figure in self.figures]
        parts += [*map(markdown_table, self.tables), *map(markdown_escape, method(self.tables))]
        return '\n\n'.join(part for part in parts if part) + '\n'

    def json(self) -> str:
        return as_json(self.summary, self.headline, self.caveats)

    def html(self) -> str:
        return page(self.summary, self.headline, self.caveats, self.tables, self.figures)

    def write(self, folder: str | Path) -> list[Path]:
        """Write ``report.html``, ``report.md``, ``report.json`` and ``report/*.png``, each as a whole or not at all.

        Returns:
            list[Path]: The files, the page first.
        """
        folder = Path(folder)
        if (folder / 'report').is_symlink():
            raise UserError(f'{folder / "report"}: a symbolic link, and nothing is written through it; remove it')
        files: dict[Path, bytes] = {
            folder / 'report.html': self.html().encode(),
            folder / 'report.md': self.markdown(pictures='report').encode(),
            folder / 'report.json': self.json().encode(),
        }
        files |= {folder / 'report' / f'{figure.name}.png': figure.png for figure in self.figures}
        try:
            (folder / 'report').mkdir(parents=True, exist_ok=True)
            for path, content in files.items():
                _replace(path, content)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f'{folder}: the report cannot be written there ({reason}); name another folder') from None
        return list(files)


def report(
    paths: str | Path | Iterable[str | Path],
    out: str | Path | None = None,
    baseline: str | None = None,
    thresholds: Sequence[float] | None = None,
    epochs: Sequence[int] | None = None,
) -> Report:
    """Report on runs.

    Args:
        paths: Run directories, or folders that hold some.
        out: Where to write the files at once. Default: nowhere.
        baseline: The arm to compare with. Default: the first one without teachers.
        thresholds: Accuracies to reach, as fractions. Default: round ones that every baseline run ended above.
        epochs: Where to compare accuracies. Default: quarters of the shortest run.

    Example:
        >>> print(report('runs/kd', baseline='scratch').text())  # doctest: +SKIP
    """
    made = Report(summarize(collect(paths), baseline, thresholds, epochs))
    if out is not None:
        made.write(out)
    return made


def _replace(path: Path, content: bytes) -> None:
    """Write to a temporary name beside ``path``, sync, rename: a reader never sees half a file."""
    handle, name = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
