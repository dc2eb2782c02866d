#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "lanes.h"
#include "layout.h"
#include "linear_panel.h"
#include "linear_rows.h"
#include "linear_tiles.h"
#include "linear_wide.h"
#include "operators.h"
#include "parallel.h"

namespace ttq {
namespace {

// Weight rows of one lanes task: the sums stay in the second-level cache.
constexpr int64_t kTaskRows = 256;
// Outputs of one input row that a lanes task writes at once: a cache line. Outputs of the next
// input row lie a power of two further on in most layers, where lines evict each other.
constexpr int64_t kTileRows = 16;

int64_t padded(int64_t columns) { return (columns + 3) / 4 * 4; }

// Quantize the rows of x into int16 (count, padded columns), their scales beside them.
void quantize_rows(const Kernels& kernels, const float* x, int64_t count, int64_t columns,
                   int16_t* integers, float* scales) {
  const int64_t width = padded(columns);
  for (int64_t m = 0; m < count; m++) {
    int16_t* row = integers + m * width;
    scales[m] = quantize_row(kernels, x + m * columns, columns, row);
    std::fill(row + columns, row + width, int16_t{0});
  }
}

void transpose(const int16_t* rows, int64_t count, int64_t columns, int64_t row_stride,
               int16_t* lanes) {
  constexpr int64_t kTile = 32;
  for (int64_t k = 0; k < columns; k += kTile) {
    const int64_t end = std::min(k + kTile, columns);
    for (int64_t m = 0; m < count; m++)
      for (int64_t j = k; j < end; j++) lanes[j * kLanes + m] = rows[m * row_stride + j];
  }
  for (int64_t j = 0; j < columns; j++)
    std::fill(lanes + j * kLanes + count, lanes + (j + 1) * kLanes, int16_t{0});
}

// Input rows `count` (at most kLanes) as lanes: [columns][kLanes], with the rows' scales.
void fill_block(const Kernels& kernels, const Weights& w, const float* x, int64_t count,
                int16_t* lanes, float* scales) {
  const int64_t width = padded(w.columns);
  int16_t* integers = scratch_array<int16_t>(Scratch::kQuantized, count * width);
  quantize_rows(kernels, x, count, w.columns, integers, scales);
  transpose(integers, count, w.columns, width, lanes);
}

void lanes_linear(const Kernels& kernels, const Weights& w, const float* x, int64_t count,
                  const float* residual, float* y, int64_t stride, int threads) {
  const int64_t blocks = (count + kLanes - 1) / kLanes;
  const int64_t at_once = std::min<int64_t>(blocks, threads);
  const int64_t block_size = w.columns * kLanes;
  int16_t* source = scratch_array<int16_t>(Scratch::kSource, at_once * block_size + kLanes);
  float scales[kLanes * 64];
  const int64_t row_tasks = std::max<int64_t>(
      (w.rows + kTaskRows - 1) / kTaskRows, std::min<int64_t>(threads, (w.rows + 15) / 16));
  std::vector<int64_t> offsets(padded(w.columns), -1);
  for (int64_t k = 0; k < w.columns; k++) offsets[k] = k * kLanes;
  const int64_t multiple = kernels.vector_bytes / static_cast<int64_t>(sizeof(int16_t));
  const LanePlan full({0}, std::min<int64_t>(count, kLanes), multiple);
  const LanePlan last({0}, count - (blocks - 1) * kLanes, multiple);
  const int64_t step = std::min<int64_t>(at_once, 64);
  for (int64_t b0 = 0; b0 < blocks; b0 += step) {
    const int64_t now = std::min(step, blocks - b0);
    auto lanes_of = [&](int64_t b) { return std::min<int64_t>(kLanes, count - b * kLanes); };
    parallel_for(now, threads, [&](int64_t i) {
      fill_block(kernels, w, x + (b0 + i) * kLanes * w.columns, lanes_of(b0 + i),
                 source + i * block_size, scales + i * kLanes);
    });
    parallel_for(now * row_tasks, threads, [&](int64_t task) {
      const int64_t i = task / row_tasks, part = task % row_tasks, b = b0 + i;
      const int64_t begin = w.rows * part / row_tasks, end = w.rows * (part + 1) / row_tasks;
      const LaneJob job{&kernels, &w, b + 1 == blocks ? &last : &full, source + i * block_size,
                        offsets.data()};
      const int32_t* all = lane_sums(job, begin, end);
      for (int64_t row = begin; row < end; row += kTileRows) {
        const int64_t rows = std::min(kTileRows, end - row);
        float tile[kTileRows][kLanes];
        for (int64_t r = 0; r < rows; r++)
          finish_row(job, all + (row - begin + r) * kLaneRowSums, row + r,
                     {0, 0, 1, 0, nullptr, false}, tile[r]);
        for (int64_t m = 0; m < lanes_of(b); m++) {
          const int64_t place = (b * kLanes + m) * stride + row;
          float values[kTileRows];
          for (int64_t r = 0; r < rows; r++)
            values[r] = scales[i * kLanes + m] * tile[r][m];
          finish_rows(values, w, row, rows, residual ? residual + place : nullptr, y + place);
        }
      }
    });
  }
}

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
