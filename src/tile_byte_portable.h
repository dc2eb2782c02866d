// What tile_byte.h needs, in plain C++ with vectors of eight 16-bit lanes, one for each output.
// Included by isa_portable.cpp inside its own namespace.

constexpr int kTileWidthByte = VECTOR_BYTES / 2;
constexpr int kTilePixelsByte = 2;
constexpr int64_t kTileQuads = 64;  // 64 * 4 * 127 < 2^15

struct ByteVec {
  VecS columns[4];  // masks, or one activation in every lane
};
typedef VecS ByteSum;

typedef int8_t Bytes __attribute__((vector_size(kTileWidthByte)));

// Weights lie as [column][row] bytes of 0 and 255.
static inline ByteVec load_quad(const uint8_t* weights) {
  ByteVec quad;
  for (int t = 0; t < 4; t++)
    quad.columns[t] = __builtin_convertvector(load<Bytes>(weights + t * kTileWidthByte), VecS);
  return quad;
}

static inline ByteVec repeat_four(const int8_t* x) {
  ByteVec four;
  for (int t = 0; t < 4; t++) four.columns[t] = VecS{} + static_cast<int16_t>(x[t]);
  return four;
}

static inline ByteSum no_sums() { return VecS{}; }

static inline ByteSum add_products(ByteSum sum, const ByteVec& weights, const ByteVec& x) {
  for (int t = 0; t < 4; t++) sum += weights.columns[t] & x.columns[t];
  return sum;
}

static inline void add_to_ints(ByteSum sum, bool first, int32_t* ints) {
  for (int r = 0; r < kTileWidthByte; r++) ints[r] = first ? sum[r] : ints[r] + sum[r];
}

static inline void spread_codes(const uint8_t* codes, uint8_t* weights) {
  const Bytes rows = load<Bytes>(codes);
  for (int bit = 0; bit < 8; bit++)
    store(weights + bit * kTileWidthByte, (rows & static_cast<int8_t>(1 << bit)) != 0);
}
