"""Networks by name have the published sizes, take what they say and refuse what they do not."""

import pytest
import torch
from torch import fx, nn

from ttq_energy import models
from ttq_energy.errors import InputError

PUBLISHED = {
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "alexnet": 61_100_840,
    "vgg16": 138_357_544,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "mobilenetv2": 3_504_872,
    "vit-s16": 22_050_664,
    "vit-b16": 86_567_656,
}
PUBLISHED_WITH_OPTIONS = [
    ("alexnet", {"variant": "original"}, 60_965_224),
    ("vgg16", {"batch_norm": True}, 138_365_992),
    ("transformer-lm", {"preset": "tinyllama-1.1b"}, 1_100_048_384),
    ("transformer-lm", {"preset": "llama-2-7b"}, 6_738_415_616),
]
SMALL = [
    ("resnet20", {"image_size": 8, "in_channels": 1}, (2, 10)),
    ("resnet20", {"image_size": 8, "shortcut": "B"}, (2, 10)),
    ("resnet20", {"image_size": 8, "preactivation": True}, (2, 10)),
    ("resnet56", {"image_size": 8, "num_classes": 100}, (2, 100)),
    ("alexnet", {"image_size": 64, "num_classes": 7}, (2, 7)),
    ("alexnet", {"image_size": 67, "variant": "original", "num_classes": 7}, (2, 7)),
    ("alexnet", {"image_size": 64, "variant": "ttq", "num_classes": 7}, (2, 7)),
    ("vgg7", {"image_size": 8}, (2, 10)),
    ("vgg16", {"image_size": 32}, (2, 1000)),
    ("resnet18", {"image_size": 32}, (2, 1000)),
    ("resnet50", {"image_size": 32}, (2, 1000)),
    ("mobilenetv2", {"image_size": 32, "width": 0.5}, (2, 1000)),
    ("vit-s16", {"image_size": 32, "num_classes": 5}, (2, 5)),
]


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def on_meta(name, **options):
    """A network without memory for its weights."""
    with torch.device("meta"):
        return models.build(name, **options)


@pytest.mark.parametrize("info", models.available(), ids=lambda info: info.name)
def test_the_listed_parameters_are_those_of_the_network(info):
    assert parameters(on_meta(info.name)) == info.parameters
    assert info.parameters == PUBLISHED.get(info.name, info.parameters)


def test_every_published_count_is_of_a_listed_network():
    assert set(PUBLISHED) <= {info.name for info in models.available()}


@pytest.mark.parametrize(("name", "options", "count"), PUBLISHED_WITH_OPTIONS)
def test_published_counts_with_options(name, options, count):
    assert parameters(on_meta(name, **options)) == count


@pytest.mark.parametrize("info", models.available(), ids=lambda info: info.name)
def test_the_listed_input_shape_is_that_of_the_example(info):
    assert tuple(models.example_input(info.name, 3).shape) == (3, *info.input_shape)


@pytest.mark.parametrize(("name", "options", "shape"), SMALL)
def test_forward_and_graph(name, options, shape):
    model = models.build(name, **options).eval()
    x = models.example_input(name, shape[0], **options)
    with torch.inference_mode():
        y = model(x)
        traced = fx.symbolic_trace(model)(x)
    assert y.shape == shape
    assert torch.isfinite(y).all()
    assert torch.equal(traced, y)


def test_the_full_size_alexnets_reach_their_pooling_with_6_by_6_pixels():
    for variant in ("torchvision", "original", "ttq"):
        features = on_meta("alexnet", variant=variant).features
        x = models.example_input("alexnet", variant=variant).to("meta")
        assert features(x).shape == (1, 256, 6, 6)


def test_local_response_normalization_is_that_of_the_paper():
    """b = a / (2 + 1e-4 * sum of a^2 over 5 channels) ^ 0.75 (Krizhevsky et al. 2012, 3.3)."""
    layer = next(
        m
        for m in on_meta("alexnet", variant="original").modules()
        if isinstance(m, nn.LocalResponseNorm)
    )
    a = 30 * torch.randn(1, 7, 1, 1, dtype=torch.float64)
    squares = [(a[0, max(0, i - 2) : i + 3] ** 2).sum() for i in range(7)]
    expected = torch.stack([a[0, i] / (2 + 1e-4 * squares[i]) ** 0.75 for i in range(7)])
    torch.testing.assert_close(layer(a)[0], expected)


def test_tensorflow_same_pooling_of_the_ttq_alexnet():
    """SAME pads 54 pixels by one at the end and 27 by one on each side (with minus infinity)."""
    pools = [m for m in on_meta("alexnet", variant="ttq").modules() if isinstance(m, nn.MaxPool2d)]
    for pool, size, before, after in ((pools[0], 54, 0, 1), (pools[1], 27, 1, 1)):
        x = torch.randn(1, 1, size, size)
        padded = nn.functional.pad(x, (before, after, before, after), value=-torch.inf)
        assert torch.equal(pool(x), nn.functional.max_pool2d(padded, 3, 2))


def test_the_shortcut_without_parameters_subsamples_and_pads_with_zeros():
    block = models.build("resnet20").layer2[0].downsample
    x = torch.randn(1, 16, 6, 6)
    y = block(x)
    assert y.shape == (1, 32, 3, 3)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()
    assert not list(block.parameters())


def test_residual_sums_are_additions_followed_by_a_relu_module():
    graph = fx.symbolic_trace(models.build("resnet18").eval())
    modules = dict(graph.named_modules())
    sums = [n for n in graph.graph.nodes if n.op == "call_function" and n.target.__name__ == "add"]
    assert len(sums) == 8
    for node in sums:
        (user,) = node.users
        assert isinstance(modules[user.target], nn.ReLU)


def test_weights_follow_torch_seed():
    def first(seed):
        torch.manual_seed(seed)
        return models.build("resnet20").conv1.weight

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_the_example_is_the_same_at_every_call():
    assert torch.equal(models.example_input("resnet20", 2), models.example_input("resnet20", 2))
    tokens = models.example_input("lstm-lm", 2, vocab=5, sequence_length=9)
    assert tokens.shape == (2, 9)
    assert tokens.max() < 5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet-20", {}, "did you mean 'resnet20'"),
        ("resnet20", {"num_clases": 3}, "did you mean 'num_classes'"),
        ("resnet20", {"num_classes": 0}, "num_classes: must be at least 1"),
        ("resnet20", {"num_classes": "ten"}, "expected a whole number"),
        ("resnet20", {"shortcut": "C"}, "valid: A, B"),
        ("resnet20", {"shortcut": "B", "preactivation": True}, "shortcut"),
        ("alexnet", {"variant": "orginal"}, "did you mean 'original'"),
        ("vgg7", {"image_size": 30}, "multiple of 8"),
        ("vit-s16", {"image_size": 30}, "multiple of 16"),
        ("transformer-lm", {"d_model": 100, "n_heads": 3}, "n_heads"),
        ("transformer-lm", {"n_heads": 4, "n_kv_heads": 3}, "n_kv_heads"),
        ("transformer-lm", {"context": 16}, "sequence_length: must be at most context"),
        ("transformer-lm", {"preset": "lama-2-7b"}, "llama-2-7b"),
        ("lstm-lm", {"tie_weights": True}, "embedding_size"),
    ],
)
def test_wrong_options_are_told_in_one_line(name, options, message):
    with pytest.raises(InputError, match=message) as error:
        models.build(name, **options)
    assert "\n" not in str(error.value)


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(InputError, match="batch_size"):
        models.example_input("resnet20", 0)


def test_every_option_says_what_it_means():
    for info in models.available():
        for option in models.options_of(info.name):
            assert option.meaning, f"{info.name}: {option.name}"
