#include "lanes.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "parallel.h"

namespace ttq {
namespace {

// Tables of one block of columns: three quarters of a 32 KiB first-level cache.
constexpr int64_t kTableBytes = 24 << 10;
// With one lookup a row in each table, loading and storing sums costs more than reading tables from
// the second level (measured on Zen 3).
constexpr int64_t kSingleTapTableBytes = 64 << 10;

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

void sum_columns(const LaneJob& job, int64_t row_begin, int64_t row_end, int64_t group_begin,
                 int64_t group_end, int32_t* sums) {
  const LanePlan& plan = *job.plan;
  const int64_t taps = static_cast<int64_t>(plan.tap_lanes.size());
  constexpr int64_t element = sizeof(int16_t);
  const int64_t group_lanes = kTableEntries * plan.stride;
  const int64_t bytes = taps == 1 ? kSingleTapTableBytes : kTableBytes;
  const int64_t block = std::max<int64_t>(1, bytes / (group_lanes * element));
  const int64_t groups = std::min(block, group_end - group_begin);
  void* tables = scratch(Scratch::kTables, groups * group_lanes * element);
  int32_t* places = scratch_array<int32_t>(Scratch::kPlaces, groups * taps);
  for (int64_t g = 0; g < groups; g++)
    for (int64_t t = 0; t < taps; t++)
      places[g * taps + t] = static_cast<int32_t>(g * group_lanes) + plan.tap_lanes[t];
  for (int64_t g = group_begin; g < group_end; g += groups) {
    const int64_t count = std::min(groups, group_end - g);
    const LaneTables build{job.source,
                           job.offsets + 4 * g,
                           plan.segments.data(),
                           static_cast<int64_t>(plan.segments.size()),
                           count,
                           plan.stride,
                           tables};
    const LaneLookup lookup{job.weights->codes,
                            job.weights->rows,
                            job.weights->depth(),
                            row_begin,
                            row_end,
                            g * taps,
                            count * taps,
                            places,
                            tables,
                            plan.stride,
                            plan.lanes,
                            g == group_begin,
                            sums};
    job.kernels->lane_tables_short(build);
    job.kernels->lane_lookup_short(lookup);
  }
}

}  // namespace

LanePlan::LanePlan(const std::vector<int64_t>& tap_offsets, int64_t lanes_in_use,
                   int64_t lane_multiple)
    : lanes(lanes_in_use), stride(0), tap_lanes(tap_offsets.size()) {
  std::vector<size_t> order(tap_offsets.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return tap_offsets[a] < tap_offsets[b]; });
  // A lookup reads a whole power-of-two block of lanes, so windows are that wide.
  int64_t width = lane_multiple;
  while (width < lanes) width *= 2;
  for (size_t i : order) {
    const int64_t offset = tap_offsets[i];
    if (segments.empty() || offset > segments.back().offset + segments.back().length) {
      if (!segments.empty()) segments.back().length = round_up(segments.back().length, lane_multiple);
      const int64_t lane = segments.empty() ? 0 : segments.back().lane + segments.back().length;
      segments.push_back({offset, lane, width});
    } else {
      segments.back().length = offset + width - segments.back().offset;
    }
    tap_lanes[i] = static_cast<int32_t>(segments.back().lane + offset - segments.back().offset);
  }
  segments.back().length = round_up(segments.back().length, lane_multiple);
  stride = segments.back().lane + segments.back().length;
}

const int32_t* lane_sums(const LaneJob& job, int64_t row_begin, int64_t row_end) {
  const int64_t taps = static_cast<int64_t>(job.plan->tap_lanes.size());
  int32_t* sums = scratch_array<int32_t>(Scratch::kSums, (row_end - row_begin) * kLaneRowSums);
  sum_columns(job, row_begin, row_end, 0, job.weights->depth() / taps, sums);
  return sums;
}

void finish_row(const LaneJob& job, const int32_t* sums, int64_t row, Finish rest, float* values) {
  rest.scale_pos = job.weights->scale_pos[row];
  rest.scale_neg = job.weights->scale_neg[row];
  job.kernels->finish_int(sums, rest, values);
}

}  // namespace ttq
