"""What the model zoo looks like."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from worker.contract.zoo import ZooEntry


class ZooEntryView(BaseModel):
    """Weights that a request may name."""

    name: str = Field(examples=["resnet50.IMAGENET1K_V2"])
    is_default: bool = Field(description="Whether the architecture's name alone means this entry.")
    architecture: str
    num_classes: int
    image_size: int
    published_top1_percent: float | None
    has_data: bool = Field(description="Whether the entry brings data to refine with.")
    is_shipped: bool = Field(description="Whether it needs no download.")
    url: str | None
    licence: str
    recipe: str

    @classmethod
    def of(cls, entry: ZooEntry) -> Self:
        """Show an entry."""
        return cls(
            name=entry.name,
            is_default=entry.is_default,
            architecture=entry.architecture,
            num_classes=entry.num_classes,
            image_size=entry.image_size,
            published_top1_percent=entry.published_top1,
            has_data=entry.data_file is not None,
            is_shipped=entry.url is None,
            url=entry.url,
            licence=entry.licence,
            recipe=entry.recipe,
        )


class Zoo(BaseModel):
    """The model zoo."""

    entries: list[ZooEntryView]
    architectures: list[str] = Field(description="What a checkpoint may be.")
