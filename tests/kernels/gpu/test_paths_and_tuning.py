"""Which path runs: candidates, timing with a fake timer, and the cache on disk."""

import json

import pytest

from ttq_energy.errors import InputError
from ttq_energy.kernels.gpu import tuning
from ttq_energy.kernels.gpu.paths import Path, Problem, candidates
from ttq_energy.kernels.gpu.tuning import Tuner, TuningCache


def problem(batch=1, **changes):
    values = {
        "op": "linear",
        "dtype": "bfloat16",
        "int8": False,
        "batch": batch,
        "rows": 8192,
        "columns": 8192,
        "group": 64,
        "chunks": 16,
        "symmetric": False,
        **changes,
    }
    return Problem(**values)


def kinds(paths):
    return {(path.kernel, path.products) for path in paths}


def test_a_single_item_may_run_on_lanes_or_tensor_cores_but_never_rounded():
    assert kinds(candidates(problem(1), 132)) == {("tile", "both"), ("vector", "both")}


def test_small_batches_split_columns_to_fill_the_processors():
    paths = candidates(problem(16), 132)
    assert any(path.parts > 1 for path in paths)
    for path in paths:
        assert path.parts <= 16, "a part without a chunk"


def test_large_batches_may_decode_for_the_library_and_round_to_half():
    found = kinds(candidates(problem(256), 132))
    assert found == {("tile", "rounded"), ("tile", "both"), ("dense", "signed")}


def test_float32_is_never_rounded_nor_left_to_the_library():
    assert kinds(candidates(problem(256, dtype="float32"), 132)) == {("tile", "both")}


def test_one_scale_needs_one_product():
    assert all(p.products == "signed" for p in candidates(problem(64, symmetric=True), 132))


def test_int8_stays_int8():
    assert kinds(candidates(problem(256, int8=True), 132)) == {("tile", "both")}


def test_batches_above_sixteen_share_a_choice_by_powers_of_two():
    assert problem(200).key == problem(256).key != problem(257).key
    assert problem(3).key != problem(4).key


class FakeDevice:
    """Runs paths by name and tells their times; counts what was run."""

    def __init__(self, seconds):
        self.seconds, self.now, self.runs = seconds, 0.0, 0

    def run(self, path):
        self.runs += 1
        took = self.seconds(path)
        if took is None:
            raise RuntimeError("out of resource: shared memory")
        self.now += took
        return path

    def timer(self, work):
        before = self.now
        work()
        return self.now - before


def test_the_fastest_measured_path_is_taken_and_remembered(tmp_path):
    device = FakeDevice(lambda path: 1e-6 if path.kernel == "vector" else 2e-6)
    tuner = Tuner(TuningCache("Fake GPU", tmp_path), 132, device.timer)
    assert tuner.choose(problem(1), device.run).kernel == "vector"
    runs = device.runs
    tuner.choose(problem(1), device.run)
    assert device.runs == runs, "timed again although known"


def test_a_path_that_does_not_fit_the_device_is_left_out(tmp_path):
    device = FakeDevice(lambda path: 5e-6 if path.kernel == "dense" else None)
    tuner = Tuner(TuningCache("Fake GPU", tmp_path), 132, device.timer)
    assert tuner.choose(problem(256), device.run).kernel == "dense"


def test_no_path_at_all_is_an_error_with_its_cause(tmp_path):
    device = FakeDevice(lambda path: None)
    tuner = Tuner(TuningCache("Fake GPU", tmp_path), 132, device.timer)
    with pytest.raises(RuntimeError, match="no GPU path runs") as caught:
        tuner.choose(problem(1), device.run)
    assert "shared memory" in str(caught.value.__cause__)


def test_a_broken_device_is_not_mistaken_for_a_path_that_does_not_fit():
    def broken(path):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        tuning.measure([Path("tile")], broken, FakeDevice(lambda path: 1.0).timer)


def test_choices_outlive_the_process(tmp_path):
    device = FakeDevice(lambda path: 1e-6 * path.parts + 1e-8 * path.block_rows)
    chosen = Tuner(TuningCache("Fake GPU", tmp_path), 132, device.timer).choose(
        problem(1), device.run
    )
    untouched = FakeDevice(lambda path: None)
    again = Tuner(TuningCache("Fake GPU", tmp_path), 132, untouched.timer)
    assert again.choose(problem(1), untouched.run) == chosen
    assert untouched.runs == 0


def test_devices_do_not_share_choices(tmp_path):
    device = FakeDevice(lambda path: 1e-6)
    Tuner(TuningCache("One", tmp_path), 132, device.timer).choose(problem(1), device.run)
    assert TuningCache("Another", tmp_path).get(problem(1).key) is None


def test_a_damaged_cache_starts_afresh(tmp_path):
    cache = TuningCache("Fake GPU", tmp_path)
    cache.file.write_text("{ not json")
    assert TuningCache("Fake GPU", tmp_path).get(problem(1).key) is None
    cache.file.write_text(json.dumps({problem(1).key: {"path": {"kernel": "tile", "odd": 1}}}))
    assert TuningCache("Fake GPU", tmp_path).get(problem(1).key) is None


def test_the_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tuning.cache_folder() == tmp_path / "ttq-energy" / "gpu"


def test_switched_off_the_likely_best_runs_and_is_not_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv(tuning.VARIABLE, "off")
    device = FakeDevice(lambda path: 1e-6)
    tuner = Tuner(TuningCache("Fake GPU", tmp_path), 132, device.timer)
    assert tuner.choose(problem(1), device.run) == candidates(problem(1), 132)[0]
    assert device.runs == 0
    monkeypatch.delenv(tuning.VARIABLE)
    tuner.choose(problem(1), device.run)
    assert device.runs > 0


def test_a_kept_path_that_is_no_candidate_is_not_run(tmp_path):
    cache = TuningCache("Fake GPU", tmp_path)
    cache.put(problem(1).key, Path("tile", "both", block_rows=7, block_batch=-1), {})
    device = FakeDevice(lambda path: 1e-6)
    chosen = Tuner(TuningCache("Fake GPU", tmp_path), 132, device.timer).choose(
        problem(1), device.run
    )
    assert chosen in candidates(problem(1), 132)
    assert device.runs > 0


def test_timing_stops_when_its_time_is_up_and_the_cache_goes_on(monkeypatch, tmp_path):
    now = [0.0]
    monkeypatch.setattr(tuning.time, "monotonic", lambda: now[0])
    monkeypatch.setenv(tuning.VARIABLE, "10")

    def slow(path):
        now[0] += 1.0
        return 1e-6

    device = FakeDevice(slow)
    tuner = Tuner(TuningCache("Fake GPU", tmp_path), 132, device.timer)
    tuner.choose(problem(1), device.run)
    runs = device.runs
    assert tuner.choose(problem(2), device.run) == candidates(problem(2), 132)[0]
    assert device.runs == runs
    assert tuner.timed(problem(1))
    assert not tuner.timed(problem(2))
    next_process = Tuner(TuningCache("Fake GPU", tmp_path), 132, device.timer)
    next_process.choose(problem(2), device.run)
    assert device.runs > runs


def test_a_limit_that_is_no_number_is_one_line(monkeypatch):
    monkeypatch.setenv(tuning.VARIABLE, "soon")
    with pytest.raises(InputError, match="expected seconds or 'off', got 'soon'"):
        tuning.limit_s()


def test_the_cache_has_a_folder_of_its_own_where_asked(monkeypatch, tmp_path):
    monkeypatch.setenv(tuning.FOLDER_VARIABLE, str(tmp_path / "own"))
    assert tuning.cache_folder() == tmp_path / "own"


def test_without_a_home_the_cache_is_a_temporary_one(monkeypatch):
    monkeypatch.delenv(tuning.FOLDER_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def nowhere(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(tuning.FilePath, "expanduser", nowhere)
    assert tuning.cache_folder().is_absolute()


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_next_timing(tmp_path):
    blocked = tmp_path / "a file"
    blocked.write_text("")
    device = FakeDevice(lambda path: 1e-6)
    Tuner(TuningCache("Fake GPU", blocked), 132, device.timer).choose(problem(1), device.run)
    assert blocked.read_text() == ""


def test_candidates_are_given_together_before_the_first_is_timed(tmp_path):
    device, given = FakeDevice(lambda path: 1e-6), []

    def prepare(paths, run):
        given.append((len(paths), device.runs))

    Tuner(TuningCache("Fake GPU", tmp_path), 132, device.timer, prepare).choose(
        problem(1), device.run
    )
    assert given == [(len(candidates(problem(1), 132)), 0)]


def test_names_tell_what_ran():
    path = Path("tile", "both", 64, 16, True, 8)
    assert path.describe("bfloat16", False) == "triton 2-bit tensor-core bfloat16, split-K 8"
    assert "3 bfloat16" in path.describe("float32", False)
    assert "rounded" in Path("tile", "rounded", 128, 128).describe("float16", False)
    assert "decode" in Path("dense").describe("bfloat16", False)
