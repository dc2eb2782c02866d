#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "lanes.h"
#include "layout.h"
#include "linear_rows.h"
#include "linear_wide.h"
#include "operators.h"
#include "parallel.h"

namespace ttq {
namespace {

// Input rows that the panel kernels take at once: their tables stay in the near caches.
constexpr int64_t kPanelInputs = 16;
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

class PanelLinear {
 public:
  PanelLinear(const Kernels& kernels, const Weights& weights, const float* x, int64_t count)
      : kernels_(kernels), w_(weights), count_(count), depth_(weights.depth()) {
    const int64_t width = padded(w_.columns);
    tables_ = scratch_array<uint8_t>(Scratch::kTables, count * depth_ * kPanelTableBytes);
    scales_ = scratch_array<float>(Scratch::kPlaces, count);
    if (w_.quantized) {
      int16_t* integers = scratch_array<int16_t>(Scratch::kQuantized, count * width);
      quantize_rows(kernels, x, count, w_.columns, integers, scales_);
      kernels.panel_tables_short(integers, count * depth_, tables_);
    } else {
      const float* source = x;
      if (width != w_.columns) {
        float* copy = scratch_array<float>(Scratch::kSource, count * width);
        for (int64_t m = 0; m < count; m++) {
          std::copy_n(x + m * w_.columns, w_.columns, copy + m * width);
          std::fill(copy + m * width + w_.columns, copy + (m + 1) * width, 0.0f);
        }
        source = copy;
      }
      kernels.panel_tables_float(source, count * depth_, tables_);
    }
  }

  // Rows of one panel for every input row; rows of y and residual are `stride` apart.
  void panel(int64_t panel, const float* residual, float* y, int64_t stride) const {
    const int64_t first = panel * kPanelRows;
    const int64_t width = std::min<int64_t>(kPanelRows, w_.rows - first);
    const uint8_t* codes = w_.codes + first * depth_;
    for (int64_t m = 0; m < count_; m++) {
      float values[kPanelRows];
      const uint8_t* tables = tables_ + m * depth_ * kPanelTableBytes;
      if (w_.quantized)
        sum_ints(codes, width, tables, first, scales_[m], values);
      else
        sum_floats(codes, width, tables, first, values);
      const int64_t place = m * stride + first;
      finish_rows(values, w_, first, width, residual ? residual + place : nullptr, y + place);
    }
  }

 private:
  // A narrow panel's bytes spread to the width that the kernels take.
  const uint8_t* full_width(const uint8_t* codes, int64_t width, int64_t groups) const {
    if (width == kPanelRows) return codes;
    uint8_t* wide = scratch_array<uint8_t>(Scratch::kPanel, kPanelShortGroups * kPanelRows);
    for (int64_t g = 0; g < groups; g++) {
      std::copy_n(codes + g * width, width, wide + g * kPanelRows);
      std::fill(wide + g * kPanelRows + width, wide + (g + 1) * kPanelRows, uint8_t{0});
    }
    return wide;
  }

  void sum_floats(const uint8_t* codes, int64_t width, const uint8_t* tables, int64_t first,
                  float* values) const {
    double pos[kPanelRows] = {}, neg[kPanelRows] = {};
    for (int64_t g = 0; g < depth_; g += kPanelFloatGroups) {
      const int64_t groups = std::min<int64_t>(kPanelFloatGroups, depth_ - g);
      float p[kPanelRows], n[kPanelRows];
      kernels_.panel_float(tables + g * kPanelTableBytes,
                           full_width(codes + g * width, width, groups), groups, p, n);
      for (int r = 0; r < kPanelRows; r++) {
        pos[r] += p[r];
        neg[r] += n[r];
      }
    }
    for (int64_t r = 0; r < width; r++)
      values[r] = w_.scale_pos[first + r] * static_cast<float>(pos[r]) -
                  w_.scale_neg[first + r] * static_cast<float>(neg[r]);
  }

  void sum_ints(const uint8_t* codes, int64_t width, const uint8_t* tables, int64_t first,
                float scale, float* values) const {
    int32_t pos[kPanelRows] = {}, neg[kPanelRows] = {};
    for (int64_t g = 0; g < depth_; g += kPanelShortGroups) {
      const int64_t groups = std::min<int64_t>(kPanelShortGroups, depth_ - g);
      int32_t p[kPanelRows], n[kPanelRows];
      kernels_.panel_short(tables + g * kPanelTableBytes,
                           full_width(codes + g * width, width, groups), groups, p, n);
      for (int r = 0; r < kPanelRows; r++) {
        pos[r] += p[r];
        neg[r] += n[r];
      }
    }
    for (int64_t r = 0; r < width; r++)
      values[r] = scale * (w_.scale_pos[first + r] * static_cast<float>(pos[r]) -
                           w_.scale_neg[first + r] * static_cast<float>(neg[r]));
  }

  const Kernels& kernels_;
  const Weights& w_;
  int64_t count_, depth_;
  uint8_t* tables_;
  float* scales_;
};

void panel_linear(const Kernels& kernels, const Weights& weights, const float* x, int64_t count,
                  const float* residual, float* y, int64_t stride, int threads) {
  const int64_t panels = (weights.rows + kPanelRows - 1) / kPanelRows;
  // Runs of panels, which a core reads in order; some more than threads, so that one that is held
  // up does not hold up all.
  const int64_t parts = std::min<int64_t>(threads > 1 ? 4 * threads : 1, panels);
  for (int64_t m = 0; m < count; m += kPanelInputs) {
    const PanelLinear job(kernels, weights, x + m * weights.columns,
                          std::min(kPanelInputs, count - m));
    const float* addend = residual ? residual + m * stride : nullptr;
    parallel_for(parts, threads, [&](int64_t part) {
      for (int64_t p = panels * part / parts; p < panels * (part + 1) / parts; p++)
        job.panel(p, addend, y + m * stride, stride);
    });
  }
}

template <class T>
void transpose(const T* rows, int64_t count, int64_t columns, int64_t row_stride, T* lanes) {
  constexpr int64_t kTile = 32;
  for (int64_t k = 0; k < columns; k += kTile) {
    const int64_t end = std::min(k + kTile, columns);
    for (int64_t m = 0; m < count; m++)
      for (int64_t j = k; j < end; j++) lanes[j * kLanes + m] = rows[m * row_stride + j];
  }
  for (int64_t j = 0; j < columns; j++)
    std::fill(lanes + j * kLanes + count, lanes + (j + 1) * kLanes, T{0});
}

// Input rows `count` (at most kLanes) as lanes: [columns][kLanes], with the rows' scales.
template <class T>
void fill_block(const Kernels& kernels, const Weights& w, const float* x, int64_t count, T* lanes,
                float* scales) {
  if constexpr (sizeof(T) == sizeof(float)) {
    transpose(x, count, w.columns, w.columns, lanes);
  } else {
    const int64_t width = padded(w.columns);
    int16_t* integers = scratch_array<int16_t>(Scratch::kQuantized, count * width);
    quantize_rows(kernels, x, count, w.columns, integers, scales);
    transpose(integers, count, w.columns, width, lanes);
  }
}

template <class T>
void lanes_linear(const Kernels& kernels, const Weights& w, const float* x, int64_t count,
                  const float* residual, float* y, int64_t stride, int threads) {
  const int64_t blocks = (count + kLanes - 1) / kLanes;
  const int64_t at_once = std::min<int64_t>(blocks, threads);
  const int64_t block_size = w.columns * kLanes;
  T* source = scratch_array<T>(Scratch::kSource, at_once * block_size + kLanes);
  float scales[kLanes * 64];
  const int64_t row_tasks = std::max<int64_t>(
      (w.rows + kTaskRows - 1) / kTaskRows, std::min<int64_t>(threads, (w.rows + 15) / 16));
  std::vector<int64_t> offsets(padded(w.columns), -1);
  for (int64_t k = 0; k < w.columns; k++) offsets[k] = k * kLanes;
  const int64_t multiple = kernels.vector_bytes / static_cast<int64_t>(sizeof(T));
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
      const char* all = static_cast<const char*>(lane_sums(job, begin, end));
      const int64_t row_bytes = 4 * lane_row_sums(w);
      for (int64_t row = begin; row < end; row += kTileRows) {
        const int64_t rows = std::min(kTileRows, end - row);
        float tile[kTileRows][kLanes];
        for (int64_t r = 0; r < rows; r++)
          finish_row(job, all + (row - begin + r) * row_bytes, row + r,
                     {0, 0, 1, 0, nullptr, false}, tile[r]);
        for (int64_t m = 0; m < lanes_of(b); m++) {
          const int64_t place = (b * kLanes + m) * stride + row;
          float values[kTileRows];
          for (int64_t r = 0; r < rows; r++)
            values[r] = w.quantized ? scales[i * kLanes + m] * tile[r][m] : tile[r][m];
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
  if (!weights.quantized) {
    const float most = kernels.largest(x, count * weights.columns);
    if (!(most <= kLargestActivation)) return false;
  }
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
  if (count < (weights.quantized ? kernels.short_lanes_from : kernels.float_lanes_from))
    panel_linear(kernels, nibbles, x, count, residual, y, stride, threads);
  else if (weights.quantized)
    lanes_linear<int16_t>(kernels, nibbles, x, count, residual, y, stride, threads);
  else
    lanes_linear<float>(kernels, nibbles, x, count, residual, y, stride, threads);
  return true;
}

bool linear_many(const Kernels& kernels, const Weights* weights, int matrices, const float* x,
                 int64_t count, float* const* ys, int threads) {
  for (int i = 0; i < matrices; i++)
    if (!linear(kernels, weights[i], x, count, nullptr, ys[i], threads)) return false;
  return true;
}

}  // namespace ttq
