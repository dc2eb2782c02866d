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
  const void* source;       // int16
  const int64_t* offsets;   // [4 * groups of tables] of the sources, -1 for none
};

// Sums of a row: P and N for each lane.
constexpr int64_t kLaneRowSums = 2 * kLanes;

// Sums of rows [row_begin, row_end): [row][kLaneRowSums], in this thread's scratch.
const int32_t* lane_sums(const LaneJob& job, int64_t row_begin, int64_t row_end);

// One row's outputs from its sums; `rest` gives all but the weights' own scales.
void finish_row(const LaneJob& job, const int32_t* sums, int64_t row, Finish rest, float* values);

}  // namespace ttq
