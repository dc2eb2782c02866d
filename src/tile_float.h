// Tiles of float32 weights, and what decodes and finishes them. Included by common_kernels.h.

static inline VecF multiply_add(VecF a, VecF b, VecF c) {
#if defined(TTQ_EMULATE)
  return a * b + c;
#elif VECTOR_BYTES == 64
  return reinterpret_cast<VecF>(_mm512_fmadd_ps(reinterpret_cast<__m512>(a),
                                                reinterpret_cast<__m512>(b),
                                                reinterpret_cast<__m512>(c)));
#elif VECTOR_BYTES == 32
  return reinterpret_cast<VecF>(_mm256_fmadd_ps(reinterpret_cast<__m256>(a),
                                                reinterpret_cast<__m256>(b),
                                                reinterpret_cast<__m256>(c)));
#elif defined(TTQ_NEON)
  return reinterpret_cast<VecF>(vfmaq_f32(reinterpret_cast<float32x4_t>(c),
                                          reinterpret_cast<float32x4_t>(a),
                                          reinterpret_cast<float32x4_t>(b)));
#else
  return a * b + c;
#endif
}

// Sums that registers hold beside a few weights: 12 of AVX2's 16 and of SSE's, 24 of 32.
#if VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int kTileSums = 24;
#else
constexpr int kTileSums = 12;
#endif
constexpr int kTileVectors = kTileWidth * 4 / VECTOR_BYTES;
constexpr int kTilePixelsFloat = kTileSums / kTileVectors;

template <int PIXELS>
static void tile_float_of(const Tile& t) {
  constexpr int kWidth = VECTOR_BYTES / 4;
  VecF sums[PIXELS][kTileVectors] = {};
  const float* w = static_cast<const float*>(t.weights);
  for (int64_t r = 0; r < t.run_count; r++) {
    const float* x[PIXELS];
    for (int p = 0; p < PIXELS; p++)
      x[p] = static_cast<const float*>(t.pixels[p]) + t.runs[r].offset;
    const int64_t length = t.runs[r].length;
    for (int64_t k = 0; k < length; k++) {
      VecF weights[kTileVectors];
      for (int v = 0; v < kTileVectors; v++) weights[v] = load<VecF>(w + v * kWidth);
      w += kTileWidth;
      for (int p = 0; p < PIXELS; p++) {
        const VecF value = VecF{} + x[p][k];
        for (int v = 0; v < kTileVectors; v++)
          sums[p][v] = multiply_add(value, weights[v], sums[p][v]);
      }
    }
  }
  float* out = static_cast<float*>(t.sums);
  for (int p = 0; p < PIXELS; p++)
    for (int v = 0; v < kTileVectors; v++) {
      float* place = out + p * kTileWidth + v * kWidth;
      store(place, t.first ? sums[p][v] : load<VecF>(place) + sums[p][v]);
    }
}

template <int PIXELS>
static inline void tile_float_upto(const Tile& t) {
  if constexpr (PIXELS > 1) {
    if (t.count < PIXELS) return tile_float_upto<PIXELS - 1>(t);
  }
  tile_float_of<PIXELS>(t);
}

static void tile_float(const Tile& t) { tile_float_upto<kTilePixelsFloat>(t); }

// The W bytes of a quad; a copy filled up with zeros where there are fewer.
template <int W>
static inline const uint8_t* quad_bytes(const TileDecode& d, int64_t quad, uint8_t* copy) {
  const uint8_t* bytes = d.codes + d.places[quad] * d.stride;
  if (d.rows == W) return bytes;
  for (int r = 0; r < d.rows; r++) copy[r] = bytes[r];
  return copy;
}

static void decode_float(const TileDecode& d) {
  constexpr int kWidth = VECTOR_BYTES / 4;
  typedef uint8_t Bytes __attribute__((vector_size(VECTOR_BYTES / 4)));
  VecI pos[kTileVectors] = {}, neg[kTileVectors] = {};
  float scales[kTileWidth] = {};
  for (int r = 0; r < d.rows; r++) scales[r] = d.w_pos[r];
  for (int v = 0; v < kTileVectors; v++) pos[v] = load<VecI>(scales + v * kWidth);
  for (int r = 0; r < d.rows; r++) scales[r] = -d.w_neg[r];
  for (int v = 0; v < kTileVectors; v++) neg[v] = load<VecI>(scales + v * kWidth);
  uint8_t copy[kTileWidth] = {};
  float* out = static_cast<float*>(d.weights);
  for (int64_t q = 0; q < d.quads; q++) {
    const uint8_t* bytes = quad_bytes<kTileWidth>(d, q, copy);
    for (int v = 0; v < kTileVectors; v++) {
      const VecI codes = __builtin_convertvector(load<Bytes>(bytes + v * kWidth), VecI);
      for (int t = 0; t < 4; t++) {
        // The sign bit spread over all: a mask.
        const VecI plus = codes << (31 - t) >> 31, minus = codes << (27 - t) >> 31;
        store(out + (4 * q + t) * kTileWidth + v * kWidth, (plus & pos[v]) | (minus & neg[v]));
      }
    }
  }
}

// x with rows and columns exchanged, a multiple of four of each or fewer at the end.
static inline void transpose_floats(const float* x, int64_t x_stride, int64_t rows,
                                    int64_t columns, float* y, int64_t y_stride) {
  typedef float Four __attribute__((vector_size(16)));
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) {
    int64_t j = 0;
    for (; j + 4 <= columns; j += 4) {
      const float* from = x + i * x_stride + j;
      const Four a = load<Four>(from), b = load<Four>(from + x_stride);
      const Four c = load<Four>(from + 2 * x_stride), d = load<Four>(from + 3 * x_stride);
      const Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
      const Four cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
      const Four ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const Four cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      float* to = y + j * y_stride + i;
      store(to, __builtin_shufflevector(ab, cd, 0, 1, 4, 5));
      store(to + y_stride, __builtin_shufflevector(ab, cd, 2, 3, 6, 7));
      store(to + 2 * y_stride, __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5));
      store(to + 3 * y_stride, __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7));
    }
    for (; j < columns; j++)
      for (int u = 0; u < 4; u++) y[j * y_stride + i + u] = x[(i + u) * x_stride + j];
  }
  for (; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) y[j * y_stride + i] = x[i * x_stride + j];
}

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
