// Float panel kernels of the triples layout (layout.h), for AVX-512F and BW. Included by isa_*.cpp
// inside its own namespace.
//
// vpermi2ps reads the low five bits of an index, so a number needs no mask, and a load two bytes
// further on takes the place of a shift by 16. What bounds the loop is the ports: on Zen 4 shuffles
// and shifts share two pipes of four, so that one shift of two is a multiplication's high half and
// one addition of two a fused multiply-add by 1, which other pipes take and which give the same.

static void triple_tables(const float* x, int64_t groups, float w_pos, float w_neg, void* tables) {
  // The numbers 0 to 26 whose digit i is 1, and those where it is 2.
  constexpr uint32_t kOneDigits[3] = {0x02492492, 0x00e07038, 0x0003fe00};
  constexpr uint32_t kTwoDigits[3] = {0x04924924, 0x070381c0, 0x07fc0000};
  __m512 level[3][2];
  for (int i = 0; i < 3; i++)
    for (int half = 0; half < 2; half++)
      level[i][half] = _mm512_mask_mov_ps(
          _mm512_maskz_mov_ps(static_cast<uint16_t>(kOneDigits[i] >> 16 * half),
                              _mm512_set1_ps(w_pos)),
          static_cast<uint16_t>(kTwoDigits[i] >> 16 * half), _mm512_set1_ps(-w_neg));
  float* table = static_cast<float*>(tables);
  for (int64_t t = 0; t < 6 * groups; t++, x += 3, table += 32) {
    const __m512 a = _mm512_set1_ps(x[0]), b = _mm512_set1_ps(x[1]), c = _mm512_set1_ps(x[2]);
    for (int half = 0; half < 2; half++) {
      const __m512 two = _mm512_fmadd_ps(b, level[1][half], _mm512_mul_ps(c, level[2][half]));
      _mm512_store_ps(table + 16 * half, _mm512_fmadd_ps(a, level[0][half], two));
    }
  }
}

template <int FIELD>
static inline __m512i triple_index(__m512i words) {
  if constexpr (FIELD == 0) return words;
  if constexpr (FIELD == 1) return _mm512_mulhi_epu16(words, _mm512_set1_epi16(1 << 11));
  return _mm512_srli_epi32(words, 10);
}

template <int INPUTS, int FIELD>
static inline void add_field(const __m512i words[4], const uint8_t* tables, int64_t table_stride,
                             __m512 one, __m512 sums[INPUTS][4]) {
  __m512i index[4];
  for (int v = 0; v < 4; v++) index[v] = triple_index<FIELD>(words[v]);
  for (int m = 0; m < INPUTS; m++) {
    const float* table = reinterpret_cast<const float*>(tables + m * table_stride);
    const __m512 low = _mm512_load_ps(table), high = _mm512_load_ps(table + 16);
    for (int v = 0; v < 4; v++) {
      const __m512 found = _mm512_permutex2var_ps(low, index[v], high);
      sums[m][v] = v & 1 ? _mm512_fmadd_ps(found, one, sums[m][v])
                         : _mm512_add_ps(sums[m][v], found);
      if (INPUTS > 1) IN_ORDER(sums[m][v]);
    }
  }
}

template <int INPUTS>
static inline void add_half(const uint8_t* codes, const uint8_t* tables, int64_t table_stride,
                            __m512 one, __m512 sums[INPUTS][4]) {
  __m512i words[4];
  for (int v = 0; v < 4; v++) {
    words[v] = _mm512_loadu_si512(codes + 64 * v);
    IN_ORDER(words[v]);  // else it would be loaded for each field; Zen 4 loads one such a cycle
  }
  add_field<INPUTS, 0>(words, tables, table_stride, one, sums);
  add_field<INPUTS, 1>(words, tables + 128, table_stride, one, sums);
  add_field<INPUTS, 2>(words, tables + 256, table_stride, one, sums);
}

template <int INPUTS>
static void add_triples(const WidePanel& panel, float* out) {
  __m512 sums[INPUTS][4];
  for (int m = 0; m < INPUTS; m++)
    for (int v = 0; v < 4; v++) sums[m][v] = _mm512_loadu_ps(out + kPanelRows * m + 16 * v);
  __m512 one = _mm512_set1_ps(1.0f);
  IN_ORDER(one);  // hides the 1, else compilers make the multiply-add an addition again
  const uint8_t* tables = static_cast<const uint8_t*>(panel.tables);
  const int64_t stride = panel.table_stride;
  for (int64_t g = 0; g < panel.groups; g++, tables += kTripleTableBytes) {
    LOOP_BEGIN("triples-fp32-%c0", INPUTS);
    const uint8_t* codes = panel.codes + g * kTripleBytes;
    for (int v = 0; v < 4; v++) __builtin_prefetch(panel.next + g * kTripleBytes + 64 * v);
    add_half<INPUTS>(codes, tables, stride, one, sums);
    add_half<INPUTS>(codes + 2, tables + 384, stride, one, sums);
    LOOP_END("triples-fp32-%c0", INPUTS);
  }
  for (int m = 0; m < INPUTS; m++)
    for (int v = 0; v < 4; v++) _mm512_storeu_ps(out + kPanelRows * m + 16 * v, sums[m][v]);
}

static void triple_sums(const WidePanel& panel, float* sums) {
  switch (panel.inputs) {
    case 1: return add_triples<1>(panel, sums);
    case 2: return add_triples<2>(panel, sums);
    case 3: return add_triples<3>(panel, sums);
    default: return add_triples<4>(panel, sums);
  }
}

// Adds float sums to float64 ones and clears them. (Compilers vectorize this.)
static void triple_totals(float* sums, int64_t count, double* totals) {
  for (int64_t i = 0; i < count; i++) totals[i] += static_cast<double>(sums[i]);
  for (int64_t i = 0; i < count; i++) sums[i] = 0;
}

static constexpr void set_triples(Kernels& kernels) {
  kernels.triple_tables = triple_tables;
  kernels.triple_sums = triple_sums;
  kernels.triple_totals = triple_totals;
}
