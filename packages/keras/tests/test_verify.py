"""Comparing a trained model with a deployed one."""

import re
from functools import cache

import numpy as np
import pytest
import tensorflow as tf
import trainable_quantizers_keras as tq
from keras_networks import IMAGES, NETWORKS, ROWS, SHOWN, outputs

keras = tf.keras
RECIPE = tq.Recipe(tq.WeightsScheme(num_bits=4), tq.ActivationsScheme(num_bits=4))


@cache
def trained(name):
    build, inputs = NETWORKS[name]
    data = [tuple(inputs) if isinstance(inputs, list) else inputs]
    return tq.prepare(build(), RECIPE, data, verbose=False), data


@pytest.mark.parametrize("name", SHOWN)
def test_a_converted_model_is_identical(name):
    model, data = trained(name)
    found = tq.verify(model, tq.convert(model), data)
    assert found.identical
    assert found.elements == sum(array.size for array in outputs(model, NETWORKS[name][1]))
    assert len(found.layers) > 2
    assert not any(layer.differing for layer in found.layers)


@pytest.mark.parametrize(("name", "layer"), [("residual", "first"), ("shared", "inner/conv"), ("subclassed", "first")])
def test_a_difference_is_found_where_it_begins(name, layer):
    model, data = trained(name)
    deployed = tq.convert(model)
    owner = deployed
    for step in layer.split("/"):
        owner = owner.get_layer(step) if hasattr(owner, "get_layer") and name != "subclassed" else getattr(owner, step)
    bias = next(weight for weight in owner.weights if "bias" in weight.name or weight.shape.rank == 1)
    bias.assign(bias + 0.5)
    found = tq.verify(model, deployed, data)
    assert not found.identical
    assert found.first_difference.name == layer


def test_functions_are_compared_by_their_outputs():
    model, data = trained("residual")
    deployed = tq.convert(model)
    found = tq.verify(model, lambda x: deployed(x).numpy(), data)
    assert found.identical
    assert not found.layers


def test_outputs_have_names():
    model, data = trained("shared")
    found = tq.verify(model, tq.convert(model), data)
    assert [output.name for output in found.outputs] == ["output['early']", "output['joined']"]


def test_layers_stay_as_they_were():
    model, data = trained("residual")
    deployed = tq.convert(model)
    tq.verify(model, deployed, data)
    assert not any("call" in vars(layer) for layer in (*model._flatten_layers(), *deployed._flatten_layers()))


MISTAKES = {
    "no data": (lambda m: tq.verify(m, m, []), "at least one batch"),
    "other data": (lambda m: tq.verify(m, m, ROWS), "batches that the model takes"),
    "no model": (lambda m: tq.verify(m, 3, IMAGES), "a model, a function or a .tflite file, got 3"),
    "nothing trained": (lambda m: tq.verify(lambda x: x, m, IMAGES), "trained must be a model, got <function"),
    "other inputs": (lambda m: tq.verify(m, lambda x: x @ x[:1, :2], IMAGES), "takes the batches of the trained model"),
    "other outputs": (lambda m: tq.verify(m, lambda x: x, IMAGES), "of shape (6, 5), got (6, 8, 8, 3)"),
    "more outputs": (lambda m: tq.verify(m, lambda x: (x, x), IMAGES), "must be 1, got 2"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_explained(mistake):
    function, text = MISTAKES[mistake]
    with pytest.raises(tq.QuantizerError, match=re.escape(text)):
        function(trained("residual")[0])


def test_nan_equals_nan():
    model, _ = trained("residual")
    bad = IMAGES.copy()
    bad[0] = np.nan
    assert tq.verify(model, tq.convert(model), bad).identical
