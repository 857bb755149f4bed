"""Public PyTorch architectures by name, with random weights: builders and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

Network = tuple[Callable[[], nn.Module], Any]

TORCHVISION = {
    64: "alexnet resnet18 resnet50 mobilenet_v2 mobilenet_v3_small efficientnet_b0 shufflenet_v2_x0_5 squeezenet1_1 "
    "densenet121 googlenet mnasnet0_5 regnet_y_400mf convnext_tiny vgg11_bn swin_t",
    224: "vit_b_16 maxvit_t",
    299: "inception_v3",
}
TIMM = (
    "nf_regnet_b0 resnetv2_50x1_bit repvgg_a0 ghostnet_050 mobilenetv4_conv_small efficientnet_lite0 "
    "deit_tiny_patch16_224 convnextv2_atto mixer_s32_224 levit_128s poolformer_s12 edgenext_xx_small mobilevit_xxs "
    "hrnet_w18_small res2net50_14w_8s xcit_nano_12_p16_224 regnety_002 tf_efficientnetv2_b0 fbnetc_100 rexnet_100 "
    "skresnet18 cspresnet50 dla34 pvt_v2_b0 fastvit_t8 efficientvit_b0 hardcorenas_a gmlp_s16_224 tinynet_e lcnet_050"
)
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_TEXT = {**_SIZES, "vocab_size": 100, "max_position_embeddings": 64}
_DECODER = {**_TEXT, "use_cache": False}  # torch.export cannot give back a cache, of the float model either
_IMAGE = {**_SIZES, "image_size": 32, "patch_size": 8}
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Bert": ("ForSequenceClassification", _TEXT),
    "Roberta": ("ForSequenceClassification", _TEXT),
    "Electra": ("ForSequenceClassification", {**_TEXT, "embedding_size": 32}),
    "Albert": ("ForSequenceClassification", {**_TEXT, "embedding_size": 16}),
    "GPT2": ("LMHeadModel", {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, "use_cache": False}),
    "Llama": ("ForCausalLM", {**_DECODER, "num_key_value_heads": 2}),
    "Qwen2": ("ForCausalLM", {**_DECODER, "num_key_value_heads": 2}),
    "GPTNeoX": ("ForCausalLM", _DECODER),
    "ViT": ("ForImageClassification", _IMAGE),
    "Beit": ("ForImageClassification", _IMAGE),
    "ConvNext": ("ForImageClassification", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}),
    "MobileNetV2": ("ForImageClassification", {"depth_multiplier": 0.35, "image_size": 32}),
}


def networks() -> Iterator[tuple[str, Network]]:
    """Names, builders and batches of all networks whose packages are installed."""
    for size, names in TORCHVISION.items():
        for name in names.split():
            yield f"torchvision {name}", (_of_torchvision(name), torch.randn(2, 3, size, size))
    for name in TIMM.split():
        yield f"timm {name}", (_of_timm(name), torch.randn(2, 3, 224, 224))
    for name in TRANSFORMERS:
        yield f"transformers {name}", _of_transformers(name)


def _of_torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return getattr(import_torchvision().models, name)(weights=None)

    return build


def import_torchvision() -> Any:
    """The package, also beside a build of PyTorch that its compiled operators do not fit."""
    try:
        import torchvision
    except RuntimeError:  # operator torchvision::nms does not exist
        for name in ("nms", "qnms"):
            schema = f"torchvision::{name}"
            torch.library.define(schema, "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision


def _of_timm(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import_torchvision()
        import timm

        return timm.create_model(name, pretrained=False)

    return build


def _of_transformers(name: str) -> Network:
    suffix, options = TRANSFORMERS[name]
    images = suffix == "ForImageClassification"
    inputs = {"pixel_values": torch.randn(2, 3, 32, 32)} if images else {"input_ids": torch.randint(0, 90, (2, 12))}

    def build() -> nn.Module:
        import_torchvision()  # which transformers imports
        import transformers

        configuration = getattr(transformers, f"{name}Config")(**options)
        return getattr(transformers, f"{name}{suffix}")(configuration)

    return build, inputs
