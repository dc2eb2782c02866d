// What the linear drivers do to a row before and after its sums.
#pragma once

#include <algorithm>

#include "operators.h"

namespace ttq {

// Quantize one input row into int16; returns its scale.
inline float quantize_row(const Kernels& kernels, const float* x, int64_t columns,
                          int16_t* integers) {
  const RowScale s = row_scale(kernels.largest(x, columns));
  if (s.multiplier != 0)
    kernels.quantize(x, columns, s.multiplier, integers);
  else
    std::fill_n(integers, columns, int16_t{0});
  return s.scale;
}

// y[r] = values[r] + bias + residual[r], ReLU, for weight rows first + r. A NaN stays one.
inline void finish_rows(const float* values, const Weights& w, int64_t first, int64_t count,
                        const float* residual, float* y) {
  std::copy_n(values, count, y);
  if (w.bias)
    for (int64_t r = 0; r < count; r++) y[r] += w.bias[first + r];
  if (residual)
    for (int64_t r = 0; r < count; r++) y[r] += residual[r];
  if (w.relu)
    for (int64_t r = 0; r < count; r++) y[r] = y[r] < 0 ? 0.0f : y[r];
}

}  // namespace ttq
