"""The user's own Datasets, and what is said of those that do not fit."""

import sys
import textwrap

import pytest
import torch

from ttq_energy import datasets
from ttq_energy.errors import InputError

OWN = """
    import torch
    from torch.utils.data import Dataset, TensorDataset

    class Lazy(Dataset):
        classes = ["a", "b", "c", "d"]

        def __init__(self, count=8, size=4):
            self.count, self.size = count, size

        def __len__(self):
            return self.count

        def __getitem__(self, index):
            if index >= self.count:
                raise IndexError(index)
            return torch.full((1, self.size, self.size), float(index)) + torch.rand(()), index % 4

    def lazy(size=4):
        return Lazy(8, size), Lazy(4, size)

    def tensors():
        return (TensorDataset(torch.rand(9, 1, 3, 3), torch.arange(9) % 3),
                TensorDataset(torch.rand(4, 1, 3, 3), torch.arange(4) % 3))

    def text():
        x = torch.arange(60).view(6, 10) % 7
        return TensorDataset(x, (x + 1) % 7), TensorDataset(x, (x + 1) % 7)

    def whole():
        from ttq_energy import datasets
        return datasets.load("digits")

    def one():
        return Lazy()

    def different():
        return Lazy(8, 4), Lazy(8, 5)

    def no_tensor():
        return [("picture", 1)], [("picture", 1)]

    def integers():
        part = TensorDataset(torch.ones(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4))
        return part, part

    def no_pair():
        return [torch.rand(3)], [torch.rand(3)]

    def empty():
        return Lazy(0), Lazy(4)

    def fails():
        raise FileNotFoundError("data.bin: no such file")
"""


@pytest.fixture(autouse=True)
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_data.py").write_text(textwrap.dedent(OWN))
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("own_data", None)


def test_a_dataset_read_example_by_example():
    data = datasets.load("own_data:lazy", size=5)
    assert (data.task, data.num_classes, data.input_shape) == ("classification", 4, (1, 5, 5))
    x, y = next(iter(data.train_loader(4, seed=0)))
    assert x.shape == (4, 1, 5, 5)
    assert y.dtype == torch.int64
    again, _ = next(iter(datasets.load("own_data:lazy", size=5, workers=2).train_loader(4, seed=0)))
    assert torch.equal(x, again)


def test_tensors_and_tokens():
    assert datasets.load("own_data:tensors").num_classes == 3
    text = datasets.load("own_data:text")
    assert (text.task, text.num_classes, text.input_shape) == ("language-model", 7, (10,))


def test_a_function_may_return_data_ready_made():
    assert datasets.load("own_data:whole").name == "digits"


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        ("lasy", {}, "did you mean 'lazy'"),
        ("lazy", {"sise": 3}, "unexpected keyword argument 'sise'"),
        ("lazy", {"workers": -1}, "workers"),
        ("one", {}, "expected .train, test., two torch Datasets, got Lazy"),
        ("different", {}, "training examples are float32"),
        ("no_tensor", {}, r"train\[0\]: expected x as a Tensor, got str"),
        ("integers", {}, r"train\[0\]: expected x float32"),
        ("no_pair", {}, r"train\[0\]: expected .x, y."),
        ("empty", {}, "train: expected a torch Dataset with examples"),
        ("fails", {}, "FileNotFoundError: data.bin: no such file"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(function, options, message):
    with pytest.raises(InputError, match=message) as error:
        datasets.load(f"own_data:{function}", **options)
    assert "\n" not in str(error.value)
