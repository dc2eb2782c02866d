// Tables of the panel kernels that shuffle bytes, built with SSE.
// Included by isa_*.cpp inside its own namespace.

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

// Subset sums of an int16 group, offset to 0..1016 and split in two digits of five bits, so that
// eight of each add up in a byte.
constexpr int kSumOffset = 4 * kCodeLimit;
constexpr int kDigitRun = 8;

static void panel_tables_short(const int16_t* x, int64_t groups, void* tables) {
  const __m128i bias = _mm_set1_epi16(kSumOffset);
  const __m128i digit = _mm_set1_epi16(31);
  const __m128i pick_a = _mm_setr_epi16(0, -1, 0, -1, 0, -1, 0, -1);
  const __m128i pick_b = _mm_setr_epi16(0, 0, -1, -1, 0, 0, -1, -1);
  const __m128i pick_c = _mm_setr_epi16(0, 0, 0, 0, -1, -1, -1, -1);
  for (int64_t g = 0; g < groups; g++) {
    const int16_t* v = x + 4 * g;
    __m128i low = _mm_add_epi16(bias, _mm_and_si128(_mm_set1_epi16(v[0]), pick_a));
    low = _mm_add_epi16(low, _mm_and_si128(_mm_set1_epi16(v[1]), pick_b));
    low = _mm_add_epi16(low, _mm_and_si128(_mm_set1_epi16(v[2]), pick_c));
    const __m128i high = _mm_add_epi16(low, _mm_set1_epi16(v[3]));
    __m128i* planes =
        reinterpret_cast<__m128i*>(static_cast<uint8_t*>(tables) + g * kPanelTableBytes);
    _mm_store_si128(planes, _mm_packus_epi16(_mm_and_si128(low, digit),
                                             _mm_and_si128(high, digit)));
    _mm_store_si128(planes + 1,
                    _mm_packus_epi16(_mm_srli_epi16(low, 5), _mm_srli_epi16(high, 5)));
  }
}
