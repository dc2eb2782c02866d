// What follows the sums of tiles. Included by common_kernels.h.

constexpr int kFinishPixels = 32;  // finished at once

// `values`: [count][W] without bias, residual and ReLU, count up to kFinishPixels.
template <int W>
static inline void finish_values(const TileFinish& f, int64_t first, int64_t count, float* values) {
  constexpr int kWidth = VECTOR_BYTES / 4;
  static_assert(W % kWidth == 0, "whole vectors");
  if (f.bias) {
    float bias[W] = {};
    for (int r = 0; r < f.rows; r++) bias[r] = f.bias[r];
    for (int64_t p = 0; p < count; p++)
      for (int v = 0; v < W; v += kWidth)
        store(values + p * W + v, load<VecF>(values + p * W + v) + load<VecF>(bias + v));
  }
  if (f.residual) {
    const float* residual = f.residual + first * f.residual_pixel;
    if (f.residual_row == 1) {
      for (int64_t p = 0; p < count; p++)
        for (int r = 0; r < f.rows; r++) values[p * W + r] += residual[p * f.residual_pixel + r];
    } else {
      float block[kFinishPixels * W];
      transpose_floats(residual, f.residual_row, f.rows, count, block, W);
      for (int64_t p = 0; p < count; p++)
        for (int r = 0; r < f.rows; r++) values[p * W + r] += block[p * W + r];
    }
  }
  // A NaN stays one.
  if (f.relu)
    for (int64_t i = 0; i < count * W; i += kWidth) {
      const VecF value = load<VecF>(values + i);
      store(values + i, value < 0 ? VecF{} : value);
    }
  float* y = f.y + first * f.y_pixel;
  if (f.y_row != 1) {
    transpose_floats(values, W, count, f.rows, y, f.y_row);
  } else if (f.rows == W) {
    for (int64_t p = 0; p < count; p++)
      __builtin_memcpy(y + p * f.y_pixel, values + p * W, W * sizeof(float));
  } else {
    for (int64_t p = 0; p < count; p++)
      for (int r = 0; r < f.rows; r++) y[p * f.y_pixel + r] = values[p * W + r];
  }
}

static void finish_tile_float(const TileFinish& f) {
  float values[kFinishPixels * kTileWidth];
  for (int64_t first = 0; first < f.count; first += kFinishPixels) {
    const int64_t count = smaller(kFinishPixels, f.count - first);
    __builtin_memcpy(values, static_cast<const float*>(f.sums) + first * kTileWidth,
                     static_cast<unsigned long>(count) * kTileWidth * sizeof(float));
    finish_values<kTileWidth>(f, first, count, values);
  }
}

template <int W>
static void finish_tile_byte(const TileFinish& f) {
  constexpr int kWidth = VECTOR_BYTES / 4;
  float pos[W] = {}, neg[W] = {}, values[kFinishPixels * W];
  for (int r = 0; r < f.rows; r++) {
    pos[r] = f.w_pos[r];
    neg[r] = f.w_neg[r];
  }
  const int32_t* sums = static_cast<const int32_t*>(f.sums);
  for (int64_t first = 0; first < f.count; first += kFinishPixels) {
    const int64_t count = smaller(kFinishPixels, f.count - first);
    for (int64_t p = 0; p < count; p++)
      for (int v = 0; v < W; v += kWidth) {
        const int32_t* place = sums + (first + p) * 2 * W + v;
        const VecF plus = __builtin_convertvector(load<VecI>(place), VecF);
        const VecF minus = __builtin_convertvector(load<VecI>(place + W), VecF);
        store(values + p * W + v, f.scale * (load<VecF>(pos + v) * plus - load<VecF>(neg + v) * minus));
      }
    finish_values<W>(f, first, count, values);
  }
}
