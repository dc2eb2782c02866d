# ruff: noqa: NPY002 (the global random state is what is tested)
"""What a loader yields depends on seed and epoch, and on nothing else."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, TensorDataset

from ttq_energy import datasets
from ttq_energy.datasets.base import Data, ImagesInMemory, TensorsInMemory
from ttq_energy.errors import InputError


def images(count=23, size=6, **options):
    """Images whose pixels tell which image and which place they are from."""
    x = torch.arange(count * 2 * size * size, dtype=torch.float32).view(count, 2, size, size) + 1
    y = torch.arange(count) % 5
    return ImagesInMemory(x, y, torch.zeros(2, 1, 1), torch.ones(2, 1, 1), **options)


def data(train, test=None, workers=0):
    shape = tuple(train[0][0].shape)
    return Data("d", "classification", train, test or train, 5, shape, workers=workers)


def everything(loader):
    return [(x.clone(), y.clone()) for x, y in loader]


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
        for a, b in zip(first, second, strict=True)
    )


class Noisy(Dataset):
    """Examples decoded one by one, with random numbers of three libraries."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        noise = [torch.rand(()), np.random.rand(), random.random()]
        return torch.tensor([index, *noise], dtype=torch.float32), index


def test_an_epoch_repeats_exactly_and_epochs_and_seeds_differ():
    d = data(images(padding=2, flip=True))
    first = everything(d.train_loader(4, seed=1, epoch=2))
    assert same(first, everything(d.train_loader(4, seed=1, epoch=2)))
    assert not same(first, everything(d.train_loader(4, seed=1, epoch=3)))
    assert not same(first, everything(d.train_loader(4, seed=2, epoch=2)))


def test_a_loader_can_be_iterated_again():
    loader = data(images(padding=2, flip=True)).train_loader(4, seed=0)
    assert same(everything(loader), everything(loader))
    assert len(loader) == len(everything(loader)) == 6


def test_an_epoch_holds_every_example_once():
    loader = data(images()).train_loader(4, seed=0)
    first_pixels = torch.cat([x[:, 0, 0, 0] for x, _ in loader])
    assert sorted(first_pixels.tolist()) == [1 + 72 * i for i in range(23)]


def test_the_global_random_state_has_no_part_and_is_left_alone():
    d = data(Noisy())
    torch.manual_seed(1)
    first = everything(d.train_loader(4, seed=0))
    torch.manual_seed(2)
    random.seed(3)
    np.random.seed(4)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    iterator = iter(d.train_loader(4, seed=0))
    x, _ = next(iterator)
    assert torch.equal(x, first[0][0])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()


def test_worker_processes_change_nothing():
    one = everything(data(Noisy()).train_loader(5, seed=3, epoch=1))
    two = everything(data(Noisy(), workers=2).train_loader(5, seed=3, epoch=1))
    assert same(one, two)
    noise = torch.cat([x[:, 1:] for x, _ in one])
    assert len(noise.unique()) == noise.numel()


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(8, 40),
    batch_size=st.integers(1, 6),
    world_size=st.integers(1, 4),
    seed=st.integers(0, 2**40),
)
def test_ranks_side_by_side_are_one_process_with_the_whole_batch(
    count, batch_size, world_size, seed
):
    d = data(images(count, padding=1, flip=True))
    ranks = [
        everything(d.train_loader(batch_size, seed, 1, rank, world_size))
        for rank in range(world_size)
    ]
    whole = everything(d.train_loader(batch_size * world_size, seed, 1))
    assert len({len(rank) for rank in ranks}) == 1
    for step, parts in enumerate(zip(*ranks, strict=True)):
        assert len({len(x) for x, _ in parts}) == 1
        x = torch.cat([x for x, _ in parts])
        assert torch.equal(x, whole[step][0][: len(x)])
    left_out = count - sum(len(x) for rank in ranks for x, _ in rank)
    assert 0 <= left_out < 2 * world_size


def test_an_interrupted_epoch_goes_on_where_it_stopped():
    d = data(images(padding=1, flip=True))
    whole = everything(d.train_loader(4, seed=0, epoch=5))
    assert same(whole[2:], everything(d.train_loader(4, seed=0, epoch=5, start_batch=2)))


def test_no_training_batch_is_too_small_for_batch_normalization():
    assert [len(x) for x, _ in data(images(21)).train_loader(4, seed=0)] == [4] * 5
    assert [len(x) for x, _ in data(images(22)).train_loader(4, seed=0)] == [4] * 5 + [2]
    assert [len(x) for x, _ in data(images(3)).train_loader(1, seed=0)] == [1, 1, 1]


def test_the_test_set_comes_whole_in_order_and_unchanged():
    d = data(images(padding=2, flip=True))
    x = torch.cat([x for x, _ in d.test_loader(5)])
    assert torch.equal(x, d.test.images)
    parts = [torch.cat([x for x, _ in d.test_loader(5, rank, 3)]) for rank in range(3)]
    assert torch.equal(torch.cat(parts), d.test.images)


def test_an_example_is_real_fixed_and_as_large_as_asked():
    d = data(images())
    one, many = d.example(1), d.example(50)
    assert torch.equal(one, d.example(1))
    assert torch.equal(many[:1], one)
    assert torch.equal(many[23:46], many[:23])
    assert {float(x[0, 0, 0]) for x in many} == {1.0 + 72 * i for i in range(23)}


def test_augmentation_shifts_and_mirrors_within_the_padding():
    plain, augmented = images(200, size=4), images(200, size=4, padding=1, flip=True, fill=-7.0)
    shifts = set()
    for x, _ in data(augmented).train_loader(50, seed=0):
        for image in x:
            inside = image[0] > 0
            number = int(image[0][inside][0] - 1) // 32
            shifts.add(shift_of(image, plain.images[number]))
    assert shifts == {(r, c, m) for r in (-1, 0, 1) for c in (-1, 0, 1) for m in (False, True)}


def shift_of(image, original):
    """By how much the image was moved and whether it was mirrored; fails where it is neither."""
    padded = torch.nn.functional.pad(original, (1, 1, 1, 1), value=-7.0)
    for row in range(3):
        for column in range(3):
            window = padded[:, row : row + 4, column : column + 4]
            if torch.equal(window, image):
                return row - 1, column - 1, False
            if torch.equal(window.flip(2), image):
                return row - 1, column - 1, True
    raise AssertionError("neither a shift nor a mirror of the image")


def test_half_of_the_images_are_mirrored():
    asymmetric = images(400, size=4, flip=True)
    mirrored = 0
    for x, _ in data(asymmetric).train_loader(50, seed=0):
        mirrored += int((x[:, 0, 0, 0] > x[:, 0, 0, 3]).sum())
    assert 160 < mirrored < 240


def test_normalization():
    x = torch.randint(0, 255, (4, 3, 2, 2), dtype=torch.uint8)
    mean, scale = torch.tensor([1.0, 2.0, 3.0])[:, None, None], torch.tensor(4.0)
    found, _ = ImagesInMemory(x, torch.arange(4), mean, scale).batch(torch.arange(4))
    torch.testing.assert_close(found, (x.float() - mean) / 4)


def test_tensors_make_whole_batches():
    pairs = TensorDataset(torch.arange(6.0).view(6, 1), torch.arange(6))
    loader = data(TensorsInMemory(pairs)).train_loader(3, seed=0)
    for x, y in loader:
        assert torch.equal(x[:, 0].long(), y)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2, "rank": 2, "world_size": 2}, "rank"),
        ({"batch_size": 9, "world_size": 30}, "too few"),
    ],
)
def test_loaders_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        data(images()).train_loader(seed=0, **arguments)


@pytest.mark.parametrize("batch_size", [2.5, "3", None, True, 0, -1])
def test_a_batch_size_that_is_no_whole_number(batch_size):
    data = datasets.load("digits")
    for call in (data.example, data.test_loader, lambda size: data.train_loader(size, 0)):
        with pytest.raises(InputError, match="batch_size: "):
            call(batch_size)


def test_whole_numbers_of_numpy_and_torch_are_taken():
    data = datasets.load("digits")
    for size in (np.int64(3), torch.tensor(3)):
        assert len(data.example(size)) == 3
        assert len(next(iter(data.train_loader(size, 0)))[0]) == 3


def test_a_data_set_without_a_name():
    with pytest.raises(InputError, match="expected a data set as text, got None; valid: cifar10"):
        datasets.load(None)
