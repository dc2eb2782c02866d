"""Layers of a class of their own: packed where a plain one computes the same, else told."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ttq_energy as te
from ttq_energy.errors import InputError
from ttq_energy.kernels import describe
from ttq_energy.quantization import quantized_layers


class Standardized(nn.Conv2d):
    """timm's StdConv2d: weights of no mean and unit variance for each output."""

    def forward(self, x):
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, training=True
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Same(nn.Conv2d):
    """timm's Conv2dSame: TensorFlow's padding, which depends on the input's size."""

    def forward(self, x):
        around = []
        for axis in (1, 0):
            size, step, kernel = x.shape[axis - 2], self.stride[axis], self.kernel_size[axis]
            missing = max(0, (-(-size // step) - 1) * step + kernel - size)
            around += [missing // 2, missing - missing // 2]
        return F.conv2d(
            F.pad(x, around), self.weight, self.bias, self.stride, (0, 0), (1, 1), self.groups
        )


class Cast(nn.Linear):
    """timm's Linear: another forward that computes the same."""

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


class Router(nn.Linear):
    """Gives what torch's own does and something beside it."""

    def forward(self, x):
        y = F.linear(x, self.weight, self.bias)
        return y, y.softmax(-1)


class Halves(nn.Linear):
    """Linear in its weight, and not what torch's own computes."""

    def forward(self, x):
        return F.linear(x, self.weight, self.bias) / 2


def between(*layers):
    """These layers inside a network whose first and last stay as they are."""
    return nn.Sequential(nn.Conv2d(3, 8, 1), *layers, nn.Conv2d(8, 2, 1)).eval()


IMAGES = torch.randn(2, 3, 11, 10, generator=torch.Generator().manual_seed(2))


def test_standardized_weights_are_not_made_ternary_and_the_share_is_told():
    model = between(nn.Conv2d(8, 8, 3, padding=1), Standardized(8, 8, 3, padding=1))
    with pytest.warns(UserWarning, match="of the parameters stay in full precision.*Standardized"):
        te.prepare_(model, te.TTQ())
    assert list(quantized_layers(model)) == ["1"]
    counts = te.count(between(nn.Conv2d(8, 8, 1), Standardized(8, 8, 3)), IMAGES, variant="ttq")
    assert counts.set_index("layer").loc["2", "weight_kind"] == "dense"


def test_nothing_but_standardized_weights_is_an_error_that_names_them():
    with pytest.raises(InputError, match="full precision, in kinds of modules: Standardized x1"):
        te.prepare_(between(Standardized(8, 8, 3)), te.TTQ())
    with pytest.raises(InputError, match="overrides: layer '1': Standardized makes other weights"):
        te.prepare_(
            between(Standardized(8, 8, 3), nn.Conv2d(8, 8, 1)), te.TTQ(), overrides={"1": te.TWN()}
        )


@pytest.mark.parametrize("activations", ["fp32", "int8"])
@pytest.mark.parametrize(
    "layer",
    [
        lambda: Same(8, 8, 3, stride=2),
        lambda: Same(8, 8, (2, 5), groups=4),
        lambda: nn.Sequential(nn.Flatten(2), Cast(110, 12), nn.Unflatten(2, (3, 4))),
    ],
)
def test_the_same_computed_otherwise_is_packed(layer, activations):
    model = te.prepare_(between(layer()), te.TTQ())
    packed = te.convert(model, activations)
    assert f"ttq-energy {activations} packed" in describe(packed)
    for x in (IMAGES,) if isinstance(model[1], nn.Sequential) else (IMAGES, IMAGES[..., 1:, 2:]):
        close = {"rtol": 1e-4, "atol": 1e-5} if activations == "fp32" else {"rtol": 0, "atol": 0.1}
        torch.testing.assert_close(packed(x), model(x), **close)


@pytest.mark.parametrize("kind", [Router, Halves])
def test_what_computes_something_else_stays_in_floats_and_is_told(kind):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            self.odd = kind(6, 6)

        def forward(self, x):
            y = self.odd(self.inner(self.first(x)))
            return self.last(y[0] if isinstance(y, tuple) else y)

    x = torch.randn(5, 6)
    model = te.prepare_(Net().eval(), te.TTQ(), overrides={"odd": te.TTQ()}, example_input=x)
    assert set(quantized_layers(model)) == {"inner", "odd"}
    before = copy.deepcopy(model)
    with pytest.warns(UserWarning, match="1 of 2 quantized weights stay in float arithmetic.*odd"):
        packed = te.convert(model)
    torch.testing.assert_close(packed(x), model(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(model(x), before(x))
    assert set(packed.odd.weight.unique().tolist()) <= {
        float(v) for v in (*quantized_layers(model)["odd"].effective().unique(), 0.0)
    }
    assert "torch float32 linear x3" in describe(packed)


class Around(nn.Module):
    """Swin v2's attention multiplies with its layer's weight itself; T5 asks for its type."""

    def __init__(self, multiplies):
        super().__init__()
        self.first, self.inner, self.odd = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.last, self.multiplies = nn.Linear(6, 2), multiplies

    def forward(self, x):
        x = self.inner(self.first(x))
        if self.multiplies:
            x = F.linear(x, self.odd.weight, self.odd.bias)
        else:
            x = self.odd(x.to(self.odd.weight.dtype).view(-1, self.odd.weight.shape[1]))
        return self.last(x)


def test_a_weight_that_others_multiply_with_stays_in_floats_where_an_example_shows_it():
    x = torch.randn(5, 6)
    model = te.prepare_(Around(True).eval(), te.TTQ(), example_input=x, overrides={"odd": te.TTQ()})
    with pytest.warns(UserWarning, match="stay in float arithmetic.*odd"):
        packed = te.convert(model, example_input=x)
    torch.testing.assert_close(packed(x), model(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="layer 'odd': the module around it reads its weight"):
        te.convert(model)(x)


def test_a_packed_layer_tells_type_and_shape_of_its_weight(recwarn):
    x = torch.randn(5, 6)
    model = te.prepare_(Around(False).eval(), te.TTQ(), example_input=x)
    packed = te.convert(model)
    wanted = model(x)
    stored = io.BytesIO()
    torch.save(packed, stored)
    stored.seek(0)
    for one in (packed, copy.deepcopy(packed), torch.load(stored, weights_only=False)):
        torch.testing.assert_close(one(x), wanted, rtol=1e-4, atol=1e-5)
        assert "odd.weight" not in one.state_dict()
    assert not [w for w in recwarn if w.category is UserWarning]
