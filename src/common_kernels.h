// The inner loops that plain C++ with vector types says well enough for every instruction set.
//
// Included by each isa_*.cpp inside its own namespace, so that the linker never mixes code that
// was compiled with different flags. Nothing from the standard library is instantiated here for
// the same reason. Expects VECTOR_BYTES.

typedef float VecF __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t VecI __attribute__((vector_size(VECTOR_BYTES)));
typedef int16_t VecS __attribute__((vector_size(VECTOR_BYTES)));

template <class V, class T>
static inline V load(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class V, class T>
static inline void store(T* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static inline void copy_floats(const float* from, int64_t count, float* to) {
  __builtin_memcpy(to, from, static_cast<unsigned long>(count) * sizeof(float));
}

static inline int64_t panel_width(int64_t rows, int64_t panel) {
  return smaller(kPanelRows, rows - panel * kPanelRows);
}

static float largest(const float* x, int64_t count) {
  constexpr int kWidth = VECTOR_BYTES / 4;
  constexpr int32_t kMagnitude = 0x7fffffff;
  // As integers, magnitudes order as the floats do, with infinity and NaN above all.
  VecI most[4] = {};
  int64_t i = 0;
  for (; i + 4 * kWidth <= count; i += 4 * kWidth) {
    for (int u = 0; u < 4; u++) {
      const VecI bits = load<VecI>(x + i + u * kWidth) & kMagnitude;
      most[u] = bits > most[u] ? bits : most[u];
    }
  }
  int32_t result = 0;
  for (int u = 0; u < 4; u++)
    for (int j = 0; j < kWidth; j++) result = most[u][j] > result ? most[u][j] : result;
  for (; i < count; i++) {
    int32_t bits;
    __builtin_memcpy(&bits, x + i, 4);
    bits &= kMagnitude;
    result = bits > result ? bits : result;
  }
  float value;
  __builtin_memcpy(&value, &result, 4);
  return value;
}

// Adding 1.5 * 2^23 rounds |v| < 2^22 to the nearest integer, ties to even, and leaves it in the low
// bits.
constexpr float kRounder = 12582912.0f;

static void quantize(const float* x, int64_t count, float multiplier, int16_t* out) {
  for (int64_t i = 0; i < count; i++) {
    const float shifted = x[i] * multiplier + kRounder;
    int32_t bits;
    __builtin_memcpy(&bits, &shifted, 4);
    out[i] = static_cast<int16_t>(bits);
  }
}

// tables[e] = the sum of the sources whose bit is set in e.
static void lane_tables(const LaneTables& t) {
  constexpr int kWidth = VECTOR_BYTES / sizeof(int16_t);
  for (int64_t g = 0; g < t.groups; g++) {
    const int16_t* source = t.source + 4 * g * kLanes;
    int16_t* table = t.tables + g * kTableEntries * t.lanes;
    for (int64_t i = 0; i < t.lanes; i += kWidth) {
      VecS x[4];
      for (int j = 0; j < 4; j++) x[j] = load<VecS>(source + j * kLanes + i);
      const VecS low[4] = {VecS{}, x[0], x[1], x[0] + x[1]};
      const VecS high[4] = {VecS{}, x[2], x[3], x[2] + x[3]};
      for (int e = 0; e < kTableEntries; e++)
        store(table + e * t.lanes + i, low[e & 3] + high[e >> 2]);
    }
  }
}

template <int VECTORS>
static inline void add_run(const uint8_t* code, int64_t width, int64_t columns,
                           const int16_t* tables, VecS* pos, VecS* neg) {
  constexpr int kWidth = VECTOR_BYTES / sizeof(int16_t);
  constexpr int64_t kStride = VECTORS * kWidth;
  VecS p[VECTORS], n[VECTORS];
  for (int v = 0; v < VECTORS; v++) p[v] = n[v] = VecS{};
  for (int64_t k = 0; k < columns; k++) {
    const unsigned byte = code[k * width];
    const int16_t* table = tables + k * kTableEntries * kStride;
    const int16_t* plus = table + (byte & 15) * kStride;
    const int16_t* minus = table + (byte >> 4) * kStride;
    for (int v = 0; v < VECTORS; v++) {
      p[v] += load<VecS>(plus + v * kWidth);
      n[v] += load<VecS>(minus + v * kWidth);
    }
  }
  for (int v = 0; v < VECTORS; v++) {
    pos[v] = p[v];
    neg[v] = n[v];
  }
}

template <int VECTORS>
static inline void widen_to_sums(const VecS* values, bool first, int32_t* sums) {
  typedef int16_t HalfS __attribute__((vector_size(VECTOR_BYTES / 2)));
  constexpr int kWidth = VECTOR_BYTES / 4;
  int16_t lanes[VECTORS * 2 * kWidth];
  for (int v = 0; v < VECTORS; v++) store(lanes + v * 2 * kWidth, values[v]);
  for (int h = 0; h < 2 * VECTORS; h++) {
    const VecI wide = __builtin_convertvector(load<HalfS>(lanes + h * kWidth), VecI);
    int32_t* place = sums + h * kWidth;
    store(place, first ? wide : load<VecI>(place) + wide);
  }
}

template <int VECTORS>
static void lookup_rows(const LaneLookup& t) {
  constexpr int64_t kTable = kTableEntries * VECTORS * VECTOR_BYTES / sizeof(int16_t);
  VecS pos[VECTORS], neg[VECTORS];
  for (int64_t row = t.row_begin; row < t.row_end; row++) {
    const int64_t panel = row / kPanelRows;
    const int64_t width = panel_width(t.matrix_rows, panel);
    const uint8_t* code = t.codes + panel * kPanelRows * t.depth + t.column_begin * width +
                          row % kPanelRows;
    int32_t* sums = t.sums + (row - t.row_begin) * 2 * kLanes;
    for (int64_t k = 0; k < t.columns; k += kShortRun) {
      const int64_t run = smaller(kShortRun, t.columns - k);
      add_run<VECTORS>(code + k * width, width, run, t.tables + k * kTable, pos, neg);
      const bool first = t.first && k == 0;
      widen_to_sums<VECTORS>(pos, first, sums);
      widen_to_sums<VECTORS>(neg, first, sums + kLanes);
    }
  }
}

static void lane_lookup(const LaneLookup& t) {
  constexpr int kFull = kLanes * sizeof(int16_t) / VECTOR_BYTES;
  if constexpr (kFull >= 4) {
    if (t.lanes == kLanes / 4) return lookup_rows<kFull / 4>(t);
  }
  if constexpr (kFull >= 2) {
    if (t.lanes == kLanes / 2) return lookup_rows<kFull / 2>(t);
  }
  lookup_rows<kFull>(t);
}

// A weight row's P and N, each [kLanes], to scale_pos P - scale_neg N.
static void finish_lanes(const int32_t* sums, float scale_pos, float scale_neg, float* values) {
  const int32_t* pos = sums;
  const int32_t* neg = sums + kLanes;
  for (int i = 0; i < kLanes; i++)
    values[i] = scale_pos * static_cast<float>(pos[i]) - scale_neg * static_cast<float>(neg[i]);
}

// Only this rival may fuse multiply and add: the ternary kernels promise their rounding.
#if defined(__clang__)
#define FUSE_MULTIPLY_ADD
#else
#define FUSE_MULTIPLY_ADD __attribute__((optimize("fp-contract=fast")))
#endif

FUSE_MULTIPLY_ADD
static void dense_rows(const float* x, const float* weights, int64_t rows, int64_t columns,
                       float* y) {
#if defined(__clang__)
#pragma clang fp contract(fast)
#endif
  constexpr int kWidth = VECTOR_BYTES / 4;
  constexpr int kRows = 4;
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows) {
    VecF sums[kRows][2] = {};
    const float* w = weights + row * columns;
    int64_t k = 0;
    for (; k + 2 * kWidth <= columns; k += 2 * kWidth) {
      const VecF x0 = load<VecF>(x + k), x1 = load<VecF>(x + k + kWidth);
      for (int r = 0; r < kRows; r++) {
        sums[r][0] += x0 * load<VecF>(w + r * columns + k);
        sums[r][1] += x1 * load<VecF>(w + r * columns + k + kWidth);
      }
    }
    for (int r = 0; r < kRows; r++) {
      float total = 0;
      const VecF both = sums[r][0] + sums[r][1];
      for (int i = 0; i < kWidth; i++) total += both[i];
      for (int64_t j = k; j < columns; j++) total += x[j] * w[r * columns + j];
      y[row + r] = total;
    }
  }
  for (; row < rows; row++) {
    float total = 0;
    for (int64_t k = 0; k < columns; k++) total += x[k] * weights[row * columns + k];
    y[row] = total;
  }
}

#include "transpose.h"
#include "tile_float.h"
#include "tile_depthwise.h"
#include "tile_fill.h"
#include "tile_finish.h"

#include "step_kernels.h"

// A set's table with the kernels of this file; its panel kernels are still to be filled in.
// Constant, so that nothing compiled for this set runs when the library is loaded elsewhere.
static constexpr Kernels common_kernels(const char* name, int64_t tiles_from,
                                        int64_t short_lanes_from) {
  Kernels kernels{};
  kernels.name = name;
  kernels.vector_bytes = VECTOR_BYTES;
  kernels.tiles_from = tiles_from;
  kernels.short_lanes_from = short_lanes_from;
  kernels.largest = largest;
  kernels.quantize = quantize;
  kernels.lane_tables = lane_tables;
  kernels.lane_lookup = lane_lookup;
  kernels.finish_lanes = finish_lanes;
  kernels.dense_rows = dense_rows;
  kernels.lstm_cell = lstm_cell;
  kernels.gru_cell = gru_cell;
  kernels.swiglu = swiglu;
  kernels.rms_norm = rms_norm;
  kernels.rotate = rotate;
  kernels.attend = attend;
  kernels.tile_pixels_float = kTilePixelsFloat;
  kernels.tile_float = tile_float;
  kernels.fill_float = fill_float;
  kernels.fill_byte = fill_byte;
  kernels.decode_float = decode_float;
  kernels.finish_tile_float = finish_tile_float;
  kernels.finish_sixteen = finish_tile_byte<kTileWidth>;
  kernels.depthwise_pixels = kDepthwisePixels;
  kernels.depthwise_float = depthwise_float;
  kernels.depthwise_byte = depthwise_byte;
  kernels.decode_masks = decode_masks;
  return kernels;
}
