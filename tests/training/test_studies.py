"""Every shipped study that trains reads, and its networks, quantizers and layer names are real."""

import pytest
import torch

import ttq_energy as te
from ttq_energy import variants
from ttq_energy.files import profiles_folder
from ttq_energy.quantization import config_from_dict, quantized_layers
from ttq_energy.study import load_study
from ttq_energy.training.optimization import make_optimizer

NAMES = sorted(file.stem for file in profiles_folder("studies").glob("*.yaml"))
STUDIES = [name for name in NAMES if load_study(name).training is not None]


@pytest.mark.parametrize("name", STUDIES)
def test_networks_can_be_prepared_as_the_study_says(name):
    study = load_study(name)
    assert study.name == name
    for spec in study.models:
        for variant in variants.resolve(study.variants):
            if variant.quantizer is None or not variant.trained:
                continue
            # Shapes alone, which is quick for ImageNet's networks too.
            with torch.device("meta"):
                model = te.models.build(spec.name, **spec.options)
                te.prepare_(model, config_from_dict(variant.quantizer), skip=variant.skip)
            assert quantized_layers(model)


def test_the_released_code_quantizes_the_classifier_and_the_paper_does_not():
    study = load_study("ttq-cifar10-resnet20")
    found = {v.name: v for v in variants.resolve(study.variants)}
    last = {}
    for name in ("ttq", "ttq-released"):
        model = te.models.build("resnet20", **study.models[0].options)
        te.prepare_(model, config_from_dict(found[name].quantizer), skip=found[name].skip)
        last[name] = "fc" in quantized_layers(model)
    assert last == {"ttq": False, "ttq-released": True}
    assert study.training.scale_weight_decay


def test_alexnets_weight_decay_acts_on_fully_connected_layers_alone():
    study = load_study("ttq-imagenet-alexnet")
    with torch.device("meta"):
        model = te.models.build("alexnet", **study.models[0].options)
    optimizer = make_optimizer(model, study.training)
    decayed = {
        id(p): group["weight_decay"]
        for group in optimizer.param_groups
        for p in group["params"]
        if group["weight_decay"]
    }
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert names == {f"classifier.{place}.weight" for place in (0, 3, 6)}
    assert set(decayed.values()) == {5e-6}
    assert all(group["eps"] == 1e-5 for group in optimizer.param_groups)
