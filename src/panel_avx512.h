// Panel kernels for AVX-512: 64 rows a vector. Included by isa_*.cpp inside its own namespace.
#include "panel_tables_x86.h"

// A float table is 16 floats, one vector: vpermps looks up 16 rows at once and reads only the low
// four bits of each index, so that shifts of the code bytes are indices as they are.
static void panel_tables_plain(const float* x, int64_t groups, void* tables) {
  for (int64_t g = 0; g < groups; g++) {
    const __m128 v = _mm_loadu_ps(x + 4 * g), zero = _mm_setzero_ps();
    const __m128 a = _mm_shuffle_ps(v, v, 0x00), b = _mm_shuffle_ps(v, v, 0x55);
    const __m128 c = _mm_shuffle_ps(v, v, 0xaa), d = _mm_shuffle_ps(v, v, 0xff);
    const __m128 low = _mm_add_ps(_mm_blend_ps(zero, a, 0xa), _mm_blend_ps(zero, b, 0xc));
    float* table = reinterpret_cast<float*>(static_cast<uint8_t*>(tables) + g * kPanelTableBytes);
    _mm_store_ps(table, low);
    _mm_store_ps(table + 4, _mm_add_ps(low, c));
    _mm_store_ps(table + 8, _mm_add_ps(low, d));
    _mm_store_ps(table + 12, _mm_add_ps(low, _mm_add_ps(c, d)));
  }
}

// sums[j] holds rows j, 4 + j, 8 + j, ...
static inline void store_every_fourth(const __m512 sums[4], float* out) {
  float rows[4][16];
  for (int j = 0; j < 4; j++) _mm512_storeu_ps(rows[j], sums[j]);
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 4; j++) out[4 * i + j] = rows[j][i];
}

static void panel_float(const void* tables, const uint8_t* codes, int64_t groups, float* pos,
                        float* neg) {
  __m512 p[4], n[4];
  for (int j = 0; j < 4; j++) p[j] = n[j] = _mm512_setzero_ps();
  for (int64_t g = 0; g < groups; g++) {
    LOOP_BEGIN("nibbles-fp32-%c0", 1);
    const __m512 table = _mm512_load_ps(static_cast<const uint8_t*>(tables) + g * kPanelTableBytes);
    // Lane i holds the bytes of rows 4i to 4i + 3.
    const __m512i code = _mm512_loadu_si512(codes + g * kPanelRows);
    p[0] = _mm512_add_ps(p[0], _mm512_permutexvar_ps(code, table));
    n[0] = _mm512_add_ps(n[0], _mm512_permutexvar_ps(_mm512_srli_epi32(code, 4), table));
    p[1] = _mm512_add_ps(p[1], _mm512_permutexvar_ps(_mm512_srli_epi32(code, 8), table));
    n[1] = _mm512_add_ps(n[1], _mm512_permutexvar_ps(_mm512_srli_epi32(code, 12), table));
    p[2] = _mm512_add_ps(p[2], _mm512_permutexvar_ps(_mm512_srli_epi32(code, 16), table));
    n[2] = _mm512_add_ps(n[2], _mm512_permutexvar_ps(_mm512_srli_epi32(code, 20), table));
    p[3] = _mm512_add_ps(p[3], _mm512_permutexvar_ps(_mm512_srli_epi32(code, 24), table));
    n[3] = _mm512_add_ps(n[3], _mm512_permutexvar_ps(_mm512_srli_epi32(code, 28), table));
    LOOP_END("nibbles-fp32-%c0", 1);
  }
  store_every_fourth(p, pos);
  store_every_fourth(n, neg);
}

static inline __m512i table_plane(const void* tables, int64_t group, int plane) {
  const uint8_t* place = static_cast<const uint8_t*>(tables) + group * kShuffledTableBytes;
  return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(place) + plane));
}

// Byte sums of one digit widen to 16 bits: even rows and odd rows.
static inline void widen(__m512i bytes, __m512i sums[2]) {
  sums[0] = _mm512_add_epi16(sums[0], _mm512_and_si512(bytes, _mm512_set1_epi16(255)));
  sums[1] = _mm512_add_epi16(sums[1], _mm512_srli_epi16(bytes, 8));
}

struct DigitSums {
  __m512i low[2], high[2];
};

static inline void store_ints(const DigitSums& sums, int64_t groups, int32_t* out) {
  uint16_t low[2][32], high[2][32];
  for (int odd = 0; odd < 2; odd++) {
    _mm512_storeu_si512(low[odd], sums.low[odd]);
    _mm512_storeu_si512(high[odd], sums.high[odd]);
  }
  const int32_t offset = static_cast<int32_t>(groups) * kSumOffset;
  for (int i = 0; i < 32; i++)
    for (int odd = 0; odd < 2; odd++)
      out[2 * i + odd] = low[odd][i] + 32 * high[odd][i] - offset;
}

static void panel_short(const void* tables, const uint8_t* codes, int64_t groups, int32_t* pos,
                        int32_t* neg) {
  const __m512i nibble = _mm512_set1_epi8(15), zero = _mm512_setzero_si512();
  DigitSums p = {{zero, zero}, {zero, zero}}, n = p;
  for (int64_t first = 0; first < groups; first += kDigitRun) {
    const int64_t end = smaller(first + kDigitRun, groups);
    __m512i pos_low = zero, pos_high = zero, neg_low = zero, neg_high = zero;
    for (int64_t g = first; g < end; g++) {
      LOOP_BEGIN("nibbles-int8-%c0", 1);
      __builtin_prefetch(codes + g * kPanelRows + kPrefetchBytes);
      const __m512i code = _mm512_loadu_si512(codes + g * kPanelRows);
      const __m512i low = table_plane(tables, g, 0), high = table_plane(tables, g, 1);
      const __m512i plus = _mm512_and_si512(code, nibble);
      const __m512i minus = _mm512_and_si512(_mm512_srli_epi16(code, 4), nibble);
      pos_low = _mm512_add_epi8(pos_low, _mm512_shuffle_epi8(low, plus));
      pos_high = _mm512_add_epi8(pos_high, _mm512_shuffle_epi8(high, plus));
      neg_low = _mm512_add_epi8(neg_low, _mm512_shuffle_epi8(low, minus));
      neg_high = _mm512_add_epi8(neg_high, _mm512_shuffle_epi8(high, minus));
      LOOP_END("nibbles-int8-%c0", 1);
    }
    widen(pos_low, p.low);
    widen(pos_high, p.high);
    widen(neg_low, n.low);
    widen(neg_high, n.high);
  }
  store_ints(p, groups, pos);
  store_ints(n, groups, neg);
}

static constexpr void set_panels(Kernels& kernels) {
  kernels.panel_tables_float = panel_tables_plain;
  kernels.short_table_bytes = kShuffledTableBytes;
  kernels.panel_tables_short = panel_tables_short;
  kernels.panel_float = panel_float;
  kernels.panel_short = panel_short;
}
