// What tile_byte.h needs, of AVX2 or AVX-512 by VECTOR_BYTES. Included by isa_*.cpp inside its own
// namespace, with DOT_BYTES set to vpdpbusd's intrinsic where there is one.
//
// Both instructions take weights as the unsigned operand, 0 or 1, and activations as the signed
// one. vpdpbusd adds four products into 32 bits. Without it vpmaddubsw adds two into 16, which 128
// quads at most may share (128 * 2 * 127 < 2^15), and an addition of its own follows: four vector
// operations for both signs, all that Zen 3 starts in a cycle.

#if VECTOR_BYTES == 64
#define WIDE(operation) _mm512_##operation
#define WHOLE(operation) _mm512_##operation##_si512
typedef __m512i ByteVec;
constexpr int kTilePixelsByte = 12;
#else
#define WIDE(operation) _mm256_##operation
#define WHOLE(operation) _mm256_##operation##_si256
typedef __m256i ByteVec;
constexpr int kTilePixelsByte = 6;
#endif
typedef ByteVec ByteSum;
constexpr int kTileWidthByte = VECTOR_BYTES / 4;

static inline ByteVec load_quad(const uint8_t* weights) {
  return WHOLE(load)(reinterpret_cast<const ByteVec*>(weights));
}

static inline ByteVec repeat_four(const int8_t* x) {
  int32_t word;
  __builtin_memcpy(&word, x, sizeof word);
  return WIDE(set1_epi32)(word);
}

static inline ByteSum no_sums() { return WHOLE(setzero)(); }

#ifdef DOT_BYTES
constexpr int64_t kTileQuads = kNever;

static inline ByteSum add_products(ByteSum sum, ByteVec weights, ByteVec x) {
  return DOT_BYTES(sum, weights, x);
}

static inline ByteVec as_ints(ByteSum sum) { return sum; }
#else
constexpr int64_t kTileQuads = 128;

static inline ByteSum add_products(ByteSum sum, ByteVec weights, ByteVec x) {
  return WIDE(add_epi16)(sum, WIDE(maddubs_epi16)(weights, x));
}

static inline ByteVec as_ints(ByteSum sum) {
  return WIDE(madd_epi16)(sum, WIDE(set1_epi16)(1));
}
#endif

static inline void add_to_ints(ByteSum sum, bool first, int32_t* ints) {
  ByteVec* place = reinterpret_cast<ByteVec*>(ints);
  const ByteVec value = as_ints(sum);
  WHOLE(storeu)(place, first ? value : WIDE(add_epi32)(WHOLE(loadu)(place), value));
}

// The bits of each row's byte, as bytes of 0 and 1.
static inline void spread_codes(const uint8_t* codes, uint8_t* weights) {
#if VECTOR_BYTES == 64
  const ByteVec rows =
      _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  const ByteVec repeat = _mm512_set_epi32(
      0x0f0f0f0f, 0x0e0e0e0e, 0x0d0d0d0d, 0x0c0c0c0c, 0x0b0b0b0b, 0x0a0a0a0a, 0x09090909,
      0x08080808, 0x07070707, 0x06060606, 0x05050505, 0x04040404, 0x03030303, 0x02020202,
      0x01010101, 0x00000000);
#else
  int64_t bytes;
  __builtin_memcpy(&bytes, codes, sizeof bytes);
  const ByteVec rows = _mm256_set1_epi64x(bytes);
  const ByteVec repeat = _mm256_set_epi32(0x07070707, 0x06060606, 0x05050505, 0x04040404,
                                          0x03030303, 0x02020202, 0x01010101, 0x00000000);
#endif
  const ByteVec repeated = WIDE(shuffle_epi8)(rows, repeat), one = WIDE(set1_epi8)(1);
  const ByteVec plus_bits = WIDE(set1_epi32)(0x08040201);
  const ByteVec minus_bits = WIDE(set1_epi32)(static_cast<int32_t>(0x80402010u));
  ByteVec* place = reinterpret_cast<ByteVec*>(weights);
  WHOLE(store)(place, WIDE(min_epu8)(WHOLE(and)(repeated, plus_bits), one));
  WHOLE(store)(place + 1, WIDE(min_epu8)(WHOLE(and)(repeated, minus_bits), one));
}

#undef WIDE
#undef WHOLE
