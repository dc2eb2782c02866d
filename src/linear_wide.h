// Linear layers of weights in a wide layout (layout.h).
#pragma once

#include "operators.h"

namespace ttq {

// The rows of the wide panels; y has weights.rows columns.
void wide_linear(const Kernels& kernels, const Weights& weights, const float* x, int64_t count,
                 const float* residual, float* y, int threads);

}  // namespace ttq
