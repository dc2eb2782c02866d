#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "layout.h"
#include "linear_lanes.h"
#include "linear_panel.h"
#include "linear_rows.h"
#include "linear_tiles.h"
#include "linear_wide.h"
#include "operators.h"
#include "parallel.h"

namespace ttq {
namespace {

// The rows of nibbles that follow the first `done`, which lie in wide panels.
Weights rows_from(const Weights& weights, int64_t done) {
  Weights rest = weights;
  rest.layout = Layout::kNibbles;
  rest.rows -= done;
  rest.codes += packed_bytes(weights.layout, weights.rows, weights.columns) - kLayoutSlack -
                packed_bytes(Layout::kNibbles, rest.rows, weights.columns);
  rest.scale_pos += done;
  rest.scale_neg += done;
  if (rest.bias) rest.bias += done;
  return rest;
}

bool runs_as_panels(const Kernels& kernels, const Weights& weights, int64_t count) {
  if (weights.quantized) return count < kernels.short_lanes_from;
  return count < kernels.tiles_from || weights.rows >= kernels.fixed_rows_from ||
         weights.rows >= kernels.fixed_rows_each * count;
}

// Whether sums of these activations are those of dense arithmetic: quantized ones always are.
bool summable(const Kernels& kernels, const Weights& weights, const float* x, int64_t count) {
  return weights.quantized || kernels.largest(x, count * weights.columns) <= kLargestActivation;
}

}  // namespace

RowScale row_scale(float largest) {
  if (!std::isfinite(largest)) return {0.0f, std::numeric_limits<float>::quiet_NaN()};
  if (largest < kSmallestRowMaximum) return {0.0f, 0.0f};
  return {127.0f / largest, largest / 127.0f};
}

ReadableWeights::ReadableWeights(const Kernels& kernels, const Weights& weights, int threads)
    : weights_(weights) {
  const Layout best = best_layout(kernels, weights.rows, weights.columns, weights.quantized);
  if (weights.layout == Layout::kNibbles || weights.layout == best) return;
  std::vector<int8_t> codes(weights.rows * weights.columns);
  unpack(weights.layout, weights.codes, weights.rows, weights.columns, codes.data(), threads);
  copy_.resize(packed_bytes(best, weights.rows, weights.columns));
  pack(best, codes.data(), weights.rows, weights.columns, copy_.data(), threads);
  weights_.codes = copy_.data();
  weights_.layout = best;
}

bool linear(const Kernels& kernels, const Weights& weights, const float* x, int64_t count,
            const float* residual, float* y, int threads) {
  if (!summable(kernels, weights, x, count)) return false;
  const int64_t stride = weights.rows;
  Weights nibbles = weights;
  if (weights.layout != Layout::kNibbles) {
    wide_linear(kernels, weights, x, count, residual, y, threads);
    const int64_t done =
        wide_panels(weights.layout, weights.rows, weights.columns) * kPanelRows;
    if (done >= weights.rows) return true;
    nibbles = rows_from(weights, done);
    y += done;
    if (residual) residual += done;
  }
  const Output output{residual, y, stride};
  if (runs_as_panels(kernels, nibbles, count))
    panel_linear(kernels, &nibbles, &output, 1, x, count, threads);
  else if (weights.quantized)
    lanes_linear(kernels, nibbles, x, count, residual, y, stride, threads);
  else
    tiles_linear(kernels, nibbles, x, count, residual, y, stride, threads);
  return true;
}

bool linear_many(const Kernels& kernels, const Weights* weights, int matrices, const float* x,
                 int64_t count, float* const* ys, int threads) {
  const bool together = std::all_of(weights, weights + matrices, [&](const Weights& w) {
    return w.layout == Layout::kNibbles && runs_as_panels(kernels, w, count);
  });
  if (!together) {
    for (int i = 0; i < matrices; i++)
      if (!linear(kernels, weights[i], x, count, nullptr, ys[i], threads)) return false;
    return true;
  }
  if (!summable(kernels, *weights, x, count)) return false;
  std::vector<Output> outputs;
  for (int i = 0; i < matrices; i++) outputs.push_back({nullptr, ys[i], weights[i].rows});
  panel_linear(kernels, weights, outputs.data(), matrices, x, count, threads);
  return true;
}

}  // namespace ttq
