// What tile_byte.h needs, of NEON. Included by isa_neon*.cpp inside its own namespace, with
// DOT_BYTES defined where there are dot products.
//
// Without them a mask (weights are 0 or 255) and SADALP, which adds two bytes into 16 bits, do for
// 16 codes what SMLAL does for 8 an instruction, on ports that cores have more of.

constexpr int kTileWidthByte = 8;

// Keeps GCC from loading early, for which it runs out of registers.
#define LOAD_HERE __asm__ volatile("" ::: "memory")

struct ByteVec {
  int8x16_t rows[2];  // four codes of rows 0 to 3, and of 4 to 7
};

static inline ByteVec load_quad(const uint8_t* weights) {
  const int8_t* bytes = reinterpret_cast<const int8_t*>(weights);
  return {{vld1q_s8(bytes), vld1q_s8(bytes + 16)}};
}

static inline int8x16_t repeat_four(const int8_t* x) {
  int32_t word;
  __builtin_memcpy(&word, x, sizeof word);
  LOAD_HERE;
  return vreinterpretq_s8_s32(vdupq_n_s32(word));
}

#ifdef DOT_BYTES
constexpr int kTilePixelsByte = 6;
constexpr int64_t kTileQuads = kNever;
constexpr uint8_t kMark = 1;

struct ByteSum {
  int32x4_t rows[2];
};

static inline ByteSum no_sums() { return {{vdupq_n_s32(0), vdupq_n_s32(0)}}; }

static inline ByteSum add_products(ByteSum sum, ByteVec weights, int8x16_t x) {
  return {{vdotq_s32(sum.rows[0], weights.rows[0], x), vdotq_s32(sum.rows[1], weights.rows[1], x)}};
}

static inline int32x4_t as_ints(int32x4_t sum) { return sum; }
#else
constexpr int kTilePixelsByte = 5;  // a product takes a register of its own
constexpr int64_t kTileQuads = 128;  // 128 * 2 * 127 < 2^15
constexpr uint8_t kMark = 255;

struct ByteSum {
  int16x8_t rows[2];
};

static inline ByteSum no_sums() { return {{vdupq_n_s16(0), vdupq_n_s16(0)}}; }

static inline ByteSum add_products(ByteSum sum, ByteVec weights, int8x16_t x) {
  return {{vpadalq_s8(sum.rows[0], vandq_s8(weights.rows[0], x)),
           vpadalq_s8(sum.rows[1], vandq_s8(weights.rows[1], x))}};
}

static inline int32x4_t as_ints(int16x8_t sum) { return vpaddlq_s16(sum); }
#endif

static inline void add_to_ints(ByteSum sum, bool first, int32_t* ints) {
  for (int h = 0; h < 2; h++) {
    const int32x4_t value = as_ints(sum.rows[h]);
    vst1q_s32(ints + 4 * h, first ? value : vaddq_s32(vld1q_s32(ints + 4 * h), value));
  }
}

// The bits of each row's byte, as bytes of 0 and kMark.
static inline void spread_codes(const uint8_t* codes, uint8_t* weights) {
  static const uint8_t repeat[32] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3,
                                     4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7};
  const uint8x8_t eight = vld1_u8(codes);
  const uint8x16_t rows = vcombine_u8(eight, eight);
  for (int sign = 0; sign < 2; sign++) {
    const uint8x16_t bits =
        vreinterpretq_u8_u32(vdupq_n_u32(sign ? 0x80402010u : 0x08040201u));
    for (int h = 0; h < 2; h++) {
      const uint8x16_t found = vtstq_u8(vqtbl1q_u8(rows, vld1q_u8(repeat + 16 * h)), bits);
      vst1q_u8(weights + 32 * sign + 16 * h, vandq_u8(found, vdupq_n_u8(kMark)));
    }
  }
}

#ifdef DOT_BYTES
// Four quads at once: one load of a pixel's activations, whose quads the instruction picks itself.
template <int PIXELS, int QUAD>
static inline void add_quad_of_four(const int8x16_t x[PIXELS], const uint8_t* weights,
                                    ByteSum pos[PIXELS], ByteSum neg[PIXELS]) {
  const int8_t* bytes = reinterpret_cast<const int8_t*>(weights) + 8 * kTileWidthByte * QUAD;
  for (int h = 0; h < 2; h++) {
    LOAD_HERE;
    const int8x16_t plus = vld1q_s8(bytes + 16 * h), minus = vld1q_s8(bytes + 32 + 16 * h);
    for (int p = 0; p < PIXELS; p++) {
      pos[p].rows[h] = vdotq_laneq_s32(pos[p].rows[h], plus, x[p], QUAD);
      neg[p].rows[h] = vdotq_laneq_s32(neg[p].rows[h], minus, x[p], QUAD);
    }
  }
}

template <int PIXELS>
static inline void add_four_quads(const int8_t* const x[PIXELS], const uint8_t* weights,
                                  ByteSum pos[PIXELS], ByteSum neg[PIXELS]) {
  int8x16_t sixteen[PIXELS];
  for (int p = 0; p < PIXELS; p++) sixteen[p] = vld1q_s8(x[p]);
  add_quad_of_four<PIXELS, 0>(sixteen, weights, pos, neg);
  add_quad_of_four<PIXELS, 1>(sixteen, weights, pos, neg);
  add_quad_of_four<PIXELS, 2>(sixteen, weights, pos, neg);
  add_quad_of_four<PIXELS, 3>(sixteen, weights, pos, neg);
}
#endif
