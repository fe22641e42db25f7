"""`python -m tests.supported_models`: prints docs/supported-models.md, planning each model.

Everything is planned without weights and without computing, on tensors that have only a shape.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from momentum_core.config import ConversionConfig
from momentum_core.conversion import ExampleInput, plan_conversion
from momentum_core.errors import ConversionError

TIMM = (  # noqa: SIM905 (53 quoted lines are harder to read)
    "beit_base_patch16_224 caformer_s18 cait_xxs24_224 coatnet_nano_rw_224 convmixer_768_32 "
    "convnext_atto convnextv2_atto crossvit_tiny_240 cspresnet50 darknet53 davit_tiny "
    "deit_tiny_patch16_224 dla34 eca_nfnet_l0 edgenext_xx_small efficientformer_l1 "
    "efficientnet_lite0 efficientnetv2_rw_t eva02_tiny_patch14_224 fastvit_t8 focalnet_tiny_srf "
    "ghostnet_050 gmlp_ti16_224 hiera_tiny_224 hrnet_w18_small inception_next_tiny levit_128s "
    "mambaout_femto maxvit_tiny_tf_224 mixer_s32_224 mobilenetv3_small_050 mobilenetv4_conv_small "
    "nest_tiny poolformer_s12 pvt_v2_b0 regnety_002 repvit_m0_9 res2net50_26w_4s resmlp_12_224 "
    "resnetv2_50 sequencer2d_s seresnet50 skresnet34 swin_tiny_patch4_window7_224 "
    "swinv2_tiny_window8_256 tiny_vit_5m_224 tresnet_m twins_svt_small vgg11 "
    "vit_tiny_patch16_224 volo_d1_224 xception41 xcit_nano_12_p16_224"
).split()


INTRODUCTION = """\
# Supported models

Runs are found in any residual model from an example input; this list is what was tried, made by
`python -m tests.supported_models`. A model that is not listed: `print(plan_conversion(model,
example_input))`.

Transformers (tested with small random weights): BERT, RoBERTa, DistilBERT, ViT, DeiT, DINOv2,
GPT-2, Llama, Wav2Vec2 (with `layerdrop=0`), T5 encoder; `nn.TransformerEncoder`,
`nn.TransformerDecoder`, `nn.Transformer` with masks. Train with `use_cache=False`.

Every torchvision classifier that is converted was compared with its original, with random weights
of which none is asleep (`python -m tests.benchmarks agreement`): at gamma 1/1024 the outputs
differ by 0.54 % at most (ResNet-152), and a quarter of gamma leaves a quarter of the difference,
within 4 %.

"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a model."""

    library: str
    name: str
    num_runs: int
    num_blocks: int
    reason: str


def torchvision_names() -> list[str]:
    """Return every classification model of torchvision."""
    from torchvision import models

    return list(models.list_models(module=models))


def torchvision_outcome(name: str) -> Outcome:
    """Plan a model of torchvision."""
    from torchvision import models

    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    side = 299 if name == "inception_v3" else 224
    with _without_weights():
        model = models.get_model(name, weights=None, **options).to("meta")
    return _outcome("torchvision", name, model, torch.empty(2, 3, side, side, device="meta"))


def timm_outcome(name: str) -> Outcome:
    """Plan a model of timm."""
    import timm

    # Some compute constants from their weights when they are made: these are small enough.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = timm.create_model(name, pretrained=False).to("meta")
    size = model.default_cfg["input_size"]
    return _outcome("timm", name, model, torch.empty(2, *size, device="meta"))


def table(outcomes: list[Outcome]) -> str:
    """Return the table of a library."""
    rows = ["| model | runs | blocks in runs | |", "| --- | --- | --- | --- |"]
    for one in outcomes:
        counts = f"{one.num_runs} | {one.num_blocks}" if one.num_runs else "- | -"
        rows.append(f"| `{one.name}` | {counts} | {one.reason} |")
    return "\n".join(rows)


def document(torchvision: list[Outcome], timm: list[Outcome]) -> str:
    """Return docs/supported-models.md."""
    return f"""{INTRODUCTION}## torchvision, classification

{table(torchvision)}

## timm

{table(timm)}
"""


def _outcome(library: str, name: str, model: nn.Module, example: ExampleInput) -> Outcome:
    try:
        plan = plan_conversion(model, example, ConversionConfig(plan_memory=False))
    except ConversionError as error:
        return Outcome(library, name, 0, 0, _short(str(error)))
    return Outcome(library, name, len(plan.runs), sum(len(run.blocks) for run in plan.runs), "")


def _short(reason: str) -> str:
    if "no residual block" in reason:
        return "no module adds something to its own input"
    return reason.partition(": ")[2].partition(";")[0][:120] or reason[:120]


@contextmanager
def _without_weights() -> Iterator[None]:
    """Have modules keep only the shapes of their parameters."""
    register: Callable[..., None] = nn.Module.register_parameter

    def register_shape(self: nn.Module, name: str, value: Any) -> None:
        register(self, name, None if value is None else nn.Parameter(value.to("meta")))

    nn.Module.register_parameter = register_shape  # type: ignore[method-assign]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def main() -> None:
    """Print the document."""
    sys.stdout.write(
        document(
            [torchvision_outcome(name) for name in torchvision_names()],
            [timm_outcome(name) for name in TIMM],
        )
    )


if __name__ == "__main__":
    main()
