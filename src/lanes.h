// Running the lanes kernels over blocks of columns that fit the first-level cache.
#pragma once

#include <cstdint>
#include <vector>

#include "operators.h"

namespace ttq {

// Where the lanes of one block of outputs come from: which stretches of each source, and where
// each tap finds its lanes in the tables.
struct LanePlan {
  LanePlan(const std::vector<int64_t>& tap_offsets, int64_t lanes, int64_t lane_multiple);

  int64_t lanes;
  int64_t stride;                  // lanes between table entries
  std::vector<Segment> segments;
  std::vector<int32_t> tap_lanes;
};

struct LaneJob {
  const Kernels* kernels;
  const Weights* weights;
  const LanePlan* plan;
  const void* source;       // float, or int16 where weights are quantized
  const int64_t* offsets;   // [4 * groups of tables] of the sources, -1 for none
};

// How many sums of four bytes a row has: of float32 activations one for each lane, with the scales
// in it; of quantized ones P and N.
inline int64_t lane_row_sums(const Weights& weights) {
  return weights.quantized ? 2 * kLanes : kLanes;
}

// Sums of rows [row_begin, row_end): [row][lane_row_sums], in this thread's scratch.
const void* lane_sums(const LaneJob& job, int64_t row_begin, int64_t row_end);

// One row's outputs from its sums; `rest` gives all but the weights' own scales.
void finish_row(const LaneJob& job, const void* sums, int64_t row, Finish rest, float* values);

}  // namespace ttq
