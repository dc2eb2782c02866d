"""Digits, text and random numbers: there on every machine."""

import pydoc_data.topics
import sys

import pytest
import torch

from ttq_energy import datasets
from ttq_energy.datasets.text import VOCABULARY, documentation, encode
from ttq_energy.errors import InputError
from ttq_energy.models.options import CHARACTERS

EVERY = ("digits", "text", "cifar10", "cifar100", "imagenet", "random")


def test_the_names():
    assert {info.name for info in datasets.available()} == set(EVERY)


# -- digits ---------------------------------------------------------------------------------------


def test_digits_are_split_by_seed_and_stratified():
    first, again = datasets.load("digits"), datasets.load("digits")
    assert (len(first.train), len(first.test)) == (1437, 360)
    assert torch.equal(first.test.images, again.test.images)
    other = datasets.load("digits", split_seed=1)
    assert not torch.equal(first.test.images, other.test.images)
    assert (torch.bincount(first.test.labels) - 36).abs().max() <= 1


def test_digits_of_training_and_test_are_different_images():
    data = datasets.load("digits")
    train = {tuple(image.flatten().tolist()) for image in data.train.images}
    test = [tuple(image.flatten().tolist()) for image in data.test.images]
    assert not train & set(test)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_digits_are_standardized_at_every_size(size):
    data = datasets.load("digits", size=size, augment=False)
    assert data.input_shape == (1, size, size)
    x = torch.cat([x for x, _ in data.train_loader(128, seed=0)])
    assert x.shape[1:] == data.input_shape
    assert abs(float(x.mean())) < 0.01
    assert abs(float(x.std()) - 1) < 0.01


def test_digits_are_shifted_but_never_mirrored():
    data = datasets.load("digits")
    assert data.train.padding == 1
    assert not data.train.flip
    background = float((0 - data.train.mean) / data.train.scale)
    assert data.train.fill == pytest.approx(background)


# -- text -----------------------------------------------------------------------------------------


def test_text_is_pythons_documentation_whole():
    text = documentation()
    for topic in pydoc_data.topics.topics.values():
        assert topic.strip() in text


def test_text_tokens():
    assert VOCABULARY == CHARACTERS == 97
    assert encode("\n ~é\t😀").tolist() == [0, 1, 95, 96, 96, 96]
    assert int(encode(documentation()).max()) < VOCABULARY


def test_text_asks_for_the_next_token():
    data = datasets.load("text", sequence_length=32)
    for loader in (data.train_loader(16, seed=0), data.test_loader(16)):
        x, y = next(iter(loader))
        assert x.dtype == y.dtype == torch.int64
        assert x.shape == y.shape == (16, 32)
        assert torch.equal(x[:, 1:], y[:, :-1])


def test_text_for_the_test_is_the_end_and_not_seen_in_training():
    data = datasets.load("text", sequence_length=64, test_fraction=0.2)
    tokens = encode(documentation())
    assert torch.equal(torch.cat([data.train.tokens, data.test.tokens]), tokens)
    assert len(data.test.tokens) == int(0.2 * len(tokens))
    x = torch.cat([x for x, _ in data.test_loader(100)]).flatten()
    assert torch.equal(x, data.test.tokens[: len(x)].long())
    assert len(data.test.tokens) - len(x) <= 64


def test_text_windows_begin_elsewhere_in_each_epoch_and_stay_inside():
    data = datasets.load("text", sequence_length=128)

    def first_window(epoch):
        batches = list(data.train_loader(64, seed=0, epoch=epoch))
        return {tuple(row[:20].tolist()) for x, _ in batches for row in x}

    one, two = first_window(0), first_window(1)
    assert len(one & two) < len(one) / 4
    fixed = datasets.load("text", augment=False)
    windows = [torch.cat([x for x, _ in fixed.train_loader(64, 0, e)]) for e in (0, 1)]
    assert {tuple(r.tolist()) for r in windows[0]} & {tuple(r.tolist()) for r in windows[1]}


def test_text_needs_the_topics(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(InputError, match="pydoc_data"):
        datasets.load("text")


# -- random ---------------------------------------------------------------------------------------


def test_random_data_has_the_shape_of_a_network():
    assert datasets.load("random", model="resnet32").input_shape == (3, 32, 32)
    tokens = datasets.load("random", model="lstm-lm", num_classes=97)
    assert tokens.task == "language-model"
    x, y = next(iter(tokens.train_loader(4, seed=0)))
    assert torch.equal(x[:, 1:], y[:, :-1])
    shaped = datasets.load("random", input_shape=[1, 5, 7], num_classes=3)
    x, y = next(iter(shaped.train_loader(4, seed=0)))
    assert x.shape == (4, 1, 5, 7)
    assert y.max() < 3


# -- wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digts", {}, "did you mean 'digits'"),
        ("digits", {"sise": 8}, "did you mean 'size'"),
        ("digits", {"size": 9}, "expected 8, 16 or 32"),
        ("text", {"sequence_length": 0}, "must be at least 1"),
        ("text", {"sequence_length": 10**6}, "too long"),
        ("text", {"test_fraction": 1.5}, "must be above 0.0 and at most 0.9"),
        ("random", {"model": "resnet-20"}, "did you mean 'resnet20'"),
        ("cifar10", {"normalization": "pixel"}, "did you mean 'per-pixel'"),
    ],
)
def test_wrong_names_and_options_are_told_in_one_line(name, options, message):
    with pytest.raises(InputError, match=message) as error:
        datasets.load(name, **options)
    assert "\n" not in str(error.value)
