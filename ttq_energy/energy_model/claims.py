"""Published claims recomputed from the operation table, and what they leave out."""

from __future__ import annotations

from dataclasses import dataclass

from ttq_energy.energy_model.operations import ANCHOR_7NM, ANCHOR_45NM, ENERGY_PJ


@dataclass(frozen=True)
class Claim:
    """A ratio dense / ternary of arithmetic energy, and the terms behind it.

    Attributes:
        dense_pj, ternary_pj: of one multiply-accumulate and of one accumulate.
        gain: dense / ternary (the field's "times less"; the inverse of this project's ratio).
        meaning: what is compared, and what is left out.
    """

    name: str
    dense_pj: float
    ternary_pj: float
    meaning: str

    @property
    def gain(self) -> float:
        return self.dense_pj / self.ternary_pj


def arithmetic_claims() -> list[Claim]:
    """BitNet b1.58's 71.4 (arXiv 2402.17764, figure 3), and what it becomes with fair terms.

    None of them holds memory, activations, scales, layers that stay dense or static power:
    ``estimate`` does.
    """

    def pj(operation: str, node: float) -> float:
        at_45, at_7 = ENERGY_PJ[operation]
        value = at_45 if node == ANCHOR_45NM else at_7
        assert value is not None
        return value

    fp16 = pj("fp16_mul", ANCHOR_7NM) + pj("fp16_add", ANCHOR_7NM)
    int8 = pj("int8_mul", ANCHOR_7NM) + pj("int32_add", ANCHOR_7NM)
    fp32 = pj("fp32_mul", ANCHOR_45NM) + pj("fp32_add", ANCHOR_45NM)
    return [
        Claim(
            "BitNet b1.58, 7 nm",
            fp16,
            pj("int8_add", ANCHOR_7NM),
            "an fp16 multiply-add against an int8 add: no wide accumulator, no memory",
        ),
        Claim(
            "the same with a 32-bit accumulator",
            fp16,
            pj("int32_add", ANCHOR_7NM),
            "sums of 8-bit values need more than 8 bits",
        ),
        Claim(
            "against int8 arithmetic, 7 nm",
            int8,
            pj("int32_add", ANCHOR_7NM),
            "both sides with 8-bit activations and 32-bit sums: what ternary adds to quantization",
        ),
        Claim(
            "TTQ, 45 nm",
            fp32,
            pj("fp32_add", ANCHOR_45NM),
            "fp32 activations: an fp32 multiply-add against an fp32 add, zeros not skipped",
        ),
    ]
