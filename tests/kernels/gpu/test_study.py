"""The shipped GPU study reads, and every model in it takes its options."""

from ttq_energy import models, variants
from ttq_energy.study import load_study


def test_the_gpu_study_is_valid():
    study = load_study("gpu")
    assert study.measurement.device == "cuda"
    assert study.measurement.meters == ("nvml",)
    assert study.measurement.batch_sizes == (1, 256)
    for model in study.models:
        models.example_input(model.name, 1, **model.options)
    by_name = {variant.name: variant for variant in variants.resolve(study.variants)}
    assert by_name["ttq-bf16"].execution == "packed-bf16"
    assert by_name["ttq-int8"].execution == "packed-int8"
    assert study.training is None, "weights are random"
