// What follows the sums of tiles. Included by common_kernels.h.

constexpr int kFinishPixels = 32;  // finished at once

// Outputs of one vector of a pixel's sums, before bias and residual.
template <int W>
struct FloatSums {
  static constexpr int kStride = W;  // values of a pixel
  explicit FloatSums(const TileFinish&) {}
  VecF value(const void* sums, int64_t place, int v) const {
    return load<VecF>(static_cast<const float*>(sums) + place + v);
  }
};

template <int W>
struct IntSums {
  static constexpr int kStride = 2 * W;
  float scale, pos[W] = {}, neg[W] = {};

  explicit IntSums(const TileFinish& f) : scale(f.scale) {
    for (int r = 0; r < f.rows; r++) {
      pos[r] = f.w_pos[r];
      neg[r] = f.w_neg[r];
    }
  }
  VecF value(const void* sums, int64_t place, int v) const {
    const int32_t* from = static_cast<const int32_t*>(sums) + place + v;
    const VecF plus = __builtin_convertvector(load<VecI>(from), VecF);
    const VecF minus = __builtin_convertvector(load<VecI>(from + W), VecF);
    return scale * (load<VecF>(pos + v) * plus - load<VecF>(neg + v) * minus);
  }
};

static inline VecF clamped(VecF value) { return value < 0 ? VecF{} : value; }  // a NaN stays one

// Whole pixels: `residual` null or [count] of residual_pixel.
template <int W, class Sums>
static inline void finish_whole(const TileFinish& f, const Sums& s, int64_t first, int64_t count,
                                const float* residual, bool relu, float* y, int64_t y_pixel) {
  constexpr int kWidth = VECTOR_BYTES / 4;
  static_assert(W % kWidth == 0, "whole vectors");
  float bias[W] = {};
  if (f.bias)
    for (int r = 0; r < f.rows; r++) bias[r] = f.bias[r];
  for (int v = 0; v < W; v += kWidth) {
    const VecF addend = load<VecF>(bias + v);
    for (int64_t p = 0; p < count; p++) {
      VecF value = s.value(f.sums, (first + p) * Sums::kStride, v) + addend;
      if (residual) value += load<VecF>(residual + p * f.residual_pixel + v);
      store(y + p * y_pixel + v, relu ? clamped(value) : value);
    }
  }
}

// The residual of other formats or of fewer outputs, and the ReLU that follows it.
template <int W>
static inline void finish_rest(const TileFinish& f, int64_t first, int64_t count, float* values) {
  constexpr int kWidth = VECTOR_BYTES / 4;
  const float* residual = f.residual + first * f.residual_pixel;
  if (f.residual_row == 1) {
    for (int64_t p = 0; p < count; p++)
      for (int r = 0; r < f.rows; r++) values[p * W + r] += residual[p * f.residual_pixel + r];
  } else {
    float block[kFinishPixels * W];
    transpose_floats<true>(residual, f.residual_row, f.rows, count, block, W);
    for (int64_t p = 0; p < count; p++)
      for (int r = 0; r < f.rows; r++) values[p * W + r] += block[p * W + r];
  }
  if (f.relu)
    for (int64_t i = 0; i < count * W; i += kWidth)
      store(values + i, clamped(load<VecF>(values + i)));
}

template <int W, class Sums>
static inline void finish_tile(const TileFinish& f) {
  const Sums sums(f);
  const bool whole = f.rows == W;
  const bool residual_whole = whole && f.residual && f.residual_row == 1;
  const bool later = f.residual && !residual_whole;
  float values[kFinishPixels * W];
  for (int64_t first = 0; first < f.count; first += kFinishPixels) {
    const int64_t count = smaller(kFinishPixels, f.count - first);
    const float* residual = residual_whole ? f.residual + first * f.residual_pixel : nullptr;
    float* y = f.y + first * f.y_pixel;
    if (whole && f.y_row == 1 && !later) {
      finish_whole<W>(f, sums, first, count, residual, f.relu, y, f.y_pixel);
      continue;
    }
    finish_whole<W>(f, sums, first, count, residual, f.relu && !later, values, W);
    if (later) finish_rest<W>(f, first, count, values);
    if (f.y_row != 1) {
      transpose_floats<false>(values, W, count, f.rows, y, f.y_row);
    } else {
      for (int64_t p = 0; p < count; p++)
        for (int r = 0; r < f.rows; r++) y[p * f.y_pixel + r] = values[p * W + r];
    }
  }
}

static void finish_tile_float(const TileFinish& f) {
  finish_tile<kTileWidth, FloatSums<kTileWidth>>(f);
}

template <int W>
static void finish_tile_byte(const TileFinish& f) {
  finish_tile<W, IntSums<W>>(f);
}
