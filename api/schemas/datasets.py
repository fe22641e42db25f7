"""What registered data sets look like."""

from __future__ import annotations

from pydantic import BaseModel, Field


class DatasetView(BaseModel):
    """A data set that a job may name."""

    name: str = Field(examples=["hymenoptera"], description="For `data.registered`.")
    num_workers: int = Field(description="Workers that have it; jobs with it wait for these.")


class DatasetList(BaseModel):
    """Data sets, by name."""

    datasets: list[DatasetView]
