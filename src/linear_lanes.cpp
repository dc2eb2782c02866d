#include "linear_lanes.h"

#include <algorithm>

#include "linear_rows.h"
#include "parallel.h"

namespace ttq {
namespace {

// Weight rows of one task: the sums stay in the second-level cache.
constexpr int64_t kTaskRows = 256;
// Outputs of one input row that a task writes at once: a cache line. Outputs of the next input row
// lie a power of two further on in most layers, where lines evict each other.
constexpr int64_t kTileRows = 16;
// Tables of one block of columns. They serve one lookup for a weight row, so that loading and
// storing sums costs more than reading tables from the second level (measured on Zen 3).
constexpr int64_t kTableBytes = 64 << 10;
constexpr int64_t kMostBlocks = 64;  // of input rows at once

// Input rows `count` (at most kLanes), quantized, as lanes: [padded columns][kLanes], with the
// rows' scales.
void fill_block(const Kernels& kernels, const float* x, int64_t count, int64_t columns,
                int16_t* lanes, float* scales) {
  const int64_t width = round_up(columns, 4);
  int16_t* integers = scratch_array<int16_t>(Scratch::kQuantized, count * width);
  for (int64_t m = 0; m < count; m++) {
    int16_t* row = integers + m * width;
    scales[m] = quantize_row(kernels, x + m * columns, columns, row);
    std::fill(row + columns, row + width, int16_t{0});
  }
  constexpr int64_t kTile = 32;
  for (int64_t k = 0; k < width; k += kTile) {
    const int64_t end = std::min(k + kTile, width);
    for (int64_t m = 0; m < count; m++)
      for (int64_t j = k; j < end; j++) lanes[j * kLanes + m] = integers[m * width + j];
  }
  for (int64_t j = 0; j < width; j++)
    std::fill(lanes + j * kLanes + count, lanes + (j + 1) * kLanes, int16_t{0});
}

// As many lanes as the kernels look up for `count` input rows: a part of kLanes in whole vectors.
int64_t lanes_for(const Kernels& kernels, int64_t count) {
  const int64_t vector = kernels.vector_bytes / static_cast<int64_t>(sizeof(int16_t));
  int64_t lanes = kLanes;
  for (int64_t part : {kLanes / 2, kLanes / 4})
    if (part >= count && part >= vector) lanes = part;
  return lanes;
}

// Sums of weight rows [row_begin, row_end) for a block of lanes, in this thread's scratch:
// [row][2][kLanes], P and N.
const int32_t* lane_sums(const Kernels& kernels, const Weights& w, const int16_t* source,
                         int64_t lanes, int64_t row_begin, int64_t row_end) {
  int32_t* sums = scratch_array<int32_t>(Scratch::kSums, (row_end - row_begin) * 2 * kLanes);
  const int64_t table = kTableEntries * lanes;
  const int64_t most = kTableBytes / (table * static_cast<int64_t>(sizeof(int16_t)));
  const int64_t groups = std::min(most, w.depth());
  int16_t* tables = scratch_array<int16_t>(Scratch::kTables, groups * table);
  for (int64_t g = 0; g < w.depth(); g += groups) {
    const int64_t count = std::min(groups, w.depth() - g);
    kernels.lane_tables({source + 4 * g * kLanes, count, lanes, tables});
    kernels.lane_lookup({w.codes, w.rows, w.depth(), row_begin, row_end, g, count, tables, lanes,
                         g == 0, sums});
  }
  return sums;
}

}  // namespace

void lanes_linear(const Kernels& kernels, const Weights& w, const float* x, int64_t count,
                  const float* residual, float* y, int64_t stride, int threads) {
  const int64_t blocks = divide_up(count, kLanes);
  const int64_t step = std::min<int64_t>({blocks, threads, kMostBlocks});
  const int64_t block_size = round_up(w.columns, 4) * kLanes;
  int16_t* source = scratch_array<int16_t>(Scratch::kSource, step * block_size);
  float scales[kLanes * kMostBlocks];
  const int64_t row_tasks = std::max<int64_t>(
      divide_up(w.rows, kTaskRows), std::min<int64_t>(threads, divide_up(w.rows, 16)));
  for (int64_t b0 = 0; b0 < blocks; b0 += step) {
    const int64_t now = std::min(step, blocks - b0);
    auto inputs_of = [&](int64_t b) { return std::min<int64_t>(kLanes, count - b * kLanes); };
    parallel_for(now, threads, [&](int64_t i) {
      fill_block(kernels, x + (b0 + i) * kLanes * w.columns, inputs_of(b0 + i), w.columns,
                 source + i * block_size, scales + i * kLanes);
    });
    parallel_for(now * row_tasks, threads, [&](int64_t task) {
      const int64_t i = task / row_tasks, part = task % row_tasks, b = b0 + i;
      const int64_t begin = w.rows * part / row_tasks, end = w.rows * (part + 1) / row_tasks;
      const int64_t inputs = inputs_of(b);
      const int32_t* sums = lane_sums(kernels, w, source + i * block_size,
                                      lanes_for(kernels, inputs), begin, end);
      for (int64_t row = begin; row < end; row += kTileRows) {
        const int64_t rows = std::min(kTileRows, end - row);
        float tile[kTileRows][kLanes];
        for (int64_t r = 0; r < rows; r++)
          kernels.finish_lanes(sums + (row - begin + r) * 2 * kLanes, w.scale_pos[row + r],
                               w.scale_neg[row + r], tile[r]);
        for (int64_t m = 0; m < inputs; m++) {
          const int64_t place = (b * kLanes + m) * stride + row;
          float values[kTileRows];
          for (int64_t r = 0; r < rows; r++) values[r] = scales[i * kLanes + m] * tile[r][m];
          finish_rows(values, w, row, rows, residual ? residual + place : nullptr, y + place);
        }
      }
    });
  }
}

}  // namespace ttq
