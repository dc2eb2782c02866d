"""Networks of other packages and of the user's own, and every way in which they can be broken."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from ttq_energy import models
from ttq_energy.errors import InputError

TIMM = """
    from types import SimpleNamespace
    from torch import nn

    class Net(nn.Sequential):
        pretrained = None

    def is_model(name):
        return name in list_models()

    def list_models():
        return ["tinynet_a", "tinynet_b"]

    def create_model(name, pretrained, in_chans=3, num_classes=10):
        net = Net(nn.Conv2d(in_chans, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        net.append(nn.Linear(4, num_classes))
        net.pretrained = pretrained
        return net

    models = SimpleNamespace(
        get_pretrained_cfg=lambda name: SimpleNamespace(input_size=(3, 32, 48))
    )
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes an importable module, gone again after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        sys.modules.pop(name, None)
        names.append(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)


def error_of(name, **options):
    with pytest.raises(InputError) as error:
        models.build(name, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "install"),
    [
        ("timm:resnet18", 'pip install "ttq-energy[timm]"'),
        ("torchvision:resnet18", "pip install torchvision"),
        ("hf:bert", 'pip install "ttq-energy[transformers]"'),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(name, install, monkeypatch):
    package = {"hf": "transformers"}.get(name.split(":")[0], name.split(":")[0])
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, package)
    monkeypatch.setattr(sys, "meta_path", [_Absent(package), *sys.meta_path])
    assert install in error_of(name)


class _Absent:
    """An import hook that finds one package missing."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def test_a_torchvision_built_for_another_torch_is_one_line(package):
    package("torchvision", "raise RuntimeError('operator torchvision::nms does not exist')")
    message = error_of("torchvision:resnet18")
    assert "operator torchvision::nms does not exist" in message
    assert torch.__version__ in message


def test_a_package_whose_own_import_is_missing_says_which(package):
    package("timm", "import surely_not_there")
    assert "surely_not_there" in error_of("timm:resnet18")


def test_a_timm_network_is_built_without_its_published_weights(package):
    package("timm", TIMM)
    model = models.build("timm:tinynet_a", in_chans=1, num_classes=7)
    assert model.pretrained is False
    x = models.example_input("timm:tinynet_a", 2, in_chans=1, num_classes=7)
    assert x.shape == (2, 1, 32, 48)
    assert model(x).shape == (2, 7)


def test_wrong_names_and_options_of_timm(package):
    package("timm", TIMM)
    assert "did you mean 'tinynet_" in error_of("timm:tinynet_c")
    assert "unexpected keyword argument 'classes'" in error_of("timm:tinynet_a", classes=7)
    assert "would need a network" in error_of("timm:tinynet_a", pretrained=True)


def test_weights_of_the_real_packages_load_where_they_work():
    """In a process of its own, since a broken torchvision cannot be imported twice."""
    script = """
from ttq_energy import models
from ttq_energy.errors import InputError
for theirs, ours in (
    ("timm:vit_small_patch16_224", "vit-s16"),
    ("torchvision:resnet18", "resnet18"),
    ("torchvision:mobilenet_v2", "mobilenetv2"),
):
    try:
        model = models.build(theirs)
    except InputError as error:
        assert "installed" in str(error), error
        continue
    models.build(ours).load_state_dict(model.state_dict())
    print(theirs)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if not done.stdout:
        pytest.skip("neither timm nor torchvision works here")


# -- the user's own -------------------------------------------------------------------------------

OWN = """
    import torch
    from torch import nn

    def tiny(width=3):
        return nn.Linear(width, 2)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()

    def number():
        return 3

    def fails():
        raise RuntimeError("no luck\\nat all")

    constant = 5

    def example_input(batch_size, width=3):
        return torch.zeros(batch_size, width)
"""


@pytest.fixture
def own(package):
    package("own_networks", OWN)
    package("bare_networks", "from torch.nn import Identity\ndef net():\n    return Identity()")


def test_a_function_or_class_of_the_users(own):
    assert models.build("own_networks:tiny", width=4).in_features == 4
    assert isinstance(models.build("own_networks:Net"), nn.Module)
    assert models.example_input("own_networks:tiny", 2, width=4).shape == (2, 4)


def test_the_working_folder_is_importable(tmp_path, monkeypatch):
    (tmp_path / "networks_here.py").write_text("from torch.nn import Identity as Net\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert isinstance(models.build("networks_here:Net"), nn.Identity)
    assert sys.path == before
    del sys.modules["networks_here"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:net", "no module named 'no_such_module'"),
        ("own_networks.part:net", "no module named 'own_networks.part'"),
        ("own_networks:tinny", "did you mean 'tiny'"),
        ("own_networks:number", "expected an nn.Module, got int"),
        ("own_networks:constant", "expected a function or class, got int"),
        ("own_networks:fails", "RuntimeError: no luck"),
        ("tim:resnet18", "did you mean 'timm:'"),
        ("own networks:net", "package.module:function"),
    ],
)
def test_wrong_names_of_the_users(own, name, message):
    assert message in error_of(name)


def test_options_that_the_users_function_does_not_take(own):
    assert "unexpected keyword argument 'wdth'" in error_of("own_networks:tiny", wdth=4)


def test_without_an_example_the_user_is_told_what_to_define(own):
    with pytest.raises(InputError, match=r"define example_input\(batch_size\) in bare_networks"):
        models.example_input("bare_networks:net")
