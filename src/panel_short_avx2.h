// The int8 panel kernel by vpshufb: 32 rows a vector. Included by isa_*.cpp inside its own
// namespace, after panel_float_avx2.h.
#include "panel_tables_x86.h"

// Byte sums of one digit widen to 16 bits: even rows and odd rows.
static inline void widen(__m256i bytes, __m256i sums[2]) {
  sums[0] = _mm256_add_epi16(sums[0], _mm256_and_si256(bytes, _mm256_set1_epi16(255)));
  sums[1] = _mm256_add_epi16(sums[1], _mm256_srli_epi16(bytes, 8));
}

struct DigitSums {
  __m256i low[2], high[2];
};

static inline void store_ints(const DigitSums& sums, int64_t groups, int32_t* out) {
  alignas(32) uint16_t low[2][16], high[2][16];
  for (int odd = 0; odd < 2; odd++) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(low[odd]), sums.low[odd]);
    _mm256_store_si256(reinterpret_cast<__m256i*>(high[odd]), sums.high[odd]);
  }
  const int32_t offset = static_cast<int32_t>(groups) * kSumOffset;
  for (int i = 0; i < 16; i++)
    for (int odd = 0; odd < 2; odd++)
      out[2 * i + odd] = low[odd][i] + 32 * high[odd][i] - offset;
}

static inline void add_digits(const void* tables, const uint8_t* codes, int64_t groups,
                              DigitSums& pos, DigitSums& neg) {
  const __m256i nibble = _mm256_set1_epi8(15);
  for (int64_t first = 0; first < groups; first += kDigitRun) {
    const int64_t end = smaller(first + kDigitRun, groups);
    __m256i pos_low = {}, pos_high = {}, neg_low = {}, neg_high = {};
    for (int64_t g = first; g < end; g++) {
      __builtin_prefetch(codes + g * kPanelRows + kPrefetchBytes);
      const __m256i code =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + g * kPanelRows));
      const __m256i low = table_plane(tables, g, 0), high = table_plane(tables, g, 1);
      const __m256i plus = _mm256_and_si256(code, nibble);
      const __m256i minus = _mm256_and_si256(_mm256_srli_epi16(code, 4), nibble);
      pos_low = _mm256_add_epi8(pos_low, _mm256_shuffle_epi8(low, plus));
      pos_high = _mm256_add_epi8(pos_high, _mm256_shuffle_epi8(high, plus));
      neg_low = _mm256_add_epi8(neg_low, _mm256_shuffle_epi8(low, minus));
      neg_high = _mm256_add_epi8(neg_high, _mm256_shuffle_epi8(high, minus));
    }
    widen(pos_low, pos.low);
    widen(pos_high, pos.high);
    widen(neg_low, neg.low);
    widen(neg_high, neg.high);
  }
}

static void panel_short(const void* tables, const uint8_t* codes, int64_t groups, int32_t* pos,
                        int32_t* neg) {
  // Both halves of a chunk before the next, so that codes and tables are read from near caches.
  constexpr int64_t kChunk = 64;
  DigitSums p[2] = {}, n[2] = {};
  for (int64_t g = 0; g < groups; g += kChunk)
    for (int half = 0; half < 2; half++)
      add_digits(static_cast<const uint8_t*>(tables) + g * kPanelTableBytes,
                 codes + g * kPanelRows + 32 * half, smaller(kChunk, groups - g), p[half],
                 n[half]);
  for (int half = 0; half < 2; half++) {
    store_ints(p[half], groups, pos + 32 * half);
    store_ints(n[half], groups, neg + 32 * half);
  }
}
