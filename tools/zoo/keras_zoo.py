"""Public Keras architectures by name, with random weights: builders and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from trainable_quantizers_keras.keras_version import keras

Network = tuple[Callable[[], Any], Any]

APPLICATIONS = {
    32: "MobileNet MobileNetV2 MobileNetV3Small MobileNetV3Large ResNet50 ResNet50V2 DenseNet121 EfficientNetB0 "
    "EfficientNetV2B0 VGG16 ConvNeXtTiny",
    96: "Xception InceptionV3 InceptionResNetV2 NASNetMobile",
}
_TEXT = {"vocabulary_size": 100, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "intermediate_dim": 64}
_DECODER = {
    **{key: _TEXT[key] for key in ("vocabulary_size", "num_layers", "hidden_dim", "intermediate_dim")},
    "num_query_heads": 4,
    "num_key_value_heads": 2,
}
_HEADS = {**{key: _TEXT[key] for key in _TEXT if key != "num_heads"}, "num_attention_heads": 4}
_IMAGE = {"image_shape": (32, 32, 3)}
_VIT = {**_IMAGE, "patch_size": 8, "num_layers": 2, "num_heads": 4, "hidden_dim": 32}
BACKBONES: dict[str, dict[str, Any]] = {
    "Bert": {**_TEXT, "max_sequence_length": 16},
    "Roberta": {**_TEXT, "max_sequence_length": 16},
    "DistilBert": {**_TEXT, "max_sequence_length": 16},
    "Electra": {
        **{key: value for key, value in _TEXT.items() if key != "vocabulary_size"},
        "vocab_size": 100,
        "embedding_dim": 16,
        "max_sequence_length": 16,
    },
    "Albert": {**_TEXT, "embedding_dim": 16, "max_sequence_length": 16},
    "DebertaV3": {**_TEXT, "max_sequence_length": 16, "bucket_size": 8},
    "FNet": {key: value for key, value in _TEXT.items() if key != "num_heads"} | {"max_sequence_length": 16},
    "GPT2": {**_TEXT, "max_sequence_length": 16},
    "GPTNeoX": _TEXT,
    "OPT": {**_TEXT, "max_sequence_length": 16},
    "Bloom": _TEXT,
    "Bart": {**_TEXT, "max_sequence_length": 16},
    "T5": {**_TEXT, "key_value_dim": 8},
    "Whisper": {**_TEXT, "num_mels": 8, "max_encoder_sequence_length": 32, "max_decoder_sequence_length": 16},
    "Llama": _DECODER,
    "Mistral": _DECODER,
    "Qwen": _DECODER,
    "Gemma": {**_DECODER, "head_dim": 8},
    "Phi3": _DECODER,
    "Llama3": _DECODER,
    "Qwen3": {**_DECODER, "head_dim": 8},
    "Falcon": _HEADS,
    "SmolLM3": {
        **_HEADS,
        "num_key_value_heads": 2,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rope_layer_enabled_list": [True, False],
        "layer_types": ["full_attention"] * 2,
        "mlp_bias": False,
        "layer_norm_epsilon": 1e-6,
        "max_position_embeddings": 16,
        "rope_theta": 1e4,
        "partial_rotary_factor": 1.0,
    },
    "XLMRoberta": {**_TEXT, "max_sequence_length": 16},
    "ViT": {**_VIT, "mlp_dim": 64},
    "DeiT": {**_VIT, "intermediate_dim": 64},
    "DINOV2": {**_VIT, "intermediate_dim": 64},
    "SwinTransformer": {
        **_IMAGE,
        "patch_size": 4,
        "embed_dim": 16,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": 4,
    },
    "ResNet": {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [3],
        "stackwise_num_filters": [64, 128],
        "stackwise_num_blocks": [1, 1],
        "stackwise_num_strides": [1, 2],
        "block_type": "basic_block",
        "image_shape": (32, 32, 3),
    },
    "DenseNet": {"stackwise_num_repeats": [2, 2], "growth_rate": 8, **_IMAGE},
    "CSPNet": {
        "stem_filters": 8,
        "stem_kernel_size": 3,
        "stem_strides": 1,
        "stackwise_depth": [1, 1],
        "stackwise_strides": [1, 2],
        "stackwise_num_filters": [8, 16],
        "block_type": "dark_block",
        "stage_type": "dark",
        **_IMAGE,
    },
    "VGG": {"stackwise_num_repeats": [1, 1], "stackwise_num_filters": [8, 16], **_IMAGE},
    "MiT": {
        "layerwise_depths": [1, 1],
        "layerwise_num_heads": [1, 2],
        "layerwise_sr_ratios": [4, 2],
        "num_layers": 2,
        "max_drop_path_rate": 0.1,
        "layerwise_patch_sizes": [7, 3],
        "layerwise_strides": [4, 2],
        "hidden_dims": [16, 32],
        "image_shape": (32, 32, 3),
    },
}


def networks() -> Iterator[tuple[str, Network]]:
    """Names, builders and batches of all networks."""
    rng = np.random.default_rng(0)
    for size, names in APPLICATIONS.items():
        images = rng.random((2, size, size, 3)).astype("float32")
        for name in names.split():
            yield f"keras.applications {name}", (_of_applications(name, size), images)
    for name, options in BACKBONES.items():
        yield f"keras-hub {name}", (_of_hub(name, options), None)


def _of_applications(name: str, size: int) -> Callable[[], Any]:
    def build() -> Any:
        return getattr(keras.applications, name)(input_shape=(size, size, 3), weights=None, classes=10)

    return build


def _of_hub(name: str, options: dict[str, Any]) -> Callable[[], Any]:
    def build() -> Any:
        import keras_hub

        return getattr(keras_hub.models, f"{name}Backbone")(**options)

    return build


def batch_for(model: Any) -> Any:
    """A batch like the inputs of a functional model: tokens, masks of ones, numbers from 0 to 1."""
    rng = np.random.default_rng(0)

    def values(name: str, symbol: Any) -> Any:
        shape = (2, *(size or 12 for size in symbol.shape[1:]))
        if "float" in str(symbol.dtype):
            return rng.random(shape).astype("float32")
        mask = "mask" in name or "segment" in name
        return np.ones(shape, "int32") if mask and "segment" not in name else rng.integers(0, 2 if mask else 90, shape)

    given = model.input
    if isinstance(given, dict):
        return {name: values(name, symbol) for name, symbol in given.items()}
    return values("", given)
