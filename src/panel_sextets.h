// Int8 panel kernels of the sextets layout (layout.h), for AVX-512 with VBMI. Included by
// isa_*.cpp inside its own namespace.
//
// The sums of the subsets of six activations fill one 64-byte table: vpermb looks up 64 rows at
// once and reads only the low six bits of each index. A sum lies within 6 * 127 either way; with
// that added it is split in two digits to base 39, six of which add up in a byte.

constexpr int kSextetBase = 39;
constexpr int kSextetByteRun = 3;  // groups, of two sets each, whose digits add up in a byte
constexpr int kSelect = 0xca;      // ternary logic: the second where the first is set, else the third

static void sextet_tables(const int16_t* x, int64_t groups, void* tables) {
  // Entry e is the sum of the x[t] whose bit t is set in e. The order is that of packus_epi16,
  // which takes eight entries of `low` and eight of `high` by turns.
  const __m512i base = _mm512_set1_epi16(kSextetBase);
  const __m512i reciprocal = _mm512_set1_epi16(1681);  // exact up to 6 * 254 with a shift by 16
  char* table = static_cast<char*>(tables);
  for (int64_t h = 0; h < 2 * groups; h++, x += 6, table += 128) {
    __m512i low = _mm512_set1_epi16(6 * kCodeLimit);
    low = _mm512_mask_add_epi16(low, 0xaaaaaaaa, low, _mm512_set1_epi16(x[0]));
    low = _mm512_mask_add_epi16(low, 0xcccccccc, low, _mm512_set1_epi16(x[1]));
    low = _mm512_mask_add_epi16(low, 0xf0f0f0f0, low, _mm512_set1_epi16(x[2]));
    low = _mm512_mask_add_epi16(low, 0xff00ff00, low, _mm512_set1_epi16(x[4]));
    low = _mm512_mask_add_epi16(low, 0xffff0000, low, _mm512_set1_epi16(x[5]));
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(x[3]));
    const __m512i low_second = _mm512_mulhi_epu16(low, reciprocal);
    const __m512i high_second = _mm512_mulhi_epu16(high, reciprocal);
    const __m512i low_first = _mm512_sub_epi16(low, _mm512_mullo_epi16(low_second, base));
    const __m512i high_first = _mm512_sub_epi16(high, _mm512_mullo_epi16(high_second, base));
    _mm512_store_si512(table, _mm512_packus_epi16(low_first, high_first));
    _mm512_store_si512(table + 64, _mm512_packus_epi16(low_second, high_second));
  }
}

// 16-bit sums of bytes: of odd ones, and of all as pairs, in which the odd count 256-fold.
struct WideSums {
  __m512i pairs, odd;

  inline void add(__m512i bytes) {
    pairs = _mm512_add_epi16(pairs, bytes);
    odd = _mm512_add_epi16(odd, _mm512_srli_epi16(bytes, 8));
  }
  inline __m512i of(int parity) const {
    return parity ? odd : _mm512_sub_epi16(pairs, _mm512_slli_epi16(odd, 8));
  }
};

// Adds first + 39 * second to the 64 sums.
static inline void add_to_sums(const WideSums digits[2], int32_t* sums) {
  const __m512i weights = _mm512_set1_epi32(kSextetBase << 16 | 1);
  for (int parity = 0; parity < 2; parity++) {
    const __m512i first = digits[0].of(parity), second = digits[1].of(parity);
    const __m512i halves[2] = {_mm512_unpacklo_epi16(first, second),
                               _mm512_unpackhi_epi16(first, second)};
    for (int half = 0; half < 2; half++) {
      int32_t* place = sums + 16 * (2 * parity + half);
      _mm512_storeu_si512(place, _mm512_add_epi32(_mm512_loadu_si512(place),
                                                  _mm512_madd_epi16(halves[half], weights)));
    }
  }
}

// Adds `groups` groups, at most kSextetByteRun, to the wide sums.
template <int INPUTS>
static inline void add_run(const WidePanel& panel, int64_t first, int64_t groups,
                           WideSums wide[INPUTS][2][2]) {
  const __m512i two_bits = _mm512_set1_epi8(3), four_bits = _mm512_set1_epi8(15);
  __m512i bytes[INPUTS][2][2];  // [+1 or -1][digit]
  for (int m = 0; m < INPUTS; m++)
    for (int s = 0; s < 2; s++) bytes[m][s][0] = bytes[m][s][1] = _mm512_setzero_si512();
#pragma GCC unroll 3
  for (int64_t g = first; g < first + groups; g++) {
    const uint8_t* codes = panel.codes + g * kSextetBytes;
    __m512i index[4];
    for (int j = 0; j < 3; j++) {
      __builtin_prefetch(panel.next + g * kSextetBytes + 64 * j);
      index[j] = _mm512_loadu_si512(codes + 64 * j);
      IN_ORDER(index[j]);  // loads once, as the tables below: Zen 4 loads one such a cycle
    }
    // Bits 6 and 7 of the three bytes side by side; shifts by multiplication as in triples.
    const __m512i later = _mm512_ternarylogic_epi32(
        four_bits, _mm512_mulhi_epu16(index[1], _mm512_set1_epi16(1 << 12)),
        _mm512_srli_epi16(index[2], 2), kSelect);
    index[3] = _mm512_ternarylogic_epi32(
        two_bits, _mm512_mulhi_epu16(index[0], _mm512_set1_epi16(1 << 10)), later, kSelect);
    for (int m = 0; m < INPUTS; m++) {
      const char* table =
          static_cast<const char*>(panel.tables) + m * panel.table_stride + g * kSextetTableBytes;
      for (int t = 0; t < 4; t++) {
        __m512i digits = _mm512_load_si512(table + 64 * t);
        IN_ORDER(digits);
        for (int s = 0; s < 2; s++) {
          __m512i& sum = bytes[m][s][t & 1];
          sum = _mm512_add_epi8(sum, _mm512_permutexvar_epi8(index[t / 2 * 2 + s], digits));
          if (INPUTS > 1) IN_ORDER(sum);
        }
      }
    }
  }
  for (int m = 0; m < INPUTS; m++)
    for (int s = 0; s < 2; s++)
      for (int d = 0; d < 2; d++) wide[m][s][d].add(bytes[m][s][d]);
}

template <int INPUTS>
static void add_sextets(const WidePanel& panel, int32_t* sums) {
  const __m512i zero = _mm512_setzero_si512();
  WideSums wide[INPUTS][2][2];
  for (int m = 0; m < INPUTS; m++)
    for (int s = 0; s < 2; s++) wide[m][s][0] = wide[m][s][1] = {zero, zero};
  int64_t g = 0;
  for (; g + kSextetByteRun <= panel.groups; g += kSextetByteRun) {
    LOOP_BEGIN("sextets-int8-%c0", INPUTS);
    add_run<INPUTS>(panel, g, kSextetByteRun, wide);
    LOOP_END("sextets-int8-%c0", INPUTS);
  }
  add_run<INPUTS>(panel, g, panel.groups - g, wide);
  for (int m = 0; m < INPUTS; m++)
    for (int s = 0; s < 2; s++) add_to_sums(wide[m][s], sums + kPanelRows * (2 * m + s));
}

static void sextet_sums(const WidePanel& panel, int32_t* sums) {
  if (panel.inputs == 1)
    add_sextets<1>(panel, sums);
  else
    add_sextets<2>(panel, sums);
}

static constexpr void set_sextets(Kernels& kernels) {
  kernels.sextet_tables = sextet_tables;
  kernels.sextet_sums = sextet_sums;
}
