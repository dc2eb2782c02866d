// Tiles of float32 weights, and what decodes and finishes them. Included by common_kernels.h.

#ifndef LOOP_BEGIN  // marks of x86's loops, in simd_x86.h
#define LOOP_BEGIN(name, number)
#define LOOP_END(name, number)
#endif

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
#if defined(__aarch64__)
constexpr int kTileSums = 24;
#else
constexpr int kTileSums = 12;
#endif
constexpr int kTileVectors = kTileWidth * 4 / VECTOR_BYTES;
constexpr int kTilePixelsFloat = kTileSums / kTileVectors;

template <int PIXELS>
static void tile_float_of(const Tile& t) {
  constexpr int kWidth = VECTOR_BYTES / 4;
  VecF sums[PIXELS][kTileVectors];
  for (int p = 0; p < PIXELS; p++)
    for (int v = 0; v < kTileVectors; v++) sums[p][v] = VecF{};
  const float* w = static_cast<const float*>(t.weights);
  for (int64_t r = 0; r < t.run_count; r++) {
    const float* x[PIXELS];
    for (int p = 0; p < PIXELS; p++)
      x[p] = static_cast<const float*>(t.pixels[p]) + t.runs[r].offset;
    const int64_t length = t.runs[r].length;
    for (int64_t k = 0; k < length; k++) {
      LOOP_BEGIN("tile-fp32-%c0", PIXELS);
      VecF weights[kTileVectors];
      for (int v = 0; v < kTileVectors; v++) weights[v] = load<VecF>(w + v * kWidth);
      w += kTileWidth;
      for (int p = 0; p < PIXELS; p++) {
        const VecF value = x[p][k] - VecF{};  // a broadcast
        for (int v = 0; v < kTileVectors; v++)
          sums[p][v] = multiply_add(value, weights[v], sums[p][v]);
      }
      LOOP_END("tile-fp32-%c0", PIXELS);
    }
  }
  float* out = static_cast<float*>(t.sums);
  if (!t.first)
    for (int p = 0; p < PIXELS; p++)
      for (int v = 0; v < kTileVectors; v++)
        sums[p][v] += load<VecF>(out + p * kTileWidth + v * kWidth);
  for (int p = 0; p < PIXELS; p++)
    for (int v = 0; v < kTileVectors; v++) store(out + p * kTileWidth + v * kWidth, sums[p][v]);
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

// One vector of bytes as 32-bit integers; compilers do not find the instruction for it.
static inline VecI widened(const uint8_t* bytes) {
#if VECTOR_BYTES == 64 && !defined(TTQ_EMULATE)
  return reinterpret_cast<VecI>(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes))));
#elif VECTOR_BYTES == 32 && !defined(TTQ_EMULATE)
  return reinterpret_cast<VecI>(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes))));
#else
  typedef uint8_t Bytes __attribute__((vector_size(VECTOR_BYTES / 4)));
  return __builtin_convertvector(load<Bytes>(bytes), VecI);
#endif
}

// Four rows of weights from a quad's bytes, by the sign bits that a code's two bits are moved to.
static inline void decode_quad(const uint8_t* bytes, const VecF* pos, const VecF* neg, float* out) {
  constexpr int kWidth = VECTOR_BYTES / 4;
  for (int v = 0; v < kTileVectors; v++) {
    const VecI codes = widened(bytes + v * kWidth);
    for (int t = 0; t < 4; t++) {
      const VecI plus = codes << (31 - t), minus = codes << (27 - t);
      const VecF value = plus < 0 ? pos[v] : VecF{};
      store(out + t * kTileWidth + v * kWidth, minus < 0 ? neg[v] : value);
    }
  }
}

static void decode_float(const TileDecode& d) {
  constexpr int kWidth = VECTOR_BYTES / 4;
  float scales[2][kTileWidth] = {};
  for (int r = 0; r < d.rows; r++) {
    scales[0][r] = d.w_pos[r];
    scales[1][r] = -d.w_neg[r];
  }
  VecF pos[kTileVectors], neg[kTileVectors];
  for (int v = 0; v < kTileVectors; v++) {
    pos[v] = load<VecF>(scales[0] + v * kWidth);
    neg[v] = load<VecF>(scales[1] + v * kWidth);
  }
  float* out = static_cast<float*>(d.weights);
  // Copies, which what is stored cannot change.
  const uint8_t* const codes = d.codes;
  const int32_t* const places = d.places;
  const int64_t stride = d.stride, quads = d.quads;
  if (d.rows == kTileWidth) {
    for (int64_t q = 0; q < quads; q++)
      decode_quad(codes + places[q] * stride, pos, neg, out + 4 * q * kTileWidth);
    return;
  }
  uint8_t copy[kTileWidth] = {};
  for (int64_t q = 0; q < quads; q++)
    decode_quad(quad_bytes<kTileWidth>(d, q, copy), pos, neg, out + 4 * q * kTileWidth);
}
