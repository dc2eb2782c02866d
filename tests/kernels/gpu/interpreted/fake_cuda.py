"""A GPU that is the CPU: torch's CUDA calls answered, Triton interpreted, NVML's stub behind.

For processes of their own (it changes torch for good). Every tensor "on cuda" lies on the CPU; a
CUDA graph runs its module again. Run as a script it becomes that GPU and then runs another one:

    python fake_cuda.py benchmarks/gpu.py --batches 1
    python fake_cuda.py -m ttq_energy profile study.yaml
"""

import contextlib
import runpy
import sys
import time
from types import SimpleNamespace

import numpy_scalars
import torch

FACTS = SimpleNamespace(
    name="NVIDIA Fake H100",
    multi_processor_count=4,
    total_memory=80 << 30,
    L2_cache_size=256,
    uuid="0",
)


class Stream:
    cuda_stream = 0

    def __init__(self, *_, **__):
        pass

    def wait_stream(self, _):
        pass

    def synchronize(self):
        pass


class Event:
    def __init__(self, **_):
        pass

    record = synchronize = lambda self: None

    def elapsed_time(self, _):
        return 1.0


def place(value):
    """ "cpu" for every name of the fake GPU."""
    name = str(value)
    return "cpu" if name == "cuda" or name.startswith("cuda:") else value


def on_cpu(function):
    def call(*arguments, **options):
        if "device" in options:
            options["device"] = place(options["device"])
        return function(*arguments, **options)

    return call


def become_a_gpu():
    nothing = lambda *_, **__: None  # noqa: E731
    context = lambda *_, **__: contextlib.nullcontext()  # noqa: E731
    for name, value in {
        "is_available": lambda: True,
        "synchronize": nothing,
        "empty_cache": nothing,
        "current_device": lambda: 0,
        "current_stream": lambda *_: Stream(),
        "is_current_stream_capturing": lambda: False,
        "get_device_properties": lambda *_: FACTS,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "device": context,
        "stream": context,
        "graph": context,
        "CUDAGraph": object,
        "Stream": Stream,
        "Event": Event,
    }.items():
        setattr(torch.cuda, name, value)
    for name in ("randn", "randint", "empty", "zeros", "ones", "full", "tensor", "arange"):
        setattr(torch, name, on_cpu(getattr(torch, name)))
    to_tensor, to_module = torch.Tensor.to, torch.nn.Module.to
    torch.Tensor.to = lambda self, *a, **o: on_cpu(to_tensor)(self, *map(place, a), **o)
    torch.nn.Module.to = lambda self, *a, **o: on_cpu(to_module)(self, *map(place, a), **o)
    linear_init = torch.nn.Linear.__init__
    torch.nn.Linear.__init__ = on_cpu(linear_init)
    _use_the_gpu_kernels()


def _use_the_gpu_kernels():
    """The operators run their CUDA side on CPU tensors; paths are timed by the host's clock."""
    numpy_scalars.accept()
    from ttq_energy.kernels import gpu, modules, ops
    from ttq_energy.kernels.gpu import forms, functional, graphs, operators, tuning

    def timer(work):
        began_s = time.perf_counter()
        work()
        return time.perf_counter() - began_s

    tuner = tuning.Tuner(tuning.TuningCache(FACTS.name), FACTS.multi_processor_count, timer)
    functional.tuner_of = lambda _: tuner
    functional._on = lambda _: contextlib.nullcontext()

    class Capture(graphs._Capture):
        def __init__(self, module, example, weights):
            super().__init__(module, example, weights)
            self.module = module

        def replay(self, x):
            return self.module(x)

    graphs._Capture = Capture
    forms.graphed = graphs.GraphedModule
    ops.linear, ops.conv2d, ops.recurrent = operators.linear, operators.conv2d, lambda *_: None
    operators.takes = gpu.takes = lambda x: x.dtype in operators.DTYPES
    modules.TernaryModule.kernel = property(lambda self: gpu.ran(self.packed) or "not run yet")


if __name__ == "__main__":
    become_a_gpu()
    del sys.argv[0]
    sys.path.insert(0, "benchmarks")
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        import gpu_forms

        # Two kernels are enough for the paths around them; each call takes a tenth of a second.
        gpu_forms.TERNARY = {name: gpu_forms.TERNARY[name] for name in ("ttq bf16", "ttq int8")}
        runpy.run_path(sys.argv[0], run_name="__main__")
