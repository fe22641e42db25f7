"""One small member of every family: converted, near its original, reversible, and restored."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from momentum_core import ConversionConfig, convert
from momentum_core.conversion import plan_of, restore
from momentum_core.reversible import MomentumStack
from tests.awake_networks import differences, first_output, wake

IDS = torch.randint(5, 50, (2, 10), generator=torch.Generator().manual_seed(1))
MASK = torch.ones(2, 10, dtype=torch.long)
MASK[1, 7:] = 0
CAUSAL = nn.Transformer.generate_square_subsequent_mask(10)
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


@dataclass(frozen=True)
class Member:
    """A model, what it is called with, and how many runs it has."""

    name: str
    build: Callable[[], nn.Module]
    example: Any
    num_runs: int
    plan_memory: bool = False
    """Whether memory is planned, too: that takes longer than all the rest."""

    def __str__(self) -> str:
        return self.name


def vision(name: str, num_runs: int, side: int = 64, **options: Any) -> Member:
    return Member(
        name, lambda: models.get_model(name, weights=None, **options), images(side), num_runs
    )


def images(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))


def hugging(model: str, config: str, example: dict[str, Any], **options: Any) -> Member:
    def build() -> nn.Module:
        import transformers

        transformers.logging.set_verbosity_error()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(transformers, model)(getattr(transformers, config)(**options))

    return Member(model, build, example, 1)


TOKENS = {"input_ids": IDS, "attention_mask": MASK}
PIXELS = {"pixel_values": images(32)}
PATCHES = {"image_size": 32, "patch_size": 8}

MEMBERS = [
    vision("resnet18", 1),
    replace(vision("resnet50", 4), plan_memory=True),
    vision("resnext50_32x4d", 4),
    vision("regnet_y_400mf", 3),
    vision("regnet_x_400mf", 2),
    vision("convnext_tiny", 4),
    replace(vision("efficientnet_b0", 3), plan_memory=True),
    vision("efficientnet_v2_s", 6),
    vision("mobilenet_v2", 4),
    vision("mobilenet_v3_small", 2),
    vision("mnasnet0_5", 4),
    vision("swin_t", 4, side=64),
    vision("swin_v2_t", 4, side=64),
    Member(
        "VisionTransformer",
        lambda: models.VisionTransformer(
            image_size=32, patch_size=8, num_layers=4, num_heads=4, hidden_dim=32, mlp_dim=64
        ),
        images(32),
        1,
    ),
    Member(
        "MaxVit",
        lambda: models.MaxVit(
            input_size=(64, 64),
            stem_channels=8,
            partition_size=4,
            block_channels=[8, 16],
            block_layers=[2, 2],
            head_dim=8,
            stochastic_depth_prob=0.1,
        ),
        images(64),
        2,
    ),
    Member(
        "deeplabv3_resnet50",
        lambda: models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None),
        images(32),
        4,
    ),
    replace(hugging("BertModel", "BertConfig", TOKENS, vocab_size=60, **SMALL), plan_memory=True),
    hugging("RobertaModel", "RobertaConfig", TOKENS, vocab_size=60, **SMALL),
    hugging(
        "DistilBertModel",
        "DistilBertConfig",
        TOKENS,
        vocab_size=60,
        dim=32,
        n_layers=3,
        n_heads=4,
        hidden_dim=64,
    ),
    hugging("ViTModel", "ViTConfig", PIXELS, **PATCHES, **SMALL),
    hugging("DeiTModel", "DeiTConfig", PIXELS, **PATCHES, **SMALL),
    hugging(
        "Dinov2Model",
        "Dinov2Config",
        PIXELS,
        **PATCHES,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
    ),
    hugging(
        "GPT2LMHeadModel",
        "GPT2Config",
        TOKENS | {"use_cache": False},
        vocab_size=60,
        n_embd=32,
        n_layer=3,
        n_head=4,
        bos_token_id=1,
        eos_token_id=2,
    ),
    hugging(
        "LlamaForCausalLM",
        "LlamaConfig",
        TOKENS | {"use_cache": False},
        vocab_size=60,
        num_key_value_heads=2,
        **SMALL,
    ),
    hugging(
        "Wav2Vec2Model",
        "Wav2Vec2Config",
        {"input_values": torch.randn(2, 2000, generator=torch.Generator().manual_seed(2))},
        layerdrop=0.0,
        mask_time_prob=0.0,
        conv_dim=(32, 32),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        **SMALL,
    ),
    hugging(
        "T5EncoderModel",
        "T5Config",
        TOKENS,
        vocab_size=60,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=4,
        num_heads=4,
    ),
    Member(
        "nn.TransformerEncoder",
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 3, enable_nested_tensor=False
        ),
        {"src": torch.randn(2, 10, 32), "mask": CAUSAL},
        1,
    ),
    Member(
        "nn.Transformer",
        lambda: nn.Transformer(32, 4, 3, 3, 64, batch_first=True, norm_first=True),
        {
            "src": torch.randn(2, 7, 32),
            "tgt": torch.randn(2, 10, 32),
            "tgt_mask": CAUSAL,
            "src_key_padding_mask": torch.arange(7).expand(2, 7) > 4,
        },
        2,
    ),
]


def built(member: Member) -> nn.Module:
    """Build a member whose residual functions all matter."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return wake(member.build(), member.example)


@pytest.mark.parametrize("member", MEMBERS, ids=str)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_family_is_converted_exactly_and_restored(member: Member):
    model = built(member)
    before = copy.deepcopy(model.state_dict())
    converted = convert(
        model, member.example, ConversionConfig(gamma=0.5, plan_memory=member.plan_memory)
    )
    assert len(plan_of(converted).runs) == member.num_runs

    # Near the original at small gamma, and nearer in proportion.
    found = differences(model, plan_of(converted), member.example, (1 / 256, 1 / 1024, 1 / 4096))
    assert found[1] < 0.02
    assert 2.5 < found[0] / found[1] < 6
    assert 3.5 < found[1] / found[2] < 4.6

    # A training step gives the gradients of stored activations, bit for bit.
    converted.train()
    stored = copy.deepcopy(converted)
    for module in stored.modules():
        if isinstance(module, MomentumStack):
            module.backward_mode = "stored"
    for network in (converted, stored):
        torch.manual_seed(3)
        first_output(network, member.example).float().square().mean().backward()
    for (name, one), (_, other) in zip(
        converted.named_parameters(), stored.named_parameters(), strict=True
    ):
        assert (one.grad is None) == (other.grad is None), name
        assert one.grad is None or torch.equal(one.grad, other.grad), name

    # The original takes the weights back, and was never changed.
    model.load_state_dict(restore(converted).state_dict(), strict=True)
    assert list(restore(converted).state_dict()) == list(before)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_layer_drop_of_wav2vec2_is_refused_with_the_remedy():
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    from momentum_core.errors import ConversionError

    config = Wav2Vec2Config(
        layerdrop=0.1,
        mask_time_prob=0.0,
        conv_dim=(32,),
        conv_stride=(5,),
        conv_kernel=(10,),
        num_feat_extract_layers=1,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        **SMALL,
    )
    with pytest.raises(ConversionError, match="switch layer drop off"):
        convert(Wav2Vec2Model(config), {"input_values": torch.randn(2, 400)})
