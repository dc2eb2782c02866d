// The fixed-point panel kernel by vpshufb, for float32 activations: 32 rows a vector. Included by
// isa_*.cpp inside its own namespace, after common_kernels.h.
//
// Float sums looked up by byte shuffles must be interleaved to be added, which takes twelve shuffles
// for 32 sums. Integers need none: the activations of a chunk of columns become integers below 2^28
// (exact but where smaller than a sixteenth of the largest; what is lost is known and returned), the
// 16 sums of subsets of four of them, counted from the least, five digits of six bits, four of which
// add up in a byte. Sums are exact.
#include "wide_sums_avx2.h"

constexpr int kFixedDigits = 5;
constexpr int kFixedDigitBits = 6;
constexpr int kFixedRun = 4;
// Groups whose codes and tables stay in the first-level cache between the halves of a panel.
constexpr int kFixedBlock = 64;
constexpr int kFixedBits = 28;  // of an activation's magnitude
static_assert(kFixedTableBytes == 16 * kFixedDigits, "a byte an entry and digit");
static_assert(kFixedChunk * ((1 << kFixedDigitBits) - 1) < 1 << 15, "digit sums are int16 in pairs");

// Integers of eight columns at a time and what is known of them.
struct FixedQuantizer {
  __m256 multiplier, lost;
  __m256i negative_low, negative_high;  // sums of the lower 16 bits of those below 0, of the rest

  inline __m256i take(__m256 x) {
    const __m256 scaled = _mm256_mul_ps(x, multiplier);
    const __m256i q = _mm256_cvtps_epi32(scaled);
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    lost = _mm256_add_ps(
        lost, _mm256_and_ps(magnitude, _mm256_sub_ps(scaled, _mm256_cvtepi32_ps(q))));
    const __m256i below = _mm256_min_epi32(q, _mm256_setzero_si256());
    negative_low = _mm256_add_epi32(
        negative_low, _mm256_and_si256(below, _mm256_set1_epi32(0xffff)));
    negative_high = _mm256_add_epi32(negative_high, _mm256_srai_epi32(below, 16));
    return q;
  }

  double negative() const {
    int32_t low[8], high[8];
    store(low, negative_low);
    store(high, negative_high);
    double total = 0;
    for (int i = 0; i < 8; i++) total += low[i] + 65536.0 * high[i];
    return total;
  }

  double all_lost() const {
    float values[8];
    store(values, lost);
    double total = 0;
    for (float value : values) total += value;
    return total;
  }
};

// Subset sums of two groups, the integers of one in each 128-bit lane, from the least sum up:
// vector h holds the entries 4 h to 4 h + 3.
static inline void fixed_entries(__m256i q, __m256i entries[4]) {
  const __m256i pick_a = _mm256_set1_epi64x(static_cast<int64_t>(0xffffffff00000000u));
  const __m256i pick_b = _mm256_setr_epi32(0, 0, -1, -1, 0, 0, -1, -1);
  __m256i least = _mm256_min_epi32(q, _mm256_setzero_si256());
  least = _mm256_add_epi32(least, _mm256_shuffle_epi32(least, 0x4e));
  least = _mm256_add_epi32(least, _mm256_shuffle_epi32(least, 0xb1));
  const __m256i a = _mm256_and_si256(_mm256_shuffle_epi32(q, 0x00), pick_a);
  const __m256i b = _mm256_and_si256(_mm256_shuffle_epi32(q, 0x55), pick_b);
  const __m256i c = _mm256_shuffle_epi32(q, 0xaa), d = _mm256_shuffle_epi32(q, 0xff);
  entries[0] = _mm256_sub_epi32(_mm256_add_epi32(a, b), least);
  entries[1] = _mm256_add_epi32(entries[0], c);
  entries[2] = _mm256_add_epi32(entries[0], d);
  entries[3] = _mm256_add_epi32(entries[1], d);
}

// Bytes 0 to 3 of each entry become its low four digits.
static inline __m256i low_digits(__m256i entries) {
  const __m256i halves = _mm256_blend_epi16(entries, _mm256_slli_epi32(entries, 4), 0xaa);
  const __m256i bytes = _mm256_blendv_epi8(halves, _mm256_slli_epi16(halves, 2),
                                           _mm256_set1_epi16(static_cast<int16_t>(0xff00)));
  return _mm256_and_si256(bytes, _mm256_set1_epi8((1 << kFixedDigitBits) - 1));
}

static inline void store_fixed_tables(__m256i q, __m256i* table) {
  const __m256i by_byte =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  __m256i entries[4], low[4], top[4];
  fixed_entries(q, entries);
  for (int h = 0; h < 4; h++) {
    low[h] = _mm256_shuffle_epi8(low_digits(entries[h]), by_byte);
    top[h] = _mm256_srli_epi32(entries[h], 4 * kFixedDigitBits);
  }
  const __m256i even0 = _mm256_unpacklo_epi32(low[0], low[1]);
  const __m256i even1 = _mm256_unpacklo_epi32(low[2], low[3]);
  const __m256i odd0 = _mm256_unpackhi_epi32(low[0], low[1]);
  const __m256i odd1 = _mm256_unpackhi_epi32(low[2], low[3]);
  _mm256_storeu_si256(table, _mm256_unpacklo_epi64(even0, even1));
  _mm256_storeu_si256(table + 1, _mm256_unpackhi_epi64(even0, even1));
  _mm256_storeu_si256(table + 2, _mm256_unpacklo_epi64(odd0, odd1));
  _mm256_storeu_si256(table + 3, _mm256_unpackhi_epi64(odd0, odd1));
  _mm256_storeu_si256(table + 4, _mm256_packus_epi16(_mm256_packs_epi32(top[0], top[1]),
                                                     _mm256_packs_epi32(top[2], top[3])));
}

// The table of a group's digit: those of two groups lie side by side.
static inline __m256i fixed_table(const uint8_t* tables, int64_t group, int digit) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(
      tables + (group & ~1) * kFixedTableBytes + 32 * digit + 16 * (group & 1))));
}

static FixedChunk fixed_tables(const float* x, int64_t columns, void* tables) {
  const float most = largest(x, columns);
  if (most == 0) {
    __builtin_memset(tables, 0, (columns + 7) / 8 * 2 * kFixedTableBytes);
    return {0, 0, 0};
  }
  // The power of two that brings the largest just below 2^28, as far as it is a float32.
  uint32_t bits;
  __builtin_memcpy(&bits, &most, 4);
  int exponent = static_cast<int>(bits >> 23) - 127;
  exponent = exponent < kFixedBits - 128 ? kFixedBits - 128 : exponent;
  const uint32_t up = static_cast<uint32_t>(127 + kFixedBits - 1 - exponent) << 23;
  float multiplier;
  __builtin_memcpy(&multiplier, &up, 4);
  const __m256i zero = _mm256_setzero_si256();
  FixedQuantizer quantizer{_mm256_set1_ps(multiplier), _mm256_setzero_ps(), zero, zero};
  __m256i* table = static_cast<__m256i*>(tables);
  int64_t k = 0;
  for (; k + 8 <= columns; k += 8, table += kFixedDigits)
    store_fixed_tables(quantizer.take(_mm256_loadu_ps(x + k)), table);
  if (k < columns) {
    float rest[8] = {};
    __builtin_memcpy(rest, x + k, (columns - k) * sizeof(float));
    store_fixed_tables(quantizer.take(_mm256_loadu_ps(rest)), table);
  }
  const double unit = 1.0 / static_cast<double>(multiplier);
  return {unit, quantizer.negative(), unit * quantizer.all_lost()};
}

// 32 rows, [+1 or -1][digit].
typedef WideSums FixedDigits[2][kFixedDigits];

// Adds groups [first, first + GROUPS), at most kFixedRun.
template <int GROUPS>
static inline void add_fixed_run(const uint8_t* tables, const uint8_t* codes, int64_t first,
                                 FixedDigits wide) {
  const __m256i nibble = _mm256_set1_epi8(15);
  __m256i sums[2][kFixedDigits];
#pragma GCC unroll 4
  for (int g = 0; g < GROUPS; g++) {
    __builtin_prefetch(codes + (first + g) * kPanelRows + kPrefetchBytes);
    const __m256i code =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + (first + g) * kPanelRows));
    const __m256i sets[2] = {_mm256_and_si256(code, nibble),
                             _mm256_and_si256(_mm256_srli_epi16(code, 4), nibble)};
    for (int d = 0; d < kFixedDigits; d++) {
      __m256i digits = GROUPS == 1 ? fixed_table(tables, first, d)
                                   : fixed_table(tables + first * kFixedTableBytes, g, d);
      IN_ORDER(digits);
      for (int s = 0; s < 2; s++) {
        const __m256i found = _mm256_shuffle_epi8(digits, sets[s]);
        sums[s][d] = g == 0 ? found : _mm256_add_epi8(sums[s][d], found);
        if (g + 1 < GROUPS) IN_ORDER(sums[s][d]);
      }
    }
  }
  for (int s = 0; s < 2; s++)
    for (int d = 0; d < kFixedDigits; d++) wide[s][d].add(sums[s][d]);
}

// Four doubles of the low and four of the high halves of an interleaving: rows as in store_floats.
static inline void add_doubles(__m256i low, __m256i high, __m256d unit, __m256d offset, double* sums) {
  const __m256d radix = _mm256_set1_pd(1 << 2 * kFixedDigitBits);
  for (int half = 0; half < 2; half++) {
    const __m128i l = half ? _mm256_extracti128_si256(low, 1) : _mm256_castsi256_si128(low);
    const __m128i h = half ? _mm256_extracti128_si256(high, 1) : _mm256_castsi256_si128(high);
    const __m256d value = _mm256_fmadd_pd(_mm256_cvtepi32_pd(h), radix,
                                          _mm256_add_pd(_mm256_cvtepi32_pd(l), offset));
    double* place = sums + 16 * half;
    _mm256_storeu_pd(place, _mm256_fmadd_pd(value, unit, _mm256_loadu_pd(place)));
  }
}

// Adds unit * (the integers that the digits stand for + offset) to the sums of 32 rows.
static inline void add_fixed_sums(const WideSums digits[kFixedDigits], __m256d unit, __m256d offset,
                                  double* sums) {
  const __m256i weights = _mm256_set1_epi32(1 << (16 + kFixedDigitBits) | 1);
  __m256i low[2][2], high[2][2];  // [parity of the row][half]: digits 0 and 1, the others
  for (int parity = 0; parity < 2; parity++) {
    __m256i d[kFixedDigits];
    for (int i = 0; i < kFixedDigits; i++) d[i] = digits[i].of(parity);
    const __m256i zero = _mm256_setzero_si256();
    const __m256i pairs[2][3] = {
        {_mm256_unpacklo_epi16(d[0], d[1]), _mm256_unpacklo_epi16(d[2], d[3]),
         _mm256_unpacklo_epi16(d[4], zero)},
        {_mm256_unpackhi_epi16(d[0], d[1]), _mm256_unpackhi_epi16(d[2], d[3]),
         _mm256_unpackhi_epi16(d[4], zero)}};
    for (int half = 0; half < 2; half++) {
      low[parity][half] = _mm256_madd_epi16(pairs[half][0], weights);
      high[parity][half] =
          _mm256_add_epi32(_mm256_madd_epi16(pairs[half][1], weights),
                           _mm256_slli_epi32(pairs[half][2], 2 * kFixedDigitBits));
    }
  }
  for (int half = 0; half < 2; half++) {
    add_doubles(_mm256_unpacklo_epi32(low[0][half], low[1][half]),
                _mm256_unpacklo_epi32(high[0][half], high[1][half]), unit, offset, sums + 8 * half);
    add_doubles(_mm256_unpackhi_epi32(low[0][half], low[1][half]),
                _mm256_unpackhi_epi32(high[0][half], high[1][half]), unit, offset,
                sums + 8 * half + 4);
  }
}

static void panel_fixed(const void* tables, const uint8_t* codes, int64_t groups,
                        const FixedChunk& chunk, double* pos, double* neg) {
  const uint8_t* table = static_cast<const uint8_t*>(tables);
  FixedDigits wide[2] = {};
  for (int64_t block = 0; block < groups; block += kFixedBlock) {
    const int64_t end = smaller(block + kFixedBlock, groups);
    for (int half = 0; half < 2; half++) {
      int64_t g = block;
      for (; g + kFixedRun <= end; g += kFixedRun) {
        LOOP_BEGIN("nibbles-fixed-%c0", 1);
        add_fixed_run<kFixedRun>(table, codes + 32 * half, g, wide[half]);
        LOOP_END("nibbles-fixed-%c0", 1);
      }
      for (; g < end; g++) add_fixed_run<1>(table, codes + 32 * half, g, wide[half]);
    }
  }
  const __m256d unit = _mm256_set1_pd(chunk.unit), offset = _mm256_set1_pd(chunk.offset);
  for (int half = 0; half < 2; half++) {
    add_fixed_sums(wide[half][0], unit, offset, pos + 32 * half);
    add_fixed_sums(wide[half][1], unit, offset, neg + 32 * half);
  }
}

// Outputs of a panel from its sums, and what shows whether too much was lost.
static FixedSquares fixed_values(const double* pos, const double* neg, const float* scale_pos,
                                 const float* scale_neg, int64_t rows, float* values) {
  __m256d outputs = _mm256_setzero_pd(), weights = outputs;
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const __m128 p = _mm_loadu_ps(scale_pos + r), n = _mm_loadu_ps(scale_neg + r);
    const __m256d value = _mm256_fmsub_pd(
        _mm256_cvtps_pd(p), _mm256_loadu_pd(pos + r),
        _mm256_mul_pd(_mm256_cvtps_pd(n), _mm256_loadu_pd(neg + r)));
    const __m256d largest_weight = _mm256_cvtps_pd(_mm_max_ps(p, n));
    outputs = _mm256_fmadd_pd(value, value, outputs);
    weights = _mm256_fmadd_pd(largest_weight, largest_weight, weights);
    _mm_storeu_ps(values + r, _mm256_cvtpd_ps(value));
  }
  FixedSquares squares{0, 0};
  for (int i = 0; i < 4; i++) {
    squares.outputs += outputs[i];
    squares.weights += weights[i];
  }
  for (; r < rows; r++) {
    const double value = scale_pos[r] * pos[r] - scale_neg[r] * neg[r];
    const double largest_weight = scale_pos[r] > scale_neg[r] ? scale_pos[r] : scale_neg[r];
    squares.outputs += value * value;
    squares.weights += largest_weight * largest_weight;
    values[r] = static_cast<float>(value);
  }
  return squares;
}

static constexpr void set_fixed(Kernels& kernels) {
  kernels.fixed_rows_from = 768;
  kernels.fixed_rows_each = 12;
  kernels.fixed_tables = fixed_tables;
  kernels.panel_fixed = panel_fixed;
  kernels.fixed_values = fixed_values;
}
