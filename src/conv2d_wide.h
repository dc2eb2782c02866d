// Convolutions whose weights lie in a wide layout (layout.h), by the kernels of linear layers.
#pragma once

#include "conv2d.h"
#include "operators.h"

namespace ttq {

// `shape` gives the strides of x, but `y_strides` and `residual_strides` those of y and residual.
// `scales`: of each image, with quantized activations.
void wide_conv2d(const Kernels& kernels, const Weights& weights, const Conv2dShape& shape,
                 const float* x, const RowScale* scales, const float* residual,
                 const ImageStrides& residual_strides, float* y, const ImageStrides& y_strides,
                 int threads);

}  // namespace ttq
