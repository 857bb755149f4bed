"""Well-known networks, all the way: prepared, trained, converted, saved, reloaded, exported."""

import pytest
import torch
import trainable_quantizers_torch as tq
from torch import nn
from torch_networks import Recurrent, Shared, WithOwn, call
from transformers import (
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

IMAGES = {"pixel_values": torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}


def res_net():
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [2, 1, 1]}
    return ResNetForImageClassification(ResNetConfig(**sizes, layer_type="bottleneck", num_labels=3))


def mobile_net():
    return MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.35, image_size=32, num_labels=3))


def vision_transformer():
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 48}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=3))


class Inherited(nn.Sequential):
    """Subclassed, and with another forward."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8))
        self.head = nn.Linear(8, 4)

    def forward(self, pixel_values):
        for layer in (self[0], self[1], self[2], self[3]):
            pixel_values = layer(pixel_values)
        return self.head(pixel_values.mean((2, 3)))


FILES = ("pt2", "onnx")
ARCHITECTURES = {  # how to build it, a batch, files: tracing takes its time, and test_export has both of many networks
    "ResNet": (res_net, IMAGES, ("pt2",)),
    "MobileNetV2": (mobile_net, IMAGES, ("onnx",)),
    "ViT": (vision_transformer, IMAGES, ("pt2",)),
    "LSTM and GRU": (Recurrent, (torch.randn(3, 5, 4),), ("pt2",)),
    "shared layers": (Shared, (torch.randn(5, 4), torch.randn(5, 4), torch.randint(0, 10, (5,))), FILES),
    "subclassed": (Inherited, IMAGES, FILES),
    "a layer of one's own": (WithOwn, (torch.randn(5, 4),), FILES),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name in ("MobileNetV2", "ViT"))) for name in ARCHITECTURES]
)
def test_all_the_way(name, tmp_path):
    torch.manual_seed(0)
    build, inputs, files = ARCHITECTURES[name]
    network = build()
    model = tq.prepare(network, tq.Recipe.preset("power_of_two_4bit"), [inputs], verbose=False)
    optimizer = torch.optim.AdamW(tq.parameter_groups(model, weight_decay=1e-4), lr=1e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = (call(model, inputs) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval()
    deployed = tq.convert(model)
    assert tq.verify(model, deployed, [inputs]).identical
    torch.save(deployed, tmp_path / "deployed.pt")
    assert tq.verify(model, torch.load(tmp_path / "deployed.pt", weights_only=False), [inputs]).identical
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = tq.prepare(network, tq.Recipe.preset("power_of_two_4bit"), [inputs], verbose=False)
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert tq.verify(again, deployed, [inputs]).identical
    if "pt2" in files:
        sizes = "fixed" if name == "shared layers" else "free"
        found = tq.export(deployed, tmp_path / "deployed.pt2", inputs, sizes=sizes)
        assert found.identical, str(found)
    if "onnx" in files:
        found = tq.export(deployed, tmp_path / "deployed.onnx", inputs)
        # two runtimes add up the products of a convolution in other orders: last bits, which ties turn into steps
        assert found.differing <= 0.35 * found.elements, str(found)
