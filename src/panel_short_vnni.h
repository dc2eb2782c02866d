// The int8 panel kernel by vpdpbusd: eight rows a vector, four codes of a row an instruction.
// Included by isa_*.cpp inside its own namespace.
//
// Four byte columns (16 codes) of a row are brought together in one 32-bit lane; bit t of each byte
// then meets the four activations 4g + t, g = 0..3. It takes 18 instructions for the 128 codes that
// vpshufb does in 13, but no table and fewer shuffles.

constexpr int kQuad = 4;  // byte columns taken together

// "Tables" are the activations themselves: for each group its four bytes, with the rest of the
// table's room unused.
static void panel_tables_vnni(const int16_t* x, int64_t groups, void* tables) {
  for (int64_t g = 0; g < groups; g++) {
    int8_t* bytes = static_cast<int8_t*>(tables) + g * kPanelTableBytes;
    for (int t = 0; t < 4; t++) bytes[t] = static_cast<int8_t>(x[4 * g + t]);
  }
}

// The activations 4g + t of up to four groups as one 32-bit lane, repeated.
static inline __m256i activations(const void* tables, int64_t group, int64_t groups, int t) {
  int8_t bytes[kQuad] = {};
  for (int64_t g = 0; g < groups; g++)
    bytes[g] = static_cast<const int8_t*>(tables)[(group + g) * kPanelTableBytes + t];
  int32_t word;
  __builtin_memcpy(&word, bytes, sizeof word);
  return _mm256_set1_epi32(word);
}

static void panel_short_vnni(const void* tables, const uint8_t* codes, int64_t groups,
                             int32_t* pos, int32_t* neg) {
  const __m256i one = _mm256_set1_epi8(1);
  for (int half = 0; half < kPanelRows; half += 32) {
    __m256i p[4], n[4];
    for (int v = 0; v < 4; v++) p[v] = n[v] = _mm256_setzero_si256();
    for (int64_t first = 0; first < groups; first += kQuad) {
      const int64_t count = smaller(kQuad, groups - first);
      __m256i column[kQuad];
      for (int64_t g = 0; g < kQuad; g++)
        column[g] = g < count ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(
                                    codes + (first + g) * kPanelRows + half))
                              : _mm256_setzero_si256();
      const __m256i low0 = _mm256_unpacklo_epi8(column[0], column[1]);
      const __m256i high0 = _mm256_unpackhi_epi8(column[0], column[1]);
      const __m256i low1 = _mm256_unpacklo_epi8(column[2], column[3]);
      const __m256i high1 = _mm256_unpackhi_epi8(column[2], column[3]);
      const __m256i rows[4] = {
          _mm256_unpacklo_epi16(low0, low1), _mm256_unpackhi_epi16(low0, low1),
          _mm256_unpacklo_epi16(high0, high1), _mm256_unpackhi_epi16(high0, high1)};
      for (int t = 0; t < 4; t++) {
        const __m256i x = activations(tables, first, count, t);
        for (int v = 0; v < 4; v++) {
          const __m256i plus = _mm256_and_si256(_mm256_srli_epi32(rows[v], t), one);
          const __m256i minus = _mm256_and_si256(_mm256_srli_epi32(rows[v], t + 4), one);
          p[v] = DOT_BYTES(p[v], plus, x);
          n[v] = DOT_BYTES(n[v], minus, x);
        }
      }
    }
    // rows[v] holds rows 4v to 4v + 3 in its low and 16 + 4v to 16 + 4v + 3 in its high half.
    for (int v = 0; v < 4; v++) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(pos + half + 4 * v), _mm256_castsi256_si128(p[v]));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(pos + half + 16 + 4 * v),
                       _mm256_extracti128_si256(p[v], 1));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(neg + half + 4 * v), _mm256_castsi256_si128(n[v]));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(neg + half + 16 + 4 * v),
                       _mm256_extracti128_si256(n[v], 1));
    }
  }
}
