// The float panel kernel by vpshufb: 32 rows a vector. Included by isa_*.cpp inside its own namespace.
// The subset sums of a float group, one 16-byte plane for each byte of a float.
static void panel_tables_float(const float* x, int64_t groups, void* tables) {
  const __m128i by_byte =
      _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m128 zero = _mm_setzero_ps();
  for (int64_t g = 0; g < groups; g++) {
    const __m128 v = _mm_loadu_ps(x + 4 * g);
    const __m128 a = _mm_shuffle_ps(v, v, 0x00), b = _mm_shuffle_ps(v, v, 0x55);
    const __m128 c = _mm_shuffle_ps(v, v, 0xaa), d = _mm_shuffle_ps(v, v, 0xff);
    const __m128 low = _mm_add_ps(_mm_blend_ps(zero, a, 0xa), _mm_blend_ps(zero, b, 0xc));
    __m128i rows[4];
    rows[0] = _mm_castps_si128(low);
    rows[1] = _mm_castps_si128(_mm_add_ps(low, c));
    rows[2] = _mm_castps_si128(_mm_add_ps(low, d));
    rows[3] = _mm_castps_si128(_mm_add_ps(low, _mm_add_ps(c, d)));
    for (int h = 0; h < 4; h++) rows[h] = _mm_shuffle_epi8(rows[h], by_byte);
    const __m128i even0 = _mm_unpacklo_epi32(rows[0], rows[1]);
    const __m128i even1 = _mm_unpacklo_epi32(rows[2], rows[3]);
    const __m128i odd0 = _mm_unpackhi_epi32(rows[0], rows[1]);
    const __m128i odd1 = _mm_unpackhi_epi32(rows[2], rows[3]);
    __m128i* planes =
        reinterpret_cast<__m128i*>(static_cast<uint8_t*>(tables) + g * kPanelTableBytes);
    _mm_store_si128(planes + 0, _mm_unpacklo_epi64(even0, even1));
    _mm_store_si128(planes + 1, _mm_unpackhi_epi64(even0, even1));
    _mm_store_si128(planes + 2, _mm_unpacklo_epi64(odd0, odd1));
    _mm_store_si128(planes + 3, _mm_unpackhi_epi64(odd0, odd1));
  }
}

static inline __m256i table_plane(const void* tables, int64_t group, int plane) {
  const uint8_t* place = static_cast<const uint8_t*>(tables) + group * kPanelTableBytes;
  return _mm256_broadcastsi128_si256(
      _mm_load_si128(reinterpret_cast<const __m128i*>(place) + plane));
}

// Looks up 32 floats byte plane by byte plane; interleaving the planes makes floats again.
static inline void add_floats(const __m256i planes[4], __m256i index, __m256 sums[4]) {
  const __m256i b0 = _mm256_shuffle_epi8(planes[0], index);
  const __m256i b1 = _mm256_shuffle_epi8(planes[1], index);
  const __m256i b2 = _mm256_shuffle_epi8(planes[2], index);
  const __m256i b3 = _mm256_shuffle_epi8(planes[3], index);
  const __m256i low0 = _mm256_unpacklo_epi8(b0, b1), low1 = _mm256_unpackhi_epi8(b0, b1);
  const __m256i high0 = _mm256_unpacklo_epi8(b2, b3), high1 = _mm256_unpackhi_epi8(b2, b3);
  sums[0] = _mm256_add_ps(sums[0], _mm256_castsi256_ps(_mm256_unpacklo_epi16(low0, high0)));
  sums[1] = _mm256_add_ps(sums[1], _mm256_castsi256_ps(_mm256_unpackhi_epi16(low0, high0)));
  sums[2] = _mm256_add_ps(sums[2], _mm256_castsi256_ps(_mm256_unpacklo_epi16(low1, high1)));
  sums[3] = _mm256_add_ps(sums[3], _mm256_castsi256_ps(_mm256_unpackhi_epi16(low1, high1)));
}

// sums[v] holds rows 4v..4v+3 in its low and rows 16+4v..16+4v+3 in its high half.
static inline void store_floats(const __m256 sums[4], float* out) {
  for (int v = 0; v < 4; v++) {
    _mm_storeu_ps(out + 4 * v, _mm256_castps256_ps128(sums[v]));
    _mm_storeu_ps(out + 16 + 4 * v, _mm256_extractf128_ps(sums[v], 1));
  }
}

static void panel_float(const void* tables, const uint8_t* codes, int64_t groups, float* pos,
                        float* neg) {
  const __m256i nibble = _mm256_set1_epi8(15);
  for (int half = 0; half < kPanelRows; half += 32) {
    __m256 p[4] = {}, n[4] = {};
    for (int64_t g = 0; g < groups; g++) {
      LOOP_BEGIN("nibbles-fp32-%c0", 1);
      __builtin_prefetch(codes + g * kPanelRows + kPrefetchBytes);
      const __m256i code = _mm256_loadu_si256(
          reinterpret_cast<const __m256i*>(codes + g * kPanelRows + half));
      const __m256i planes[4] = {table_plane(tables, g, 0), table_plane(tables, g, 1),
                                 table_plane(tables, g, 2), table_plane(tables, g, 3)};
      add_floats(planes, _mm256_and_si256(code, nibble), p);
      add_floats(planes, _mm256_and_si256(_mm256_srli_epi16(code, 4), nibble), n);
      LOOP_END("nibbles-fp32-%c0", 1);
    }
    store_floats(p, pos + half);
    store_floats(n, neg + half);
  }
}
