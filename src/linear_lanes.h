// Linear layers of nibbles with int8 activations by the lanes kernels, for many input rows.
#pragma once

#include "operators.h"

namespace ttq {

// Rows of y and residual (which may be null) are `stride` apart.
void lanes_linear(const Kernels& kernels, const Weights& weights, const float* x, int64_t count,
                  const float* residual, float* y, int64_t stride, int threads);

}  // namespace ttq
