// Linear layers of nibbles by the panel kernels, for few input rows.
#pragma once

#include "operators.h"

namespace ttq {

// Where a matrix's outputs go: rows of y and residual (which may be null) are `stride` apart.
struct Output {
  const float* residual;
  float* y;
  int64_t stride;
};

// Several matrices, of as many columns and the same activations, on the same input rows.
void panel_linear(const Kernels& kernels, const Weights* weights, const Output* outputs,
                  int matrices, const float* x, int64_t count, int threads);

}  // namespace ttq
