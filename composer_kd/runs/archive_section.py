"""The ``archive:`` section of a YAML file: what a run records for later ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_serializer

from composer_kd.section import Count, Section

__all__ = ['DEFAULT_VIEWS', 'ArchiveSection', 'LogitsSection']

DEFAULT_VIEWS = 4

Views = Annotated[int, Field(ge=1, le=10**5)]


class LogitsSection(Section):
    """Logits of every training sample in views 0 to ``views - 1``.

    Attributes:
        views: How many augmentations of each image.
        top_k: How many logits are kept beside one level for all others; null keeps all.
        source: In the file ``from``. ``'harvest'``: forward passes of the trained model, after the training;
            ``'training'``: what the model answers in its last ``views`` epochs, which costs nothing.
    """

    model_config = ConfigDict(populate_by_name=True)

    views: Views = DEFAULT_VIEWS
    top_k: Count | None = None
    # `from` cannot be an attribute's name.
    source: Literal['harvest', 'training'] = Field(default='harvest', alias='from')

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {'views': self.views, 'top_k': self.top_k, 'from': self.source}


class ArchiveSection(Section):
    """What a run leaves beside its weights.

    Attributes:
        losses: Whether the loss of every sample is recorded in every epoch.
        adversarial: Whether the adversarial examples that it makes are recorded.
        logits: What is recorded of its outputs; ``true`` is all defaults, null nothing.
    """

    losses: bool = False
    adversarial: bool = False
    logits: LogitsSection | None = None

    @field_validator('logits', mode='before')
    @classmethod
    def _switched(cls, value: Any) -> Any:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value
