"""The shape of a layer's products: one loop nest for convolutions and matrix products."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Geometry:
    """A grouped convolution; a matrix product is one with 1 x 1 kernels and images.

    Attributes:
        batch: images, or rows of a matrix product.
        groups: independent groups; heads times batch for attention.
        in_channels, out_channels: of one group.
        kernel_h, kernel_w: of the filter.
        reach_h, reach_w: what the filter spans, dilation included.
        stride_h, stride_w: steps of the filter.
        in_h, in_w: of the input, without padding.
        out_h, out_w: of the output.
    """

    batch: int
    groups: int
    in_channels: int
    out_channels: int
    kernel_h: int = 1
    kernel_w: int = 1
    reach_h: int = 1
    reach_w: int = 1
    stride_h: int = 1
    stride_w: int = 1
    in_h: int = 1
    in_w: int = 1
    out_h: int = 1
    out_w: int = 1

    @property
    def reduction(self) -> int:
        """Products summed into one output."""
        return self.in_channels * self.kernel_h * self.kernel_w

    @property
    def positions(self) -> int:
        """Outputs of one channel."""
        return self.batch * self.out_h * self.out_w

    @property
    def macs(self) -> int:
        return self.positions * self.groups * self.out_channels * self.reduction

    @property
    def weights(self) -> int:
        """Elements of the stationary operand: filters, or the second matrix."""
        return self.groups * self.out_channels * self.reduction

    @property
    def inputs(self) -> int:
        return self.batch * self.groups * self.in_channels * self.in_h * self.in_w

    @property
    def outputs(self) -> int:
        return self.positions * self.groups * self.out_channels

    @property
    def padded_w(self) -> int:
        """Columns of the input that the filter touches, padding included."""
        return (self.out_w - 1) * self.stride_w + self.reach_w

    def with_batch(self, batch: int) -> Geometry:
        """The same layer with another number of images or rows."""
        return replace(self, batch=batch)


GEOMETRY_COLUMNS = tuple(field.name for field in fields(Geometry))


def matrix_product(rows: int, inner: int, columns: int, groups: int = 1) -> Geometry:
    """``groups`` products of (rows, inner) by (inner, columns)."""
    return Geometry(rows, groups, inner, columns)
