"""How networks of timm and transformers use parameters, each way by a stand-in of its own.

The networks themselves are audited by benchmarks/counting.py.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ttq_energy as te


class Net(nn.Module):
    """A module from its parameters and its forward function."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.own_forward = forward
        for name, part in parts.items():
            part = nn.Parameter(part) if isinstance(part, torch.Tensor) else part
            setattr(self, name, part)

    def forward(self, *inputs):
        return self.own_forward(self, *inputs)


def all_owned(net, counts):
    """Every parameter stands in one row, and nothing is unknown."""
    assert counts["supported"].all()
    assert counts["parameters"].sum() == sum(p.numel() for p in net.parameters())
    return counts.set_index("layer")


def test_experts_multiply_their_own_rows_alone():
    def forward(net, x, ends):
        return torch._grouped_mm(x, net.experts.transpose(1, 2), offs=ends)

    net = Net(forward, experts=torch.randn(4, 8, 16))
    ends = torch.tensor([3, 3, 8, 10], dtype=torch.int32)  # The second expert has no rows.
    counts = te.count(net, (torch.randn(10, 16), ends))
    row = all_owned(net, counts).loc["experts"]
    assert row["macs"] == 10 * 16 * 8
    assert (row["groups"], row["weight_elements"]) == (3, 4 * 8 * 16)
    assert (row["input_elements"], row["output_elements"]) == (160, 80)
    assert te.estimate(counts, "generic-45nm").total.energy_j > 0


def test_experts_of_as_many_rows_need_no_ends():
    net = Net(lambda net, x: torch._grouped_mm(x, net.experts), experts=torch.randn(3, 16, 8))
    row = all_owned(net, te.count(net, torch.randn(3, 5, 16))).loc["experts"]
    assert row["macs"] == 3 * 5 * 16 * 8


def test_experts_called_one_by_one_own_their_weights_once():
    def forward(net, x):
        return torch.cat([F.linear(x[:2], net.experts[0]), F.linear(x[2:], net.experts[1])])

    net = Net(forward, experts=torch.randn(2, 8, 16))
    counts = te.count(net, torch.randn(5, 16))
    all_owned(net, counts)
    assert counts["macs"].sum() == 5 * 8 * 16
    assert counts["weight_bytes"].sum() == 2 * 8 * 16 * 4


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: x * torch.exp(net.a),  # state space models
        lambda net, x: x * net.a.clamp(max=4.0).exp(),  # swin v2's logit scale
        lambda net, x: x * torch.cat([net.a[:2], net.a[2:]]),
        lambda net, x: x @ torch.diag_embed(net.a).neg(),
        lambda net, x: F.layer_norm(net.a.expand(3, 4), (4,)) * x,  # DeBERTa's positions
    ],
)
def test_a_parameter_made_over_is_still_one(forward):
    net = Net(forward, a=torch.rand(4))
    all_owned(net, te.count(net, torch.randn(3, 4)))


def test_weights_joined_to_one_matrix_are_weights():
    def forward(net, x):
        return F.linear(x, torch.cat([net.q, net.k]))

    net = Net(forward, q=torch.randn(3, 8), k=torch.randn(5, 8))
    row = all_owned(net, te.count(net, torch.randn(2, 8))).loc["k"]
    assert (row["macs"], row["weight_elements"]) == (2 * 8 * 8, 64)


def test_a_learned_query_counts_beside_the_layer_that_takes_it():
    def forward(net, x):
        return net.q(net.latent.expand(len(x), -1, -1)) @ x.transpose(1, 2)

    net = Net(forward, latent=torch.randn(1, 2, 8), q=nn.Linear(8, 4))
    rows = all_owned(net, te.count(net, torch.randn(3, 5, 4)))
    assert rows.loc["q", "macs"] == 3 * 2 * 8 * 4
    assert rows.loc["latent", "op"] == "embedding"


def test_gain_and_offset_of_one_operator_are_both_its_weights():
    def forward(net, x):
        return F.layer_norm(x, (8,), net.gain, net.offset)

    net = Net(forward, gain=torch.ones(8), offset=torch.zeros(8))
    (row,) = te.count(net, torch.randn(3, 8)).to_dict("records")
    assert (row["op"], row["weight_elements"], row["weight_bytes"]) == ("norm", 16, 64)
    assert row["weight_zero_fraction"] == 0.5


def test_tied_embeddings_are_stored_once():
    def forward(net, x):
        return net.head(net.table(x))

    net = Net(forward, table=nn.Embedding(50, 8), head=nn.Linear(8, 50, bias=False))
    net.head.weight = net.table.weight
    counts = te.count(net, torch.randint(0, 50, (2, 7)))
    rows = all_owned(net, counts)
    assert rows["weight_bytes"].to_dict() == {"table": 50 * 8 * 4, "head": 0}
    assert rows["weight_elements"].to_dict() == {"table": 400, "head": 400}
    assert rows.loc["head", "macs"] == 2 * 7 * 8 * 50


def test_a_scattered_sum_costs_an_addition_for_each_source():
    def forward(net, x):
        return torch.zeros(9, 4).index_add(0, torch.tensor([1, 1, 7]), x)

    (row,) = te.count(Net(forward), torch.randn(3, 4)).to_dict("records")
    assert (row["multiplies"], row["adds"]) == (0, 12)


def test_complex_products_count_their_real_ones():
    def forward(net, x):
        return torch.view_as_real(torch.view_as_complex(x) * torch.view_as_complex(x))

    (row,) = te.count(Net(forward), torch.randn(3, 4, 2)).to_dict("records")
    assert (row["multiplies"], row["adds"]) == (48, 24)


def test_an_operator_of_which_nothing_is_known_is_listed():
    library = torch.library.Library("ttq_energy_test_ops", "DEF")
    library.define("scan(Tensor x) -> Tensor")
    library.impl("scan", lambda x: x.cumsum(0), "CPU")

    def forward(net, x):
        return torch.ops.ttq_energy_test_ops.scan(net.inner(x))

    counts = te.count(Net(forward, inner=nn.Linear(4, 4)), torch.randn(3, 4))
    assert counts[~counts["supported"]][["layer", "op"]].to_numpy().tolist() == [["scan", "scan"]]
    assert te.estimate(counts, "generic-45nm").layers["layer"].tolist() == ["inner"]


def test_a_weight_norm_is_no_work_on_activations_prepared_or_not():
    net = nn.Sequential(nn.Linear(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)))
    net.append(nn.Linear(6, 2))
    x = torch.randn(3, 4)
    before = te.count(net, x, variant="ttq")
    after = te.count(te.prepare_(net, te.TTQ()), x)
    assert before["op"].tolist() == after["op"].tolist() == ["linear"] * 3
    assert before["adds"].tolist() == after["adds"].tolist()
