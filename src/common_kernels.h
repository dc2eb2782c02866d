// The inner loops that plain C++ with vector types says well enough for every instruction set.
//
// Included by each isa_*.cpp inside its own namespace, so that the linker never mixes code that
// was compiled with different flags. Nothing from the standard library is instantiated here for
// the same reason. Expects VECTOR_BYTES.

typedef float VecF __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t VecI __attribute__((vector_size(VECTOR_BYTES)));
typedef int16_t VecS __attribute__((vector_size(VECTOR_BYTES)));

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef VecF Type;
};
template <>
struct VectorOf<int16_t> {
  typedef VecS Type;
};

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
template <class T>
static void lane_tables(const LaneTables& t) {
  typedef typename VectorOf<T>::Type V;
  constexpr int kWidth = VECTOR_BYTES / sizeof(T);
  for (int64_t g = 0; g < t.groups; g++) {
    T* table = static_cast<T*>(t.tables) + g * kTableEntries * t.stride;
    for (int64_t s = 0; s < t.segment_count; s++) {
      const Segment& segment = t.segments[s];
      for (int64_t i = 0; i < segment.length; i += kWidth) {
        V x[4];
        for (int j = 0; j < 4; j++) {
          const int64_t offset = t.offsets[g * 4 + j];
          if (offset < 0)
            x[j] = V{};
          else
            x[j] = load<V>(static_cast<const T*>(t.source) + offset + segment.offset + i);
        }
        V low[4] = {V{}, x[0], x[1], x[0] + x[1]};
        V high[4] = {V{}, x[2], x[3], x[2] + x[3]};
        T* place = table + segment.lane + i;
        for (int e = 0; e < kTableEntries; e++) store(place + e * t.stride, low[e & 3] + high[e >> 2]);
      }
    }
  }
}

template <class T, int VECTORS>
static inline void add_run(const uint8_t* code, int64_t width, const int32_t* places,
                           int64_t columns, const T* tables, int64_t stride,
                           typename VectorOf<T>::Type* pos, typename VectorOf<T>::Type* neg) {
  typedef typename VectorOf<T>::Type V;
  constexpr int kWidth = VECTOR_BYTES / sizeof(T);
  V p[VECTORS], n[VECTORS];
  for (int v = 0; v < VECTORS; v++) p[v] = n[v] = V{};
  for (int64_t k = 0; k < columns; k++) {
    const unsigned byte = code[k * width];
    const T* table = tables + places[k];
    const T* plus = table + (byte & 15) * stride;
    const T* minus = table + (byte >> 4) * stride;
    for (int v = 0; v < VECTORS; v++) {
      p[v] += load<V>(plus + v * kWidth);
      n[v] += load<V>(minus + v * kWidth);
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
static inline void add_to_sums(const VecS* pos, const VecS* neg, bool first, int32_t* sums) {
  widen_to_sums<VECTORS>(pos, first, sums);
  widen_to_sums<VECTORS>(neg, first, sums + kLanes);
}

template <class T, class Sum, int VECTORS>
static void lookup_rows(const LaneLookup& t, int64_t longest_run) {
  typename VectorOf<T>::Type pos[VECTORS], neg[VECTORS];
  for (int64_t row = t.row_begin; row < t.row_end; row++) {
    const int64_t panel = row / kPanelRows;
    const int64_t width = panel_width(t.matrix_rows, panel);
    const uint8_t* code = t.codes + panel * kPanelRows * t.depth + t.column_begin * width +
                          row % kPanelRows;
    Sum* sums = static_cast<Sum*>(t.sums) + (row - t.row_begin) * 2 * kLanes;
    for (int64_t k = 0; k < t.columns; k += longest_run) {
      const int64_t run = smaller(longest_run, t.columns - k);
      add_run<T, VECTORS>(code + k * width, width, t.places + k, run,
                          static_cast<const T*>(t.tables), t.stride, pos, neg);
      const bool first = t.first && k == 0;
      add_to_sums<VECTORS>(pos, neg, first, sums);
    }
  }
}

template <class T, class Sum>
static void lane_lookup(const LaneLookup& t, int64_t longest_run) {
  constexpr int kWidth = VECTOR_BYTES / sizeof(T);
  constexpr int kFull = kLanes / kWidth;
  if constexpr (kFull >= 4) {
    if (t.lanes * 4 <= kLanes) return lookup_rows<T, Sum, kFull / 4>(t, longest_run);
  }
  if constexpr (kFull >= 2) {
    if (t.lanes * 2 <= kLanes) return lookup_rows<T, Sum, kFull / 2>(t, longest_run);
  }
  lookup_rows<T, Sum, kFull>(t, longest_run);
}

static void lane_lookup_short(const LaneLookup& t) {
  lane_lookup<int16_t, int32_t>(t, kShortRun);
}

static inline void add_and_clamp(const Finish& f, float* values) {
  for (int i = 0; i < kLanes; i++) values[i] += f.bias;
  if (f.residual)
    for (int i = 0; i < kLanes; i++) values[i] += f.residual[i];
  // A NaN stays one.
  if (f.relu)
    for (int i = 0; i < kLanes; i++) values[i] = values[i] < 0 ? 0.0f : values[i];
}

static void finish_int(const void* sums, const Finish& f, float* values) {
  const int32_t* pos = static_cast<const int32_t*>(sums);
  const int32_t* neg = pos + kLanes;
  for (int i = 0; i < kLanes; i++)
    values[i] = f.scale_pos * static_cast<float>(pos[i]) -
                f.scale_neg * static_cast<float>(neg[i]);
  if (f.scales)
    for (int i = 0; i < kLanes; i++) values[i] = f.scales[i] * values[i];
  else
    for (int i = 0; i < kLanes; i++) values[i] = f.scale * values[i];
  add_and_clamp(f, values);
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
  kernels.lane_tables_short = lane_tables<int16_t>;
  kernels.lane_lookup_short = lane_lookup_short;
  kernels.finish_int = finish_int;
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
