"""Training is the same from the same seed, interrupted or not, and says what it cost."""

import dataclasses
import json
import math

import pytest
import torch
from safetensors import safe_open

import ttq_energy as te
from ttq_energy.errors import InputError
from ttq_energy.measurement.energy import Energy
from ttq_energy.progress import Progress
from ttq_energy.run import TABLES
from ttq_energy.training import evaluate, load_weights, loop, train
from ttq_energy.training.results import EpochRecord
from ttq_energy.training.state import state_file


def same(a, b):
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


class Interrupted(Progress):
    """Presses Ctrl-C at the end of an epoch."""

    def __init__(self, at_epoch):
        self.at_epoch = at_epoch

    def update(self, text):
        if text.startswith(f"epoch {self.at_epoch}/"):
            raise KeyboardInterrupt


def test_it_learns_and_the_checkpoint_holds_what_is_reported(tmp_path, digits, spec, small_net):
    path = tmp_path / "net.safetensors"
    model = small_net(te.TTQ())
    result = train(model, digits, spec, checkpoint=path)
    assert [r.epoch for r in result.records] == [1, 2, 3]
    assert result.records[-1].loss < 0.7 * result.records[0].loss
    assert result.accuracy > 0.8
    assert result.accuracy_low < result.accuracy < result.accuracy_high
    assert result.examples == 360

    again = small_net(te.TTQ(), seed=5)
    load_weights(path, again)
    assert same(model, again)
    correct, total = evaluate(again, digits)
    assert (correct / total, total) == (result.accuracy, 360)
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["quantizer"])["middle"]["type"] == "TTQ"


def test_records_have_the_columns_of_training_csv():
    columns = {c.name for c in TABLES["training"].columns}
    own = {f.name for f in dataclasses.fields(EpochRecord)}
    assert own == columns - {"model", "variant", "seed", "selected"}


def test_the_seed_decides(tmp_path, digits, spec, small_net):
    models = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        model = small_net(te.TTQ())
        torch.rand(number)
        train(model, digits, spec, seed=seed, checkpoint=tmp_path / "x.safetensors")
        models.append(model)
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_training_leaves_the_random_state_of_others_alone(tmp_path, digits, spec, small_net):
    model = small_net()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(model, digits, spec, checkpoint=tmp_path / "x.safetensors")
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resume_after_an_epoch_gives_the_same_weights(tmp_path, digits, spec, small_net, optimizer):
    spec = dataclasses.replace(spec, optimizer=optimizer, select="best", learning_rate=0.01)
    whole, parts = small_net(te.TTQ()), small_net(te.TTQ())
    expected = train(whole, digits, spec, checkpoint=tmp_path / "whole.safetensors")
    path = tmp_path / "parts.safetensors"
    told = []
    for epoch in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            train(
                parts,
                digits,
                spec,
                checkpoint=path,
                resume=True,
                on_epoch=told.append,
                progress=Interrupted(at_epoch=epoch),
            )
        assert not path.exists()
        parts = small_net(te.TTQ(), seed=9)
    result = train(parts, digits, spec, checkpoint=path, resume=True, on_epoch=told.append)
    assert same(whole, parts)
    assert [r.loss for r in result.records] == [r.loss for r in expected.records]
    assert result.selected_epoch == expected.selected_epoch
    assert not state_file(path).exists()


def test_resume_within_an_epoch_gives_the_same_weights(
    tmp_path, digits, spec, small_net, monkeypatch
):
    whole, parts = small_net(te.TTQ()), small_net(te.TTQ())
    expected = train(whole, digits, spec, checkpoint=tmp_path / "whole.safetensors")
    path = tmp_path / "parts.safetensors"
    steps = iter(range(31))
    step = torch.optim.SGD.step

    def until_ctrl_c(self, *args, **kwargs):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", until_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            train(parts, digits, spec, checkpoint=path, save_every_s=0.0)
    parts = small_net(te.TTQ(), seed=9)
    result = train(parts, digits, spec, checkpoint=path, resume=True)
    assert same(whole, parts)
    assert [r.loss for r in result.records] == [r.loss for r in expected.records]


def test_a_state_of_another_training_is_refused(tmp_path, digits, spec, small_net):
    path = tmp_path / "x.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(small_net(), digits, spec, checkpoint=path, progress=Interrupted(at_epoch=2))
    other = dataclasses.replace(spec, learning_rate=0.2)
    for model, wanted, seed, message in (
        (small_net(), other, 0, "another 'training'"),
        (small_net(), spec, 1, "another 'seed'"),
        (small_net(te.TTQ()), spec, 0, "another 'quantizer'"),
    ):
        with pytest.raises(InputError, match=message):
            train(model, digits, wanted, seed=seed, checkpoint=path, resume=True)
    state_file(path).write_bytes(b"not a state")
    with pytest.raises(InputError, match="not a whole training state") as caught:
        train(small_net(), digits, spec, checkpoint=path, resume=True)
    assert "\n" not in str(caught.value)
    assert train(small_net(), digits, spec, checkpoint=path).examples == 360


def test_fine_tuning_takes_its_own_settings(tmp_path, digits, spec, small_net):
    result = train(
        small_net(te.TWN()), digits, spec, checkpoint=tmp_path / "x.safetensors", fine_tune=True
    )
    assert len(result.records) == spec.fine_tune.epochs


def test_no_epochs_quantize_without_training(tmp_path, digits, spec, small_net):
    model, twin = small_net(te.TWN()), small_net(te.TWN())
    none = dataclasses.replace(spec, epochs=0)
    result = train(model, digits, none, checkpoint=tmp_path / "x.safetensors")
    assert same(model, twin)
    (record,) = result.records
    assert (record.epoch, record.wall_s, record.energy_j) == (0, 0.0, None)
    assert math.isnan(record.loss)
    assert 0 < record.zero_fraction < 1


def test_best_reports_the_best_epoch(tmp_path, digits, spec, small_net):
    spec = dataclasses.replace(spec, select="best", schedule="constant", learning_rate=0.3)
    model = small_net()
    result = train(model, digits, spec, checkpoint=tmp_path / "x.safetensors")
    best = max(r.accuracy for r in result.records)
    assert result.accuracy == best == result.records[result.selected_epoch - 1].accuracy
    correct, total = evaluate(model, digits)
    assert correct / total == best


def test_a_loss_that_is_no_number_is_one_clear_line(tmp_path, digits, spec, small_net):
    wild = dataclasses.replace(spec, learning_rate=1e30)
    with pytest.raises(InputError, match="it has diverged"):
        train(small_net(), digits, wild, checkpoint=tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16"},
        {"gradient_clip": 0.1},
        {"label_smoothing": 0.1, "optimizer": "adam", "learning_rate": 0.01},
        {"schedule": "step", "milestones": (1, 2)},
    ],
    ids=lambda c: ",".join(c),
)
def test_options_train(tmp_path, digits, spec, small_net, change):
    spec = dataclasses.replace(spec, **change)
    result = train(small_net(te.TTQ()), digits, spec, checkpoint=tmp_path / "x.safetensors")
    assert result.records[-1].loss < result.records[0].loss


def test_a_language_model_counts_tokens(tmp_path):
    data = te.datasets.load("text", sequence_length=32, test_fraction=0.02)
    small = dataclasses.replace(data, train=torch.utils.data.Subset(data.train, range(64)))
    torch.manual_seed(0)
    model = te.models.build("lstm-lm", embedding_size=16, hidden_size=16, n_layers=1)
    te.prepare_(model, te.TTQ())
    from ttq_energy.study import TrainingSpec

    spec = TrainingSpec(epochs=2, batch_size=16, optimizer="adamw", learning_rate=0.01)
    result = train(model, small, spec, checkpoint=tmp_path / "x.safetensors")
    assert result.examples == len(data.test) * 32
    assert result.records[0].loss == pytest.approx(math.log(97), rel=0.2)


class Meter:
    """A monitor whose windows cost what they are told to."""

    def __init__(self, *energies):
        self.energies, self.names, self.forgotten = list(energies), [], []

    def window(self, name):
        import contextlib

        self.names.append(name)
        return contextlib.nullcontext()

    def __getitem__(self, name):
        value = self.energies[len(self.names) - 1]
        low, high = (None, None) if value is None else (value - 1, value + 1)
        return Energy(name, 1.0, value, low, high, "counter")

    def forget(self, name):
        self.forgotten.append(name)


def test_energy_of_each_epoch_has_its_provenance(tmp_path, digits, spec, small_net):
    meter = Meter(10.0, None, 30.0)
    result = train(small_net(), digits, spec, checkpoint=tmp_path / "x.safetensors", monitor=meter)
    assert [r.energy_j for r in result.records] == [10.0, None, 30.0]
    assert [r.energy_high_j for r in result.records] == [11.0, None, 31.0]
    assert {r.provenance for r in result.records} == {"counter"}
    assert meter.forgotten == meter.names
    assert all(r.wall_s > 0 for r in result.records)


def test_without_a_meter_the_energy_is_unknown_not_zero(tmp_path, digits, spec, small_net):
    result = train(small_net(), digits, spec, checkpoint=tmp_path / "x.safetensors")
    assert {r.energy_j for r in result.records} == {None}
    assert {r.provenance for r in result.records} == {""}


def test_progress_tells_loss_accuracy_zeros_and_time_left(
    tmp_path, digits, spec, small_net, monkeypatch
):
    monkeypatch.setattr(loop, "TELL_EVERY_S", 0.0)

    class Listening(Progress):
        lines, bars = [], []

        def update(self, text):
            self.lines.append(text)

        def bar(self, fraction, text):
            self.bars.append((fraction, text))

    progress = Listening()
    train(
        small_net(te.TTQ()),
        digits,
        spec,
        checkpoint=tmp_path / "x.safetensors",
        progress=progress,
    )
    assert len(progress.lines) == 3
    for part in ("epoch 1/3", "loss ", "accuracy ", "zeros ", " left"):
        assert part in progress.lines[0]
    fractions = [fraction for fraction, _ in progress.bars]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert "zeros" in progress.bars[-1][1]


def test_a_finished_training_that_was_not_recorded_is_not_done_again(
    tmp_path, digits, spec, small_net
):
    checkpoint = tmp_path / "a.safetensors"
    first = small_net()
    result = train(first, digits, spec, checkpoint=checkpoint, keep_state=True)
    again, steps = small_net(), []
    repeated = train(again, digits, spec, checkpoint=checkpoint, resume=True, on_epoch=steps.append)
    assert repeated == result
    assert not steps
    assert same(first, again)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
