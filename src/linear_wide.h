// Linear layers of weights in a wide layout (layout.h): the full panels of 64 rows.
#pragma once

#include "operators.h"

namespace ttq {

// Rows [0, weights.rows / 64 * 64) of the outputs; y has weights.rows columns.
void wide_linear(const Kernels& kernels, const Weights& weights, const float* x, int64_t count,
                 const float* residual, float* y, int threads);

}  // namespace ttq
