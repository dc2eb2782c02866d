// The int8 panel kernel by vpshufb: 32 rows a vector. Included by isa_*.cpp inside its own
// namespace, after panel_float_avx2.h.
#include "panel_tables_x86.h"
#include "wide_sums_avx2.h"

static inline __m256i shuffled_table(const uint8_t* tables, int64_t group, int digit) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(
      reinterpret_cast<const __m128i*>(tables + group * kShuffledTableBytes) + digit));
}

// 32 rows, [half of the panel][+1 or -1][digit].
typedef WideSums PanelDigits[2][2][2];

// The sums of 32 rows that two digits stand for, less the offset of `groups` groups.
static inline void store_ints(const WideSums digits[2], int64_t groups, int32_t* out) {
  const __m256i offset = _mm256_set1_epi32(static_cast<int32_t>(groups) * kSumOffset);
  const __m256i zero = _mm256_setzero_si256();
  __m256i sums[2][2];  // [parity of the row][half]
  for (int parity = 0; parity < 2; parity++) {
    const __m256i low = digits[0].of(parity), high = digits[1].of(parity);
    // Up to 31 * kPanelShortGroups: no int16, so no multiply-add of pairs.
    for (int half = 0; half < 2; half++) {
      const __m256i l = half ? _mm256_unpackhi_epi16(low, zero) : _mm256_unpacklo_epi16(low, zero);
      const __m256i h = half ? _mm256_unpackhi_epi16(high, zero) : _mm256_unpacklo_epi16(high, zero);
      sums[parity][half] =
          _mm256_sub_epi32(_mm256_add_epi32(l, _mm256_slli_epi32(h, 5)), offset);
    }
  }
  for (int half = 0; half < 2; half++) {
    const __m256i first = _mm256_unpacklo_epi32(sums[0][half], sums[1][half]);
    const __m256i second = _mm256_unpackhi_epi32(sums[0][half], sums[1][half]);
    __m128i* place = reinterpret_cast<__m128i*>(out + 8 * half);
    _mm_storeu_si128(place, _mm256_castsi256_si128(first));
    _mm_storeu_si128(place + 1, _mm256_castsi256_si128(second));
    _mm_storeu_si128(place + 4, _mm256_extracti128_si256(first, 1));
    _mm_storeu_si128(place + 5, _mm256_extracti128_si256(second, 1));
  }
}

// Adds `groups` groups, at most kDigitRun; both halves of the panel at once share the loads of
// tables.
static inline void add_digits(const uint8_t* tables, const uint8_t* codes, int64_t groups,
                              PanelDigits sums) {
  const __m256i nibble = _mm256_set1_epi8(15), sixteenth = _mm256_set1_epi16(1 << 12);
  __m256i bytes[2][2][2] = {};
#pragma GCC unroll 8
  for (int64_t g = 0; g < groups; g++) {
    __builtin_prefetch(codes + g * kPanelRows + kPrefetchBytes);
    const __m256i digits[2] = {shuffled_table(tables, g, 0), shuffled_table(tables, g, 1)};
    for (int half = 0; half < 2; half++) {
      const __m256i code = _mm256_loadu_si256(
          reinterpret_cast<const __m256i*>(codes + g * kPanelRows + 32 * half));
      const __m256i sets[2] = {_mm256_and_si256(code, nibble),
                               _mm256_and_si256(_mm256_mulhi_epu16(code, sixteenth), nibble)};
      for (int s = 0; s < 2; s++)
        for (int d = 0; d < 2; d++) {
          bytes[half][s][d] =
              _mm256_add_epi8(bytes[half][s][d], _mm256_shuffle_epi8(digits[d], sets[s]));
          IN_ORDER(bytes[half][s][d]);
        }
    }
  }
  for (int half = 0; half < 2; half++)
    for (int s = 0; s < 2; s++)
      for (int d = 0; d < 2; d++) sums[half][s][d].add(bytes[half][s][d]);
}

static void panel_short(const void* tables, const uint8_t* codes, int64_t groups, int32_t* pos,
                        int32_t* neg) {
  const uint8_t* table = static_cast<const uint8_t*>(tables);
  PanelDigits sums = {};
  int64_t g = 0;
  for (; g + kDigitRun <= groups; g += kDigitRun) {
    LOOP_BEGIN("nibbles-int8-%c0", 1);
    add_digits(table + g * kShuffledTableBytes, codes + g * kPanelRows, kDigitRun, sums);
    LOOP_END("nibbles-int8-%c0", 1);
  }
  add_digits(table + g * kShuffledTableBytes, codes + g * kPanelRows, groups - g, sums);
  for (int half = 0; half < 2; half++) {
    store_ints(sums[half][0], groups, pos + 32 * half);
    store_ints(sums[half][1], groups, neg + 32 * half);
  }
}
