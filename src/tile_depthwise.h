// Tiles of depthwise convolutions: 16 channels of a few pixels, each with weights of its own.
// Included by common_kernels.h.

constexpr int kDepthwisePixels = 4;
typedef int16_t SixteenShorts __attribute__((vector_size(32)));

static inline void load_shorts(const int8_t* bytes, SixteenShorts& shorts) {
#if VECTOR_BYTES >= 32 && !defined(TTQ_EMULATE)
  shorts = reinterpret_cast<SixteenShorts>(
      _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes))));
#else
  for (int i = 0; i < 16; i++) shorts[i] = bytes[i];
#endif
}

static inline void store_ints(const SixteenShorts& shorts, int32_t* ints) {
#if VECTOR_BYTES >= 32 && !defined(TTQ_EMULATE)
  const __m256i all = reinterpret_cast<__m256i>(shorts);
  __m256i* place = reinterpret_cast<__m256i*>(ints);
  _mm256_storeu_si256(place, _mm256_cvtepi16_epi32(_mm256_castsi256_si128(all)));
  _mm256_storeu_si256(place + 1, _mm256_cvtepi16_epi32(_mm256_extracti128_si256(all, 1)));
#else
  for (int i = 0; i < 16; i++) ints[i] = shorts[i];
#endif
}

template <int PIXELS>
static inline void depthwise_float_of(const Tile& t, int first) {
  constexpr int kWidth = VECTOR_BYTES / 4;
  VecF sums[PIXELS][kTileVectors];
  const float* x[PIXELS];
#pragma GCC unroll 4
  for (int p = 0; p < PIXELS; p++) {
    x[p] = static_cast<const float*>(t.pixels[first + p]);
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; v++) sums[p][v] = VecF{};
  }
  const float* w = static_cast<const float*>(t.weights);
  for (int64_t r = 0; r < t.run_count; r++, w += kTileWidth) {
    const int64_t offset = t.runs[r].offset;
    for (int v = 0; v < kTileVectors; v++) {
      const VecF weights = load<VecF>(w + v * kWidth);
      for (int p = 0; p < PIXELS; p++)
        sums[p][v] = multiply_add(load<VecF>(x[p] + offset + v * kWidth), weights, sums[p][v]);
    }
  }
  float* out = static_cast<float*>(t.sums) + first * kTileWidth;
  for (int p = 0; p < PIXELS; p++)
    for (int v = 0; v < kTileVectors; v++) store(out + p * kTileWidth + v * kWidth, sums[p][v]);
}

template <int PIXELS>
static inline void depthwise_byte_of(const Tile& t, int first) {
  struct {
    SixteenShorts pos, neg;
  } sums[PIXELS];
  const int8_t* x[PIXELS];
#pragma GCC unroll 4
  for (int p = 0; p < PIXELS; p++) {
    x[p] = static_cast<const int8_t*>(t.pixels[first + p]);
    sums[p].pos = sums[p].neg = SixteenShorts{};
  }
  const int16_t* masks = static_cast<const int16_t*>(t.weights);
  for (int64_t r = 0; r < t.run_count; r++, masks += 2 * kTileWidth) {
    const int64_t offset = t.runs[r].offset;
    SixteenShorts plus, minus;
    __builtin_memcpy(&plus, masks, sizeof plus);
    __builtin_memcpy(&minus, masks + kTileWidth, sizeof minus);
    for (int p = 0; p < PIXELS; p++) {
      SixteenShorts values;
      load_shorts(x[p] + offset, values);
      sums[p].pos += values & plus;
      sums[p].neg += values & minus;
    }
  }
  int32_t* out = static_cast<int32_t*>(t.sums) + first * 2 * kTileWidth;
  for (int p = 0; p < PIXELS; p++, out += 2 * kTileWidth) {
    store_ints(sums[p].pos, out);
    store_ints(sums[p].neg, out + kTileWidth);
  }
}

static void depthwise_float(const Tile& t) {
  if (t.count == kDepthwisePixels) return depthwise_float_of<kDepthwisePixels>(t, 0);
  for (int p = 0; p < t.count; p++) depthwise_float_of<1>(t, p);
}

static void depthwise_byte(const Tile& t) {
  if (t.count == kDepthwisePixels) return depthwise_byte_of<kDepthwisePixels>(t, 0);
  for (int p = 0; p < t.count; p++) depthwise_byte_of<1>(t, p);
}

// Codes to 16-bit masks [4 * quads][2][16] of 0 and -1.
static void decode_masks(const TileDecode& d) {
  int16_t* out = static_cast<int16_t*>(d.weights);
  uint8_t copy[kTileWidth] = {};
  for (int64_t q = 0; q < d.quads; q++) {
    const uint8_t* bytes = quad_bytes<kTileWidth>(d, q, copy);
    for (int t = 0; t < 4; t++, out += 2 * kTileWidth) {
      int16_t masks[2 * kTileWidth];
      for (int r = 0; r < kTileWidth; r++) {
        masks[r] = static_cast<int16_t>(-(bytes[r] >> t & 1));
        masks[kTileWidth + r] = static_cast<int16_t>(-(bytes[r] >> (4 + t) & 1));
      }
      __builtin_memcpy(out, masks, sizeof masks);
    }
  }
}
