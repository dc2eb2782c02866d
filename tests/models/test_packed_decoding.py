"""Packed language models, token by token: one native call gives what the layers give one by one."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import ttq_energy as te
from ttq_energy import models
from ttq_energy.kernels import isa
from ttq_energy.kernels.modules import TernaryGRU, TernaryLinear, TernaryLSTM

OPTIONS = [
    {"d_model": 32, "n_layers": 2, "n_heads": 4},
    {"d_model": 48, "n_layers": 3, "n_heads": 6, "n_kv_heads": 2, "d_ff": 80},
]


def packed(activations="fp32", options=0, name="transformer-lm"):
    torch.manual_seed(0)
    if name == "transformer-lm":
        model = models.build(name, context=40, sequence_length=20, **OPTIONS[options])
    else:
        model = models.build(name, hidden_size=24, embedding_size=20, n_layers=2)
    for module in model.modules():
        if isinstance(module, nn.RMSNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    te.prepare_(model, te.TTQ())
    return te.convert(model.eval(), activations=activations)


def tokens(batch, length, seed=1):
    return torch.randint(97, (batch, length), generator=torch.Generator().manual_seed(seed))


def decode(model, x, prompt=3):
    """Logits of a prompt and of the tokens after it, one by one."""
    cache = model.new_cache(batch_size=len(x))
    parts = [model(x[:, :prompt], cache)]
    parts += [model(x[:, t : t + 1], cache) for t in range(prompt, x.shape[1])]
    return torch.cat(parts, 1)


def one_by_one(model, x, **options):
    """The same with a hook on every module, for which each must be called."""
    model, calls = copy.deepcopy(model), []
    for module in model.modules():
        module.register_forward_hook(lambda *_: calls.append(1))
    y = decode(model, x, **options)
    assert len(calls) > x.shape[1] * 10
    return y


@pytest.fixture
def native_calls(monkeypatch):
    """Counts the native calls for whole stacks."""
    calls = []
    native = isa.native()
    for name in ("decoder_step", "recurrent_step"):
        run = getattr(native, name)
        monkeypatch.setattr(native, name, lambda *a, run=run: calls.append(1) or run(*a))
    return calls


@pytest.fixture(params=isa.available())
def instruction_set(request):
    before = isa.active()
    isa.native().use(request.param)
    yield request.param
    isa.native().use(before)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("activations", ["fp32", "int8"])
@pytest.mark.parametrize("options", range(2))
@pytest.mark.parametrize("batch", [1, 3])
def test_a_transformers_step_is_its_layers(
    activations, options, batch, native_calls, instruction_set
):
    model, x = packed(activations, options), tokens(batch, 9)
    y = decode(model, x)
    assert len(native_calls) == 6
    expected = one_by_one(model, x)
    assert len(native_calls) == 6
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(y, model(x), rtol=1e-3, atol=1e-3 if activations == "int8" else 1e-5)


@pytest.mark.parametrize("activations", ["fp32", "int8"])
@pytest.mark.parametrize("batch", [1, 3])
def test_an_lstms_step_is_its_layers(activations, batch, native_calls, instruction_set):
    model, x = packed(activations, name="lstm-lm"), tokens(batch, 9)
    y = decode(model, x)
    assert len(native_calls) == 6
    hooked = copy.deepcopy(model)
    for module in hooked.modules():
        module.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(y, decode(hooked, x), rtol=1e-5, atol=1e-6)
    assert len(native_calls) == 6
    torch.testing.assert_close(y, model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pair", [(nn.LSTM, TernaryLSTM), (nn.GRU, TernaryGRU)])
@pytest.mark.parametrize("bias", [False, True])
def test_single_steps_of_recurrent_layers_are_torchs(pair, bias, native_calls):
    torch.manual_seed(2)
    dense_type, ternary_type = pair
    dense, ternary = dense_type(12, 20, num_layers=2, bias=bias), {}
    for name, parameter in dense.named_parameters():
        if name.startswith("weight"):
            codes = torch.randint(-1, 2, parameter.shape, dtype=torch.int8)
            ternary[name] = (codes, 0.2, 0.1)
            parameter.copy_(torch.where(codes > 0, 0.2, torch.where(codes < 0, -0.1, 0.0)))
    module, state, expected_state = ternary_type.from_dense(dense, ternary), None, None
    for _ in range(4):
        x = torch.randn(1, 3, 12)
        y, state = module(x, state)
        expected, expected_state = dense(x, expected_state)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state, expected_state, rtol=1e-4, atol=1e-5)
        y.zero_()  # the state is a tensor of its own
        kept = state if isinstance(state, tuple) else (state,)
        before = [tensor.clone() for tensor in kept]
        module(x, state)
        for tensor, old in zip(kept, before, strict=True):
            assert torch.equal(tensor, old)
    assert len(native_calls) == 8
    unbatched, _ = module(x[:, 0])
    torch.testing.assert_close(unbatched, dense(x[:, 0])[0], rtol=1e-4, atol=1e-5)


def replace_a_layer(model):
    codes = torch.randint(-1, 2, (32, 32), dtype=torch.int8)
    model.model.layers[1].self_attn.q_proj = TernaryLinear(codes, 0.3, 0.1)


def replace_a_decoder_layer(model):
    model.model.layers[0] = copy.deepcopy(model.model.layers[1])


def load_other_weights(model):
    state = {
        name: tensor.flip(0) if name.endswith(("packed", "weight")) else tensor * 1.5
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(state)


def load_a_scale_for_each_output(model):
    layer = model.model.layers[0].mlp.up_proj
    layer.load_state_dict({**layer.state_dict(), "w_pos": torch.rand(layer.out_features)})


def fold(model):
    layer = model.model.layers[0].mlp.up_proj
    layer.fold_output(torch.rand(layer.out_features), torch.rand(layer.out_features))


def give_a_bias(model):
    model.model.layers[0].mlp.up_proj.bias = torch.rand(96)


def fuse_a_relu(model):
    model.model.layers[0].mlp.gate_proj.relu = True


def swap_a_norms_data(model):
    model.model.layers[0].input_layernorm.weight.data = torch.rand(32)


def change_a_norm_in_place(model):
    model.model.norm.weight.mul_(1.5)


def replace_a_norm(model):
    model.model.norm.weight = nn.Parameter(torch.rand(32))


def change_an_epsilon(model):
    model.model.layers[1].post_attention_layernorm.eps = 0.5


def patch_a_module(model):
    act_fn = model.model.layers[0].mlp.act_fn
    act_fn.forward = torch.relu


def replace_a_norm_by_another_kind(model):
    model.model.layers[0].input_layernorm = nn.LayerNorm(32)


def replace_the_last_norm(model):
    model.model.norm = nn.Identity()


def parametrize_a_norm(model):
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    norm = model.model.layers[0].input_layernorm
    nn.utils.parametrize.register_parametrization(norm, "weight", Doubled())


def replace_the_activation(model):
    model.model.layers[1].mlp.act_fn = nn.GELU()


def replace_the_feed_forward_layer(model):
    class Without(type(model.model.layers[1].mlp)):
        def forward(self, x, residual=None):
            return x if residual is None else residual

    model.model.layers[1].mlp.__class__ = Without


def replace_the_rotary_embedding(model):
    class None_(type(model.model.rotary)):
        def forward(self, x, start):
            return x

    model.model.rotary.__class__ = None_


@pytest.mark.parametrize(
    "change",
    [
        replace_a_norm_by_another_kind,
        replace_the_last_norm,
        parametrize_a_norm,
        replace_the_activation,
        replace_the_feed_forward_layer,
        replace_the_rotary_embedding,
        replace_a_layer,
        replace_a_decoder_layer,
        load_other_weights,
        load_a_scale_for_each_output,
        fold,
        give_a_bias,
        fuse_a_relu,
        swap_a_norms_data,
        change_a_norm_in_place,
        replace_a_norm,
        change_an_epsilon,
        patch_a_module,
    ],
)
def test_a_change_of_the_model_is_seen(change):
    model, x = packed(), tokens(2, 7)
    before = decode(model, x)
    change(model)
    y = decode(model, x)
    assert not torch.allclose(y, before, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(y, one_by_one(model, x), rtol=1e-4, atol=1e-5)


def test_hooks_come_and_go(native_calls):
    model, x, seen = packed(), tokens(1, 5), []
    expected = decode(model, x)
    assert len(native_calls) == 2
    for module in (
        model.model.layers[1].mlp.down_proj,
        model.model.layers[0],
        model.model.layers[0].mlp.act_fn,
        model.model.norm,
    ):
        handle = module.register_forward_pre_hook(lambda module, _: seen.append(module))
        torch.testing.assert_close(decode(model, x), expected, rtol=1e-4, atol=1e-5)
        assert seen == [module] * 3
        handle.remove()
        seen.clear()
    assert len(native_calls) == 2
    torch.testing.assert_close(decode(model, x), expected)
    assert len(native_calls) == 4


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded]
)
@pytest.mark.parametrize("name", ["transformer-lm", "lstm-lm"])
def test_copies_have_weights_of_their_own(copied, name):
    model, x = packed(name=name), tokens(1, 6)
    expected = decode(model, x)
    other = copied(model)
    for module in model.modules():
        if isinstance(module, TernaryLinear):
            module.packed.zero_()
    torch.testing.assert_close(decode(other, x), expected)
    assert not torch.allclose(decode(model, x), expected)


def test_caches_take_turns(native_calls):
    model = packed()
    first, second = tokens(1, 8), tokens(2, 8, seed=2)
    expected = model(first), model(second)
    caches = model.new_cache(1, capacity=8), model.new_cache(2)
    parts = [[], []]
    for t in range(8):
        for i, x in enumerate((first, second)):
            parts[i].append(model(x[:, t : t + 1], caches[i]))
    for found, whole in zip(parts, expected, strict=True):
        torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-4, atol=1e-5)
    assert len(native_calls) == 16
    with pytest.raises(ValueError, match="8 that fit"):
        model(first[:, :1], caches[0])
    caches[0].length = 4  # back to an earlier token
    again = model(first[:, 4:5], caches[0])
    torch.testing.assert_close(again, expected[0][:, 4:5], rtol=1e-4, atol=1e-5)


def test_other_types_of_numbers_and_caches(native_calls):
    model, x = packed(), tokens(1, 6)
    expected = decode(model, x)
    native_calls.clear()
    double = copy.deepcopy(model).double()
    y = decode(double, x)
    assert y.dtype == torch.float64
    torch.testing.assert_close(y.float(), expected, rtol=1e-3, atol=1e-4)
    assert not native_calls


def test_values_that_are_not_finite_follow_the_layers():
    model, x = packed(), tokens(2, 6)
    model.model.embed_tokens.weight[x[0, 4]] = float("nan")
    y, expected = decode(model, x), one_by_one(model, x)
    assert torch.equal(y.isnan(), expected.isnan())
    assert y[0, 4].isnan().all()
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_a_model_partly_in_full_precision_runs_layer_by_layer(native_calls):
    torch.manual_seed(0)
    model = models.build("transformer-lm", context=40, sequence_length=20, **OPTIONS[0])
    te.prepare_(model, te.TTQ(), skip=("model.layers.0.mlp.up_proj", "lm_head"))
    model, x = te.convert(model.eval()), tokens(1, 6)
    torch.testing.assert_close(decode(model, x), model(x), rtol=1e-4, atol=1e-5)
    assert not native_calls


@pytest.mark.parametrize("name", ["transformer-lm", "lstm-lm"])
def test_compilation_and_export_take_the_models(name):
    with torch.inference_mode(False), torch.no_grad():
        model, x = packed(name=name), tokens(1, 4)
        expected = model(x)
        exported = torch.export.export(model, (x,))
        torch.testing.assert_close(exported.module()(x), expected, rtol=1e-4, atol=1e-5)
        compiled = torch.compile(model, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)
        whole = decode(model, x)
        torch.testing.assert_close(decode(compiled_steps(model), x), whole, rtol=1e-4, atol=1e-5)


def compiled_steps(model):
    """The model with a compiled call, caches as the model's."""

    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.run = torch.compile(model, backend="aot_eager")

        def forward(self, x, cache):
            return self.run(x, cache)

        def new_cache(self, batch_size):
            return model.new_cache(batch_size)

    return Steps()


def test_counting_sees_every_layer_of_a_step(native_calls):
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = packed()

        def forward(self, x):
            cache = self.model.new_cache()
            self.model(x[:, :4], cache)
            return self.model(x[:, 4:], cache)

    counts = te.count(Step(), tokens(1, 5))
    assert not native_calls
    assert counts["op"].str.contains("attention").any()
    projections = counts[counts["layer"].str.contains("q_proj")]
    assert projections["macs"].sum() == 2 * 5 * 32 * 32


def test_many_threads_at_once_decode_apart():
    import threading

    model, x = packed(), tokens(1, 12)
    expected, wrong = decode(model, x), []

    def work():
        with torch.inference_mode():
            wrong.extend(True for _ in range(5) if not torch.equal(decode(model, x), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
